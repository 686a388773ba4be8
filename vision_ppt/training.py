"""Train an image network on a prepared set into a run folder, and read it back."""

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, get_args

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from data_prep.images.image_arrays import ImageArray, PreparedImages
from data_prep.images.image_files import ImageFiles, PreparedFolders
from data_prep.images.normalization import Normalization
from ppt_core.distributed import World
from ppt_core.identity import data_record
from ppt_core.layers import alpha_penalty
from ppt_core.plan import convert
from ppt_core.runs import fit as core
from ppt_core.runs.arithmetic import (
    ArithmeticChoice,
    Wanted,
    choose_arithmetic,
    convolution_product,
    settle_arithmetic,
)
from ppt_core.runs.checkpoint import load_trained
from ppt_core.runs.config import TrainingConfig
from ppt_core.runs.run import Run
from ppt_core.runs.task import Task
from ppt_core.schedule import batches_per_epoch
from vision_ppt.accuracy import measure_accuracy
from vision_ppt.batches import evaluation_batches, training_batches
from vision_ppt.networks import NetworkConfig, build_network
from vision_ppt.recipes import RECIPES, Annealing, Recipe, RecipeName
from vision_ppt.resnet import ResNet
from vision_ppt.sampling import ImageBatch, evaluation_sampler, training_sampler
from vision_ppt.vgg import VGG

_IMAGES_PER_EVALUATION = 250


@dataclass(frozen=True, kw_only=True)
class VisionTrainingConfig(TrainingConfig):
    """How the network is trained. The defaults are He et al.'s recipe for CIFAR-10 and split 0.5.

    An epoch is one pass over the training images, each changed at random. Its last batch holds the rest; a rest of
    one image joins the batch before it.

    Attributes:
        recipe: momentum, weight decay, milestones and warm-up, see `vision_ppt.recipes`.
        learning_rate: the highest one.
        annealing: how it falls: as the recipe says (``step``), along a ``cosine`` or not at all (``constant``).
        image_size: height and width of what image files are cropped to; arrays have their own.
        arithmetic: of the convolutions and the last layer: ``fp32``, or ``bf16`` by autocast; ``auto`` takes the
            faster, as `ppt_core.runs.arithmetic.choose_arithmetic` says.
    """

    recipe: RecipeName = "cifar"
    epochs: float = RECIPES["cifar"].epochs
    batch_size: int = RECIPES["cifar"].batch_size
    learning_rate: float = RECIPES["cifar"].learning_rate
    annealing: Annealing = "step"
    image_size: int = 224
    arithmetic: Wanted = "fp32"

    @classmethod
    def of(cls, recipe: RecipeName, **settings: Any) -> "VisionTrainingConfig":
        """Take epochs, batch size and learning rate from the recipe where ``settings`` has none, or None."""
        given = {name: value for name, value in settings.items() if value is not None}
        usual = {name: getattr(RECIPES[recipe], name) for name in ("epochs", "batch_size", "learning_rate")}
        return cls(recipe=recipe, **{**usual, **given})

    def compressible_recipe(self) -> Recipe:
        """The recipe with the values of this config."""
        values = {name: getattr(self, name) for name in ("epochs", "batch_size", "learning_rate", "annealing")}
        return replace(RECIPES[self.recipe], **values)

    def _rules(self) -> list[tuple[str, bool, str]]:
        return [
            *super()._rules(),
            ("recipe", self.recipe in RECIPES, f"one of {', '.join(RECIPES)}"),
            ("learning_rate", 0 < self.learning_rate < math.inf, "above 0"),
            ("annealing", self.annealing in get_args(Annealing), f"one of {', '.join(get_args(Annealing))}"),
            ("image_size", self.image_size >= 1, "at least 1"),
            ("arithmetic", self.arithmetic in get_args(Wanted), "auto, fp32 or bf16"),
        ]


def fit_steps(
    data: PreparedImages | PreparedFolders,
    path: Path | str,
    network_config: NetworkConfig,
    config: VisionTrainingConfig,
    *,
    resume: bool = False,
    device: str = "cpu",
    workers: int = 0,
    checkpoint_seconds: float = 60,
    world: World | None = None,
    first_phase: Run | None = None,
) -> Iterator[core.Progress]:
    """Train into the run folder ``path``, yielding after every iteration; see `ppt_core.runs.fit.fit`.

    Convolutions of PyTorch add in an order that depends on the number of threads: the same bytes take the same one.

    Args:
        data: what to train and evaluate on.
        path: a new run folder; with ``resume`` an existing one, whose configs must equal these.
        network_config: the network.
        config: the recipe.
        resume: go on from the last checkpoint of ``path``.
        device: where to train.
        workers: processes that draw batches ahead, see `vision_ppt.batches.draw_blocks`.
        checkpoint_seconds: least time between two checkpoints.
        world: the processes that train together (`ppt_core.distributed.join_world`); it then says the device.
        first_phase: a finished run to take the first phase from, see `ppt_core.runs.fit.fit`.

    Raises `DataError` for an existing ``path`` without ``resume`` and for an image that cannot be read, and
    ValueError for settings that do not fit the data or each other.
    """
    world = world or World(device=device)
    device = world.device
    network = new_model(data, network_config, config, device=device)
    choose = partial(faster_arithmetic, data, network, config, device)
    choice = settle_arithmetic(config.arithmetic, Path(path), world, choose, resume=resume)
    config = replace(config, arithmetic=choice.arithmetic)  # one run has one, wherever resumed
    sampler = training_sampler(data, seed=config.seed, image_size=config.image_size)

    def measure(images: ImageArray | ImageFiles) -> dict[str, Any]:
        return evaluate(
            network, images, data.normalization, image_size=config.image_size, device=device, workers=workers
        )

    recipe = config.compressible_recipe()
    task = Task(
        model=network,
        batches=lambda start: training_batches(sampler, config.batch_size, start=start, workers=workers, world=world),
        loss=loss_function(data.normalization, config.arithmetic, device),
        make_optimizer=recipe.make_optimizer,
        learning_rate=recipe.schedule(),
        evaluate=lambda: world.agree(lambda: measure(data.test)),
        validate=None if (held_out := data.validation) is None else lambda: world.agree(lambda: measure(held_out)),
        record=True,
        metric="accuracy",
        iterations_per_epoch=batches_per_epoch(sampler.samples_per_epoch, config.batch_size),
        samples_per_epoch=sampler.samples_per_epoch,
        settings={
            "kind": "vision",
            "network": network_config.to_dict(),
            "data": data_record(data),
            **choice.record,
        },
        result={
            "network": network_config.network,
            "n_classes": data.n_classes,
            "precision": config.arithmetic,
            **choice.record,
        },
        events={
            "submission_benchmark": network_config.network,
            "seed": config.seed,
            "global_batch_size": config.batch_size,
            "train_samples": sampler.samples_per_epoch,
            "eval_samples": len(data.test),
            "opt_name": "sgd",
            "opt_base_learning_rate": config.learning_rate,
            "sgd_opt_momentum": recipe.momentum,
            "sgd_opt_weight_decay": recipe.weight_decay,
        },
    )
    return core.fit(
        task,
        Path(path),
        config,
        resume=resume,
        checkpoint_seconds=checkpoint_seconds,
        world=world,
        first_phase=first_phase,
    )


def faster_arithmetic(
    data: PreparedImages | PreparedFolders, network: nn.Module, config: VisionTrainingConfig, device: str
) -> ArithmeticChoice:
    """What ``config`` asks for, or for ``auto`` the faster by the largest convolution, see `choose_arithmetic`."""
    height, width = data.train.images.shape[1:3] if isinstance(data, PreparedImages) else 2 * (config.image_size,)
    images = torch.zeros(config.batch_size if config.arithmetic == "auto" else 1, 3, height, width, device=device)
    return choose_arithmetic(config.arithmetic, device, convolution_product(network, images))


def evaluate(
    network: nn.Module,
    images: ImageArray | ImageFiles,
    normalization: Normalization,
    *,
    image_size: int = 224,
    device: str = "cpu",
    workers: int = 0,
) -> dict[str, Any]:
    """Measure a network on all of ``images``; see `vision_ppt.accuracy.measure_accuracy`."""
    sampler = evaluation_sampler(images, image_size=image_size)
    batches = evaluation_batches(sampler, _IMAGES_PER_EVALUATION, workers=workers)
    return measure_accuracy(network, batches, normalization, device=device)


def new_model(
    data: PreparedImages | PreparedFolders,
    network_config: NetworkConfig,
    config: VisionTrainingConfig,
    *,
    device: str = "cpu",
) -> ResNet | VGG:
    """Build the network with its initial weights, switchable unless it trains at full precision throughout.

    Raises ValueError if it has not a logit for each class, or the images are too small for it.
    """
    if network_config.n_classes != data.n_classes:
        raise ValueError(f"n_classes is {network_config.n_classes} and the images have {data.n_classes} classes")
    size = min(data.train.images.shape[1:3]) if isinstance(data, PreparedImages) else config.image_size
    if network_config.network == "vgg16" and size < 32:
        raise ValueError(f"the images have a side of {size}; vgg16 needs 32 or more")
    network = build_network(network_config, seed=config.seed)
    if config.split < 1:
        convert(network)
    return network.to(device)


def load_model(run: Run, *, device: str = "cpu") -> ResNet | VGG:
    """Load the trained network of a finished run; see `ppt_core.runs.checkpoint.load_trained`."""
    return load_trained(run, "vision", _built, device=device)


def _built(groups: Mapping[str, Any]) -> ResNet | VGG:
    return build_network(NetworkConfig(**groups["network"]), seed=0)


def loss_function(
    normalization: Normalization, arithmetic: str, device: str
) -> Callable[[nn.Module, ImageBatch], Tensor]:
    """Mean cross-entropy of the logits, and the penalty on alpha where precision is low."""

    def loss(model: nn.Module, batch: ImageBatch) -> Tensor:
        images = normalization(batch.images.to(device))
        with torch.autocast(torch.device(device).type, dtype=torch.bfloat16, enabled=arithmetic == "bf16"):
            logits = model(images)
        return F.cross_entropy(logits.float(), batch.labels.to(device)) + alpha_penalty(model)

    return loss
