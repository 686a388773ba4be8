"""What `benchmarks.gpu` checks of whole trainings: optimizers, resuming, evaluating, packing, the command line."""

import copy
import json
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any
from unittest.mock import patch

import numpy as np
import torch
from torch import Tensor

from benchmarks import gpu_checks
from benchmarks.gpu_checks import Check, check_close, check_equal, relative_difference
from benchmarks.gpu_scale import Scale, failure, prepared
from data_prep.images.synthetic import synthesize_images
from data_prep.ratings.interactions import PreparedData
from data_prep.ratings.sampling import Sampler
from ncf_ppt import training as ncf
from ncf_ppt.batches import training_batches
from ncf_ppt.losses import loss_function
from ncf_ppt.model import NCF, NCFConfig
from ncf_ppt.optimizers import optimizer_factory
from ncf_ppt.packed.packing import pack
from ncf_ppt.packed.verification import verify_on_test_items
from ncf_ppt.ranking import rank_test_items
from ncf_ppt.scoring import scorer
from ncf_ppt.training_config import NCFTrainingConfig
from ppt_core import step_graph
from ppt_core.distributed import World
from ppt_core.runs.run import Run
from ppt_core.schedule import Constant, PhaseSchedule
from ppt_core.train import train_steps
from vision_ppt import training as vision
from vision_ppt.networks import NetworkConfig
from vision_ppt.packed import packing as vision_packing
from vision_ppt.packed import verification as vision_verification


def tiny() -> PreparedData:
    """Data to train on within seconds."""
    return prepared(300, 200, 6_000, n_negatives=40)


NETWORK = NCFConfig(factors=16, layers=(32, 64, 32, 16))


def losses_of(device: str, optimizer: Any, split: float, n_steps: int) -> tuple[Tensor, NCF]:
    """Losses of the first steps, and the network after them."""
    data = tiny()
    config = NCFTrainingConfig(batch_size=512, split=split, optimizer=optimizer, learning_rate=1e-3)
    model = ncf.new_model(data, NETWORK, config, device=device)
    sampler = Sampler(interactions=data.train)
    steps = train_steps(
        model,
        training_batches(sampler, config.batch_size, start=0, world=World(device=device)),
        loss_function("fp32", device),
        PhaseSchedule.split(n_steps, split, Constant(config.learning_rate)),
        optimizer_factory(config.optimizer, config.adam, device),
        world=World(device=device),
        record=True,
    )
    losses = torch.stack([step.loss.cpu() for step in steps])
    for table in model.tables():
        table.catch_up()
    return losses, model


def optimizers(scale: Scale) -> Iterator[Check]:
    """Both optimizers take a device where they take a CPU, in the first steps.

    Later ones cannot be compared: Adam's step for a gradient of almost 0 is little more than its sign, and a bit next
    to its threshold may fall on the other side. Two CPU trainings whose initial weights differ by one unit in the last
    place, or that differ in the optimizer alone, have losses that agree to 1.2e-7 over 30 steps and are up to .015
    apart after 100.
    """
    n_steps = 8 if scale.quick else 20
    for split in (1.0, 0.0):
        expected, reference = losses_of("cpu", "row-adam", split, n_steps)
        for optimizer in ("adam", "row-adam"):
            losses, model = losses_of(scale.device, optimizer, split, n_steps)
            pairs = zip(model.parameters(), reference.parameters(), strict=True)
            largest = max(relative_difference(found, wanted) for found, wanted in pairs)
            differences = {"losses": float((losses - expected).abs().max())}
            check = check_close(f"{optimizer}, {n_steps} steps, split {split:g}", differences, 1e-5)
            yield check | {"parameters differ by": float(f"{largest:.3g}")}


def resumed(scale: Scale) -> Iterator[Check]:
    """A training resumed on a device, and one that is not recorded, end with the bytes of the whole one."""
    data = tiny()
    n = 12 if scale.quick else 40
    for optimizer, arithmetic in (("adam", "fp32"), ("adam", "bf16"), ("row-adam", "fp32"), ("row-adam", "bf16")):
        options: Any = {"optimizer": optimizer, "arithmetic": arithmetic, "eval_every": 0.2}
        config = NCFTrainingConfig(iterations=n, batch_size=700, **options)
        fit = partial(ncf.fit_steps, data, model_config=NETWORK, config=config)
        yield from _resumed(f"{optimizer} {arithmetic}", fit, n, scale)
    images = synthesize_images(64, 32)
    n, batch_size = (5, 6) if scale.quick else (20, 24)
    for arithmetic in ("fp32", "bf16"):
        options = {"arithmetic": arithmetic, "eval_every": 0}
        settings = vision.VisionTrainingConfig(iterations=n, batch_size=batch_size, **options)
        fit = partial(vision.fit_steps, images, network_config=NetworkConfig(), config=settings)
        yield from _resumed(f"resnet20 {arithmetic}", fit, n, scale)


def _resumed(name: str, fit: Callable[..., Any], n: int, scale: Scale) -> Iterator[Check]:
    with TemporaryDirectory() as folder:
        whole, part, plain = (Path(folder) / kind for kind in ("whole", "part", "plain"))
        for _ in fit(whole, device=scale.device):
            pass
        for stop in (n // 3, n // 2 + 1):
            for progress in fit(part, device=scale.device, checkpoint_seconds=0, resume=part.exists()):
                if progress.iteration == stop:
                    break
        for _ in fit(part, device=scale.device, resume=True):
            pass
        with patch.object(step_graph, "_EAGER_STEPS", n):
            for _ in fit(plain, device=scale.device):
                pass
        bytes_of = {path.name: (path / "model.safetensors").read_bytes() for path in (whole, part, plain)}
    yield check_equal(f"resumed, {name}", bytes_of["part"], bytes_of["whole"])
    yield check_equal(f"recorded or not, {name}", bytes_of["plain"], bytes_of["whole"])


def evaluated_and_packed(scale: Scale) -> Iterator[Check]:
    """A network trained on a device ranks the same on both, and packs to the bits it has."""
    data = tiny()
    for model, split in (("neumf", 1.0), ("neumf", 0.5), ("mlp", 0.5), ("gmf", 1.0)):
        config = NCFTrainingConfig(iterations=60, batch_size=512, split=split, learning_rate=5e-3)
        with TemporaryDirectory() as folder:
            path = Path(folder) / "run"
            for _ in ncf.fit_steps(data, path, replace(NETWORK, model=model), config, device=scale.device):  # type: ignore[arg-type]
                pass
            run = Run.open(path)
            result = run.result().to_dict()
            on_cpu, on_device = (ncf.load_model(run, device=device) for device in ("cpu", scale.device))
        ranks = [rank_test_items(scorer(network), data) for network in (on_cpu, on_device)]
        hits = [each.hit_ratio() for each in ranks]
        differing = float(np.mean(ranks[0].above != ranks[1].above))
        name = f"{model}, split {split:g}"
        yield check_close(f"ranks on both, {name}", {"HR@10": abs(hits[0] - hits[1]), "ranks": differing}, 0.03)
        yield check_equal(f"metrics of the run, {name}", hits[1], result["hit_ratio"], hit_ratio=hits[1])
        if split < 1:
            packed = pack(on_cpu, user_ids=data.user_ids, item_ids=data.item_ids, protocol=data.protocol_label)
            yield {"row": f"packed, {name}", "ok": True, **verify_on_test_items(packed, on_cpu, data).to_dict()}


def images_checked(scale: Scale) -> Iterator[Check]:
    """ResNet-20 the same; and worker processes beside a GPU change nothing."""
    data = synthesize_images(*((40, 30) if scale.quick else (200, 100)))
    config = vision.VisionTrainingConfig(iterations=4 if scale.quick else 60, batch_size=16, eval_every=0)
    bytes_of = []
    for workers in (0, 2):
        with TemporaryDirectory() as folder:
            path = Path(folder) / "run"
            for _ in vision.fit_steps(data, path, NetworkConfig(), config, device=scale.device, workers=workers):
                pass
            bytes_of.append((path / "model.safetensors").read_bytes())
            run = Run.open(path)
            result = run.result().to_dict()
            on_cpu, on_device = (vision.load_model(run, device=device) for device in ("cpu", scale.device))
    yield check_equal("--workers 2 beside the device", bytes_of[1], bytes_of[0])
    accuracies = [
        vision.evaluate(n, data.test, data.normalization, device=d)["accuracy"]
        for n, d in ((on_cpu, "cpu"), (on_device, scale.device))
    ]
    yield check_close("accuracy on both", {"accuracy": abs(accuracies[0] - accuracies[1])}, 0.02)
    yield check_equal("accuracy of the run", accuracies[1], result["accuracy"], accuracy=accuracies[1])
    images = data.normalization(torch.from_numpy(data.test.images[:16]))
    packed = vision_packing.pack(copy.deepcopy(on_cpu))
    verification = vision_verification.verify(packed, on_cpu, images)
    yield {"row": "packed, resnet20", "ok": True, **verification.to_dict()}


def commands(scale: Scale) -> Iterator[Check]:
    """The command line trains an mlp on the device, evaluates it, and finds what the training found."""
    hits = []
    with TemporaryDirectory() as folder:
        data, run = Path(folder) / "data", Path(folder) / "run"
        tiny().save(data)
        options = ["--iterations", "20", "--batch-size", "512", "--model", "mlp", "--layers", "32,32,16"]
        for arguments in (["train", "--data", str(data), "--out", str(run), *options], ["evaluate", str(run)]):
            command = [sys.executable, "-m", "ppt_commands", *arguments, "--device", scale.device, "--json"]
            done = subprocess.run(command, capture_output=True, text=True, check=False)
            if done.returncode:
                raise RuntimeError(done.stderr.strip().splitlines()[-1])
            hits.append(json.loads(done.stdout)["hit_ratio"])
    yield check_equal("train and evaluate --model mlp --device", hits[1], hits[0], hit_ratio=hits[0])


PARTS: tuple[Callable[[Scale], Iterator[Check]], ...] = (
    gpu_checks.sampling,
    gpu_checks.operators,
    gpu_checks.rounding,
    optimizers,
    resumed,
    evaluated_and_packed,
    images_checked,
    commands,
)


def all_checks(scale: Scale) -> Iterator[Check]:
    """Every check; one that cannot be made has failed."""
    for part in PARTS:
        try:
            yield from part(scale)
        except Exception as error:
            yield {"row": part.__name__, "ok": False, **failure(error)}
