"""How much of an image is left behind each layer, before any training: full against low precision.

    python -m benchmarks.noise --data cifar10

Images and the same images with noise of a tenth of a deviation go through a network of initial weights, in one batch.
At each place the two sets of numbers are correlated, each channel less its mean over the batch. 1 means that the place
sees the image and not the noise; near 0, two copies of one image look as different as two images. The places are what
BatchNorm reads in VGG-16, and the sums behind the blocks of ResNet-20, and what the last layer of each reads.
"""

import statistics
from pathlib import Path
from typing import Any

import click
import torch
from torch import Tensor, nn

from benchmarks.provenance import document
from data_prep.images.image_arrays import PreparedImages
from data_prep.images.prepared import load_prepared
from ppt_core.layers import set_precision
from ppt_core.plan import convert
from vision_ppt.networks import NetworkConfig, NetworkName, build_network
from vision_ppt.resnet import ResNet
from vision_ppt.vgg import VGG

NETWORKS: tuple[NetworkName, ...] = ("vgg16", "resnet20")


def places(model: ResNet | VGG) -> list[nn.Module]:
    """The modules whose inputs are compared, in order."""
    blocks: list[nn.Module]
    if isinstance(model, VGG):
        blocks = [module for module in model.modules() if isinstance(module, nn.BatchNorm2d)]
    else:
        blocks = [block for stage in model.stages for block in list(stage.children())]
    return [*blocks, model.last]


def correlation(one: Tensor, other: Tensor) -> float:
    """Of (n, channels, ...) and the same of noisy images, each channel less its mean over both."""
    both = torch.stack([one, other]).transpose(0, 2).flatten(2)  # channel, image, set and place
    centred = torch.stack([one, other]) - both.mean((1, 2)).reshape(-1, *[1] * (one.dim() - 2))
    numerator = (centred[0] * centred[1]).sum()
    return float(numerator / (centred[0].square().sum() * centred[1].square().sum()).sqrt())


@torch.no_grad()
def correlations(network: NetworkName, precision: str, images: Tensor, *, noise: float, seed: int) -> list[float]:
    """The correlation at each place, of float images (n, 3, height, width)."""
    model = build_network(NetworkConfig(network=network), seed=seed)
    convert(model)
    set_precision(model, precision)  # type: ignore[arg-type]
    found: list[float] = []

    def compare(_: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        found.append(correlation(*inputs[0].chunk(2)))

    for module in places(model):
        module.register_forward_pre_hook(compare)
    draws = torch.randn(images.shape, generator=torch.Generator().manual_seed(seed))
    model.train()(torch.cat([images, images + noise * draws]))
    return found


@click.command()
@click.option("--data", type=click.Path(path_type=Path), required=True, help="CIFAR-10, prepared.")
@click.option("--images", "n_images", default=64, show_default=True)
@click.option("--noise", default=0.1, show_default=True, help="Its deviation, in deviations of the pixels.")
@click.option("--seeds", default=3, show_default=True)
@click.option("--json", "as_json", is_flag=True)
def main(data: Path, n_images: int, noise: float, seeds: int, as_json: bool) -> None:
    """Measure and print the table."""
    prepared = load_prepared(data)
    if not isinstance(prepared, PreparedImages):
        raise click.ClickException(f"{data} holds image files; give a prepared CIFAR-10")
    pixels = torch.from_numpy(prepared.train.images[:n_images].copy()).permute(0, 3, 1, 2)
    mean, deviation = (
        torch.tensor(values).view(3, 1, 1) for values in (prepared.normalization.mean, prepared.normalization.deviation)
    )
    images = (pixels.float() / 255 - mean) / deviation
    results: list[dict[str, Any]] = []
    for network in NETWORKS:
        for precision in ("full", "low"):
            trials = [correlations(network, precision, images, noise=noise, seed=seed) for seed in range(seeds)]
            medians = [statistics.median(values) for values in zip(*trials, strict=True)]
            results.append({"network": network, "precision": precision, "correlations": medians})
            if not as_json:
                click.echo(f"{network:<9} {precision:<5} {'  '.join(f'{value:.2f}' for value in medians)}")
    if as_json:
        click.echo(document(results))


if __name__ == "__main__":
    main()
