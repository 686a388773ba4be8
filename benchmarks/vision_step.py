"""Training ResNet-20 on 32x32 images: this project against plain PyTorch with a transform for each image, in one run.

    python -m benchmarks.vision_step

The rows take turns, and every figure is the median over the turns of the mean of their steps. All train the same
network with SGD and momentum on batches of the same synthetic images, padded, cropped, mirrored and normalized:

  plain  a DataLoader that changes one image at a time, as torchvision's transforms do, then the usual loop, at full
         precision and with 1-bit layers simulated by PyTorch's own operations
  ppt    this project, full and low precision, fp32 and bf16
"""

import os

from benchmarks.provenance import document
from ppt_core.environment import ENVIRONMENT

os.environ.update({**ENVIRONMENT, **os.environ})

import math
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import nullcontext

import click
import numpy as np
import torch
from PIL import Image, ImageOps
from torch import Tensor, nn
from torch.nn import functional as F

from data_prep.images.image_arrays import PreparedImages
from data_prep.images.synthetic import synthesize_images
from ppt_core.device import plain_operations
from ppt_core.layers import alpha_penalty, clamp_alphas, set_precision
from vision_ppt.batches import training_batches
from vision_ppt.networks import NetworkConfig
from vision_ppt.sampling import ImageBatch, training_sampler
from vision_ppt.training import VisionTrainingConfig, loss_function, new_model

ROWS = ("plain full", "plain low", "ppt full fp32", "ppt low fp32", "ppt full bf16", "ppt low bf16")


class TransformedImages(torch.utils.data.Dataset[tuple[Tensor, int]]):
    """One image at a time, as torchvision's transforms do it: Pillow pads by four, crops and mirrors; to float."""

    def __init__(self, data: PreparedImages) -> None:
        self.images, self.labels = data.train.images, data.train.labels
        self.mean, self.deviation = (
            torch.tensor(values).view(3, 1, 1) for values in (data.normalization.mean, data.normalization.deviation)
        )

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        image = ImageOps.expand(Image.fromarray(self.images[index]), 4)
        top, left = torch.randint(9, (2,)).tolist()
        image = image.crop((left, top, left + 32, top + 32))
        if torch.rand(()) < 0.5:
            image = ImageOps.mirror(image)
        pixels = torch.from_numpy(np.array(image)).permute(2, 0, 1).contiguous().float().div(255)
        return pixels.sub_(self.mean).div_(self.deviation), int(self.labels[index])


def plain_batches(data: PreparedImages, batch_size: int, workers: int) -> Iterator[list[Tensor]]:
    """Shuffled batches without end."""
    loader = torch.utils.data.DataLoader(
        TransformedImages(data), batch_size=batch_size, shuffle=True, drop_last=True, num_workers=workers
    )
    while True:
        yield from loader


def make_stepper(row: str, data: PreparedImages, batch_size: int, workers: int) -> Callable[[], tuple[float, float]]:
    """Return a function that takes one step and returns the seconds until the batch was there and those of the step."""
    config = VisionTrainingConfig(batch_size=batch_size, arithmetic="bf16" if row.endswith("bf16") else "fp32")
    batches: Iterator[Sequence[Tensor]]
    loss: Callable[[nn.Module, Sequence[Tensor]], Tensor]
    model = new_model(data, NetworkConfig(), config)
    if " low" in row:
        set_precision(model, "low")
    if row.startswith("plain"):
        batches = plain_batches(data, batch_size, workers)
        optimizer: torch.optim.Optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9, weight_decay=1e-4)

        def loss(model: nn.Module, batch: Sequence[Tensor]) -> Tensor:
            return F.cross_entropy(model(batch[0]), batch[1]) + alpha_penalty(model)

    else:
        batches = training_batches(training_sampler(data, seed=0), batch_size, workers=0)
        optimizer = config.compressible_recipe().make_optimizer(model)
        ppt_loss = loss_function(data.normalization, config.arithmetic, "cpu")

        def loss(model: nn.Module, batch: Sequence[Tensor]) -> Tensor:
            return ppt_loss(model, ImageBatch(*batch))

    def step() -> tuple[float, float]:
        start = time.perf_counter()
        batch = next(batches)
        drawn = time.perf_counter()
        model.train()
        with plain_operations() if row.startswith("plain") else nullcontext():
            value = loss(model, batch)
            optimizer.zero_grad(set_to_none=True)
            value.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        clamp_alphas(model)
        return drawn - start, time.perf_counter() - drawn

    return step


@click.command()
@click.option("--batch-size", default=128, show_default=True)
@click.option("--turns", default=5, show_default=True)
@click.option("--steps", default=4, show_default=True, help="Steps of a row in each turn.")
@click.option("--workers", default=0, show_default=True, help="Processes that transform images for plain.")
@click.option("--rows", default=",".join(ROWS), show_default=True)
@click.option("--images", default=2000, show_default=True, help="Number of training images.")
@click.option("--json", "as_json", is_flag=True)
def main(batch_size: int, turns: int, steps: int, workers: int, rows: str, images: int, as_json: bool) -> None:
    """Measure and print the table."""
    data = synthesize_images(images, 10)
    names = rows.split(",")
    if not set(names) <= set(ROWS):
        raise click.BadParameter(f"{rows}: choose from {','.join(ROWS)}", param_hint="--rows")
    steppers = {name: make_stepper(name, data, batch_size, workers) for name in names}
    seconds: dict[str, list[tuple[float, float]]] = {name: [] for name in names}
    for turn in range(turns + 1):
        for name, step in steppers.items():
            taken = [step() for _ in range(steps if turn else 1)]
            if turn:  # the first compiles and fills caches
                loading, computing = zip(*taken, strict=True)
                seconds[name].append((statistics.fmean(loading), statistics.fmean(computing)))
    totals = {name: statistics.median(sum(parts) for parts in seconds[name]) for name in names}
    results = [
        {
            "row": name,
            "images_per_second": batch_size / totals[name],
            "loading ms": 1e3 * statistics.median(parts[0] for parts in seconds[name]),
            "step ms": 1e3 * statistics.median(parts[1] for parts in seconds[name]),
            "against plain": totals.get(f"plain {name.split()[1]}", math.nan) / totals[name],
        }
        for name in names
    ]
    if as_json:
        return click.echo(document(results))
    click.echo(f"| {' | '.join(results[0])} |")
    click.echo("|" + "---|" * len(results[0]))
    for result in results:
        click.echo(f"| {' | '.join(v if isinstance(v, str) else f'{v:,.2f}' for v in result.values())} |")


if __name__ == "__main__":
    main()
