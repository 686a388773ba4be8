import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from data_prep.images.image_arrays import ImageArray, PreparedImages
from data_prep.images.normalization import Normalization
from ppt_core.errors import DataError
from ppt_core.layers import BinaryActivation
from ppt_core.runs.run import Run
from ppt_core.train import AtSwitch
from tests import reference
from vision_ppt.accuracy import measure_accuracy
from vision_ppt.networks import NetworkConfig
from vision_ppt.recipes import RecipeName
from vision_ppt.sampling import ImageBatch
from vision_ppt.training import VisionTrainingConfig, evaluate, fit_steps, load_model, new_model

TIMES = ("seconds", "samples_per_second", "phases")
NETWORK = NetworkConfig(network="resnet20", n_classes=3)
N_TEST = 400


def colored(n: int, seed: int) -> ImageArray:
    """Images of 8x8 that are reddish, greenish or bluish."""
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, 3, n)
    images = rng.integers(0, 150, (n, 8, 8, 3), np.uint8)
    images[np.arange(n), :, :, labels] += np.uint8(80)
    return ImageArray(images=images, labels=labels)


def prepared() -> PreparedImages:
    train = colored(50, 0)
    return PreparedImages(
        train=train,
        test=colored(N_TEST, 1),
        class_names=("red", "green", "blue"),
        normalization=Normalization.of(train.images),
        manifest={"sha256": "0" * 64},
    )


@pytest.fixture(scope="module")
def data() -> PreparedImages:
    return prepared()


def config(**changes: Any) -> VisionTrainingConfig:
    return VisionTrainingConfig(**{"epochs": 2, "batch_size": 16, **changes})


def train(data: PreparedImages, path: Path, settings: VisionTrainingConfig, **options: Any) -> bytes:
    for _ in fit_steps(data, path, NETWORK, settings, **options):
        pass
    return (path / "model.safetensors").read_bytes()


def without_times(path: Path) -> list[dict[str, Any]]:
    return [{key: line[key] for key in line if key not in TIMES} for line in Run.open(path).metrics()]


@pytest.mark.parametrize(("split", "precisions"), [(1.0, ["full"]), (0.5, ["full", "low"]), (0.0, ["low"])])
def test_learns_and_is_read_back(data: PreparedImages, tmp_path: Path, split: float, precisions: list[str]) -> None:
    train(data, tmp_path / "run", config(split=split, epochs=12, eval_every=0))
    run = Run.open(tmp_path / "run")
    result = run.result().to_dict()
    assert reference.above_chance(result["accuracy"] * N_TEST, N_TEST, 1 / 3)
    assert [phase["precision"] for phase in result["phases"]] == precisions
    assert (result["iterations"], result["epochs"], result["n_images"]) == (48, 12, N_TEST)  # 50 images: 16, 16, 16, 2
    network = load_model(run)
    assert evaluate(network, data.test, data.normalization)["accuracy"] == result["accuracy"]
    low = {module.precision for module in network.modules() if isinstance(module, BinaryActivation)}
    assert low == (set() if split == 1 else {"low"})


@pytest.mark.parametrize(
    ("stop", "at_switch", "recipe"), [(4, "keep", "cifar"), (6, "reset", "cifar"), (6, "keep", "imagenet")]
)
def test_resumes_bit_for_bit(
    data: PreparedImages, tmp_path: Path, stop: int, at_switch: AtSwitch, recipe: RecipeName
) -> None:
    settings = config(iterations=8, eval_every=0.5, at_switch=at_switch, recipe=recipe)
    whole = train(data, tmp_path / "whole", settings)
    for progress in fit_steps(data, tmp_path / "part", NETWORK, settings, checkpoint_seconds=0):
        if progress.iteration == stop:
            break
    assert not Run.open(tmp_path / "part").finished
    assert train(data, tmp_path / "part", settings, resume=True) == whole
    assert without_times(tmp_path / "part") == without_times(tmp_path / "whole")


def test_refuses_to_resume_with_other_settings(data: PreparedImages, tmp_path: Path) -> None:
    train(data, tmp_path / "run", config(iterations=1))
    with pytest.raises(DataError, match=r"was started with batch_size = 16, not 32; resume with the same settings"):
        train(data, tmp_path / "run", config(iterations=1, batch_size=32), resume=True)
    with pytest.raises(DataError, match="already exists"):
        train(data, tmp_path / "run", config(iterations=1))


def test_logs_what_mlperf_names(data: PreparedImages, tmp_path: Path) -> None:
    train(data, tmp_path / "run", config(epochs=1, threshold=0.0001))
    lines = (tmp_path / "run" / "mlperf.log").read_text().splitlines()
    events = {event["key"]: event["value"] for event in (json.loads(line.removeprefix(":::MLLOG ")) for line in lines)}
    assert events["global_batch_size"] == 16
    assert events["sgd_opt_weight_decay"] == 1e-4
    assert events["eval_accuracy"] == Run.open(tmp_path / "run").result().metrics["accuracy"]
    assert Run.open(tmp_path / "run").result().threshold_reached is True


def test_bf16_trains_and_says_so(data: PreparedImages, tmp_path: Path) -> None:
    train(data, tmp_path / "run", config(iterations=2, arithmetic="bf16"))
    assert Run.open(tmp_path / "run").result().metrics["precision"] == "bf16"


def test_a_diverged_training_is_an_error(data: PreparedImages, tmp_path: Path) -> None:
    with pytest.raises((DataError, ValueError), match="diverged"):
        train(data, tmp_path / "run", config(learning_rate=1e30, annealing="constant"))


def test_values_come_from_the_recipe_unless_given() -> None:
    settings = VisionTrainingConfig.of("imagenet", epochs=2.0, batch_size=None, split=0.25)
    assert (settings.epochs, settings.batch_size, settings.learning_rate, settings.split) == (2, 1024, 0.4, 0.25)
    recipe = settings.compressible_recipe()
    assert (recipe.epochs, recipe.warm_up, recipe.decays_batch_norm) == (2, 5 / 90, False)
    assert VisionTrainingConfig() == VisionTrainingConfig.of("cifar")


@pytest.mark.parametrize(
    "bad",
    [
        {"split": 1.5},
        {"epochs": 0},
        {"batch_size": 1},
        {"learning_rate": 0},
        {"annealing": "linear"},
        {"recipe": "mnist"},
        {"image_size": 0},
        {"arithmetic": "fp8"},
    ],
)
def test_refuses_settings_in_one_line(bad: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=f"^{next(iter(bad))} is .*; it must be ") as caught:
        config(**bad)
    assert "\n" not in str(caught.value)


def test_refuses_networks_that_do_not_fit(data: PreparedImages) -> None:
    with pytest.raises(ValueError, match="n_classes is 10 and the images have 3 classes"):
        new_model(data, NetworkConfig(), config())
    with pytest.raises(ValueError, match="the images have a side of 8; vgg16 needs 32 or more"):
        new_model(data, NetworkConfig(network="vgg16", n_classes=3), config())


class _Fixed(torch.nn.Module):
    """Gives image number i the logits of row i, whatever the image."""

    def __init__(self, logits: torch.Tensor) -> None:
        super().__init__()
        self.logits = logits

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return self.logits[: len(images)]


def accuracy_of(logits: list[list[float]], labels: list[int]) -> float:
    batch = ImageBatch(torch.zeros(len(labels), 4, 4, 3, dtype=torch.uint8), torch.tensor(labels))
    normalization = Normalization(mean=(0, 0, 0), deviation=(1, 1, 1))
    found: float = measure_accuracy(_Fixed(torch.tensor(logits)), [batch], normalization)["accuracy"]
    return found


def test_accuracy_counts_by_hand() -> None:
    logits = [[1.0, 2.0, 3.0], [3.0, 2.0, 1.0], [2.0, 5.0, 1.0], [0.0, -1.0, -2.0]]
    assert accuracy_of(logits, [2, 0, 1, 0]) == 1
    assert accuracy_of(logits, [2, 1, 1, 2]) == 0.5
    assert accuracy_of([[0.0, 0.0, 0.0]] * 4, [0, 1, 2, 0]) == 0  # the same of every class: nothing is recognized
    assert accuracy_of([[1.0, 1.0, 0.0], [2.0, 1.0, 1.0]], [0, 0]) == 0.5
    with pytest.raises(DataError, match="not numbers; training has diverged"):
        accuracy_of([[float("nan"), 1.0, 0.0]], [1])
