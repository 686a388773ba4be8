"""A packed 1-bit convolution against PyTorch's fp32 one, at the 3x3 layers of ResNet-20.

    python -m benchmarks.conv --turns 15

Packed: bits in, bits out, BatchNorm and activation included as thresholds. PyTorch: `conv2d` alone on fp32, in either
layout of memory, the faster of the two. Both take turns; a ratio is the median of the ratios within a turn.
"""

import os

from benchmarks.provenance import document
from ppt_core.environment import ENVIRONMENT

os.environ.update({**ENVIRONMENT, **os.environ})

import statistics
import time
from collections.abc import Callable
from typing import Any

import click
import numba
import torch
from torch import nn
from torch.nn import functional as F

from ppt_core.layers import set_precision
from ppt_core.packed.chain import pack_chain
from ppt_core.plan import convert

SHAPES = ((16, 32), (32, 16), (64, 8))  # channels, height and width


def seconds(call: Callable[[], Any]) -> float:
    """Seconds of one call."""
    start = time.perf_counter()
    call()
    return time.perf_counter() - start


def layers(n_channels: int, size: int, batch_size: int) -> dict[str, Callable[[], Any]]:
    """The calls that are compared."""
    torch.manual_seed(0)
    middle = nn.Conv2d(n_channels, n_channels, 3, padding=1, bias=False)
    model = nn.Sequential(
        nn.Conv2d(n_channels, n_channels, 1), nn.ReLU(), middle, nn.BatchNorm2d(n_channels), nn.ReLU(),
        nn.Conv2d(n_channels, n_channels, 3, padding=1), nn.Conv2d(n_channels, 1, 1),
    )  # fmt: skip
    convert(model)
    set_precision(model, "low")
    chain = pack_chain([(str(number), layer) for number, layer in enumerate(model.eval())][1:6])
    x = torch.randn(batch_size, n_channels, size, size)
    bits, packed = chain[0](x), chain[1]
    weight = torch.randn_like(middle.weight)
    x_last, weight_last = (tensor.contiguous(memory_format=torch.channels_last) for tensor in (x, weight))
    return {
        "packed": lambda: packed(bits),
        "fp32": lambda: F.conv2d(x, weight, padding=1),
        "fp32, channels last": lambda: F.conv2d(x_last, weight_last, padding=1),
    }


@click.command()
@click.option("--turns", default=15, show_default=True)
@click.option("--batch-sizes", default="1,64", show_default=True)
@click.option("--threads", default=numba.config.NUMBA_NUM_THREADS, show_default=True)
@click.option("--json", "as_json", is_flag=True)
@torch.inference_mode()
def main(turns: int, batch_sizes: str, threads: int, as_json: bool) -> None:
    """Measure and print the table."""
    torch.set_num_threads(threads)
    numba.set_num_threads(threads)
    results: list[dict[str, Any]] = []
    for n_channels, size in SHAPES:
        for batch_size in map(int, batch_sizes.split(",")):
            calls = layers(n_channels, size, batch_size)
            times: dict[str, list[float]] = {name: [] for name in calls}
            for turn in range(turns + 3):
                for name, call in calls.items():
                    found = min(seconds(call) for _ in range(3))
                    if turn >= 3:
                        times[name].append(found)
            packed, *others = times.values()
            ratios = [min(pair) / ours for ours, *pair in zip(packed, *others, strict=True)]
            result = {"channels": n_channels, "size": size, "batch_size": batch_size, "threads": threads}
            microseconds = {name: 1e6 * statistics.median(values) for name, values in times.items()}
            results.append({**result, "microseconds": microseconds, "ratio": statistics.median(ratios)})
    if as_json:
        return click.echo(document(results))
    click.echo(
        "| channels, size | batch | packed, us | fp32, us | channels last, us | ratio |\n|---|---|---|---|---|---|"
    )
    for entry in results:
        cells = " | ".join(f"{value:.0f}" for value in entry["microseconds"].values())
        shape = f"{entry['channels']}, {entry['size']}x{entry['size']}"
        click.echo(f"| {shape} | {entry['batch_size']} | {cells} | {entry['ratio']:.2f} |")


if __name__ == "__main__":
    main()
