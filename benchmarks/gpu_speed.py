"""The speeds that `benchmarks.gpu` measures: each function yields rows of its part as they are done."""

import statistics
import time
from collections.abc import Callable, Iterator
from itertools import islice, product, repeat
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from benchmarks.gpu_scale import Row, Scale, failure, prepared
from data_prep.images.image_arrays import ImageArray, PreparedImages
from data_prep.images.normalization import Normalization
from data_prep.images.synthetic import synthesize_images
from data_prep.ratings.interactions import PreparedData
from data_prep.ratings.sampling import Sampler
from ncf_ppt.batches import training_batches
from ncf_ppt.device_sampler import DeviceSampler
from ncf_ppt.losses import loss_function
from ncf_ppt.model import NCFConfig
from ncf_ppt.optimizers import optimizer_factory
from ncf_ppt.training import new_model
from ncf_ppt.training_config import NCFTrainingConfig
from ppt_core.device import plain_operations
from ppt_core.distributed import World
from ppt_core.runs.run import Run
from ppt_core.schedule import Constant, PhaseSchedule
from ppt_core.train import TrainStep, train_steps
from vision_ppt import batches as image_batches
from vision_ppt import training as vision
from vision_ppt.networks import NetworkConfig
from vision_ppt.sampling import ImageBatch, training_sampler

_ENDLESS = 10**9  # iterations of a schedule that nobody reaches the end of
_SPLITS = {"full": 1.0, "low": 0.0}


def rates_of(work: Callable[[], Any], n_each: int, scale: Scale) -> Row:
    """Median over windows of how many of ``n_each`` things a second are done, and the lowest and the highest."""
    scale.synchronize()
    start = time.perf_counter()
    work()
    scale.synchronize()
    repetitions = max(1, round(scale.window_seconds / (time.perf_counter() - start)))
    rates = []
    for _ in range(scale.windows):
        start = time.perf_counter()
        for _ in range(repetitions):
            work()
        scale.synchronize()
        rates.append(n_each * repetitions / (time.perf_counter() - start))
    return {"per_second": statistics.median(rates), "lowest": min(rates), "highest": max(rates)}


def measured_memory(scale: Scale) -> Row:
    """Peak memory of the GPU in MB since `forget_memory`."""
    return {} if scale.device == "cpu" else {"peak_mb": round(torch.cuda.max_memory_allocated() / 1e6)}


def forget_memory(scale: Scale) -> None:
    """Give back what the row before held."""
    if scale.device != "cpu":
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()


def machine(scale: Scale) -> Iterator[Row]:
    """What the machine is, and what it can do: the two ceilings of any step."""
    n = 64 if scale.quick else 8192
    source = torch.randn(n, n, device=scale.device)
    target = torch.empty_like(source)
    yield {"row": "copy, bytes read and written", **rates_of(lambda: target.copy_(source), 8 * n * n, scale)}
    for name, matrix in (("bf16", source.bfloat16()), ("fp32", source)):
        yield {"row": f"matrix product {name}, flop", **rates_of(lambda m=matrix: m @ m, 2 * n**3, scale)}  # type: ignore[misc]


def compile_network(network: nn.Module, scale: Scale) -> nn.Module:
    """The network through torch.compile; in a quick run itself, since that takes a minute."""
    return network if scale.quick else torch.compile(network, dynamic=False)  # type: ignore[return-value]


def ncf_steps(
    data: PreparedData, config: NCFTrainingConfig, scale: Scale, *, record: bool = True, compiled: bool = False
) -> Iterator[TrainStep]:
    """Steps of NeuMF at the first precision of ``config``, without end, as `ncf_ppt.training.fit_steps` takes them."""
    model = new_model(data, NCFConfig(), config, device=scale.device)
    sampler = Sampler(interactions=data.train, n_negatives=config.n_negatives, seed=config.seed)
    loss = loss_function(config.arithmetic, scale.device)
    forward = compile_network(model, scale) if compiled else model
    return train_steps(
        model,
        training_batches(sampler, config.batch_size, start=0, world=World(device=scale.device)),
        lambda model, batch: loss(forward, batch),
        PhaseSchedule.split(_ENDLESS, config.split, Constant(config.learning_rate)),
        optimizer_factory(config.optimizer, config.adam, scale.device),
        world=World(device=scale.device),
        record=record,
    )


def neumf(scale: Scale) -> Iterator[Row]:
    """NeuMF's samples/s, drawn on the device, at MovieLens-20M's shape."""
    data = prepared(*scale.shape)
    sampler = Sampler(interactions=data.train)
    n_drawn = min(sampler.samples_per_epoch, 1 << 22)
    for name, draw in (("processor", sampler.draw), ("device", DeviceSampler(sampler, scale.device).draw)):
        yield {"row": f"samples drawn by the {name}", **rates_of(lambda d=draw: d(0, 0, n_drawn), n_drawn, scale)}  # type: ignore[misc]
    ways = [
        (batch_size, precision, arithmetic, "adam", True)
        for batch_size, arithmetic, precision in product(scale.batch_sizes[::-1], ("bf16", "fp32"), _SPLITS)
    ]
    ways += [(size, precision, "bf16", "adam", False) for size in scale.batch_sizes for precision in _SPLITS]
    ways += [(size, precision, "fp32", "row-adam", True) for size in scale.batch_sizes for precision in _SPLITS]
    for batch_size, precision, arithmetic, optimizer, record in ways:
        row: Row = {"batch_size": batch_size, "precision": precision, "arithmetic": arithmetic, "optimizer": optimizer}
        row["recorded"] = record and optimizer == "adam"
        forget_memory(scale)
        try:
            config = ncf_config(batch_size, precision, arithmetic, optimizer)
            steps = ncf_steps(data, config, scale, record=record)
            for _ in islice(steps, scale.n_first):
                pass
            yield row | rates_of(lambda s=steps: next(s), batch_size, scale) | measured_memory(scale)  # type: ignore[misc]
        except Exception as error:
            yield row | failure(error)
        steps = iter(())


def profile(scale: Scale) -> Iterator[Row]:
    """Where the time of a step goes: its longest kernels."""
    is_cpu = scale.device == "cpu"

    def seconds(event: Any) -> float:
        return float(event.self_cpu_time_total if is_cpu else event.self_device_time_total)

    data = prepared(*scale.shape)
    for batch_size, precision in product(scale.batch_sizes[::-1], _SPLITS):
        steps = ncf_steps(data, ncf_config(batch_size, precision, "bf16", "adam"), scale, record=False)
        for _ in islice(steps, 5):
            pass
        n_steps = 1 if scale.quick else 5
        with torch.profiler.profile() as profiler:
            for _ in islice(steps, n_steps):
                pass
            scale.synchronize()
        # Operators that launched a kernel carry its time, too.
        events = [e for e in profiler.key_averages() if is_cpu == e.device_type.name.startswith("CPU")]
        longest = sorted(events, key=seconds, reverse=True)[:18]
        kernels = {event.key[:90]: [round(seconds(event) / n_steps, 1), event.count // n_steps] for event in longest}
        yield {"row": f"batch {batch_size:,} {precision} bf16", "microseconds_and_calls": kernels}


def ncf_config(batch_size: int, precision: str, arithmetic: Any, optimizer: Any) -> NCFTrainingConfig:
    """The recipe at one precision throughout."""
    return NCFTrainingConfig(
        batch_size=batch_size, split=_SPLITS[precision], arithmetic=arithmetic, optimizer=optimizer
    )


def cifar(scale: Scale, file: Path | None) -> PreparedImages:
    """CIFAR-10's shape: images of the file, or drawn ones."""
    if file is None:
        return synthesize_images(*((64, 32) if scale.quick else (50_000, 10_000)))
    with np.load(file, allow_pickle=False) as arrays:
        train, test = (ImageArray(images=arrays[f"{part}_images"], labels=arrays[f"{part}_labels"].astype(np.int64))
                       for part in ("train", "test"))  # fmt: skip
    names = tuple(str(number) for number in range(int(train.labels.max()) + 1))
    return PreparedImages(
        train=train, test=test, class_names=names, normalization=Normalization.of(train.images), manifest={}
    )


def vision_steps(
    data: PreparedImages,
    config: vision.VisionTrainingConfig,
    scale: Scale,
    batches: Any,
    *,
    record: bool,
    compiled: bool,
) -> Iterator[TrainStep]:
    """Steps of ResNet-20 at one precision, without end, as `vision_ppt.training.fit_steps` takes them."""
    network = vision.new_model(data, NetworkConfig(n_classes=data.n_classes), config, device=scale.device)
    loss = vision.loss_function(data.normalization, config.arithmetic, scale.device)
    recipe = config.compressible_recipe()
    called: nn.Module = compile_network(network, scale) if compiled else network

    def loss_of(model: nn.Module, batch: Any) -> Tensor:
        return loss(called, batch)

    schedule = PhaseSchedule.split(_ENDLESS, config.split, Constant(1e-3))
    return train_steps(
        network, batches, loss_of, schedule, recipe.make_optimizer, world=World(device=scale.device), record=record
    )


def resnet(scale: Scale, file: Path | None, *, compiled: bool) -> Iterator[Row]:
    """ResNet-20's images/s: fed by the processor, and from one batch that lies on the device."""
    data = cifar(scale, file)
    sampler = training_sampler(data, seed=0)
    sizes = (16,) if scale.quick else (1024,) if compiled else (128, 1024)
    feeds = ("device",) if compiled else ("device", "processor")
    for batch_size, arithmetic, precision, feed in product(sizes, ("bf16", "fp32"), _SPLITS, feeds):
        for record in (True, False):
            row: Row = {"batch_size": batch_size, "precision": precision, "arithmetic": arithmetic, "fed_by": feed}
            row |= {"recorded": record, "compiled": compiled}
            forget_memory(scale)
            try:
                options: Any = {"batch_size": batch_size, "arithmetic": arithmetic, "split": _SPLITS[precision]}
                config = vision.VisionTrainingConfig(**options)
                drawn: Iterator[ImageBatch] = image_batches.training_batches(sampler, batch_size)
                if feed == "device":
                    drawn = repeat(ImageBatch(*(tensor.to(scale.device) for tensor in next(drawn))))
                steps = vision_steps(data, config, scale, drawn, record=record, compiled=compiled)
                for _ in islice(steps, scale.n_first):
                    pass
                yield row | rates_of(lambda s=steps: next(s), batch_size, scale) | measured_memory(scale)  # type: ignore[misc]
            except Exception as error:
                yield row | failure(error)
            steps = iter(())
            if feed == "processor":
                break


def compiled_neumf(scale: Scale) -> Iterator[Row]:
    """NeuMF at the largest batch through torch.compile."""
    data = prepared(*scale.shape)
    for precision in _SPLITS:
        row: Row = {"batch_size": scale.batch_sizes[-1], "precision": precision, "arithmetic": "bf16", "compiled": True}
        forget_memory(scale)
        try:
            config = ncf_config(scale.batch_sizes[-1], precision, "bf16", "adam")
            steps = ncf_steps(data, config, scale, record=False, compiled=True)
            for _ in islice(steps, scale.n_first):
                pass
            yield row | rates_of(lambda s=steps: next(s), config.batch_size, scale) | measured_memory(scale)  # type: ignore[misc]
        except Exception as error:
            yield row | failure(error)
        steps = iter(())


def compiled(scale: Scale, file: Path | None) -> Iterator[Row]:
    """Both networks through torch.compile."""
    with plain_operations():  # what a GPU has, also where a CPU stands in for it
        yield from resnet(scale, file, compiled=True)
        yield from compiled_neumf(scale)


def study(scale: Scale, file: Path | None) -> Iterator[Row]:
    """Three trials of each technique with ResNet-20, a few epochs long."""
    data = cifar(scale, file)
    epochs = 1 if scale.quick else 3
    for seed, split in product(range(1 if scale.quick else 3), (1.0, 0.5, 0.0)):
        config = vision.VisionTrainingConfig(epochs=epochs, batch_size=128, split=split, seed=seed, arithmetic="bf16")
        with TemporaryDirectory() as folder:
            path = Path(folder) / "run"
            network = NetworkConfig(n_classes=data.n_classes)
            for _ in vision.fit_steps(data, path, network, config, device=scale.device):
                pass
            result = Run.open(path).result().to_dict()
        kept = ("accuracy", "seconds", "samples_per_second", "epochs")
        yield {"row": f"split {split:g}, seed {seed}", **{key: result[key] for key in kept}}
