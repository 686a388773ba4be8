"""Products of matrices that do not round by the number of threads that compute them."""

import functools
from collections.abc import Generator, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TypeVar

import torch
from torch import nn

_Step = TypeVar("_Step")

_COLUMNS = 8  # of a product's result for each thread: with more, MKL computes each number as on one thread


@contextmanager
def steady_products(model: nn.Module) -> Iterator[None]:
    """Let PyTorch compute the products of ``model`` on so few threads in the block that their number changes no bit.

    MKL promises sums that do not depend on threads (``MKL_CBWR=AUTO,STRICT``), and on Intel's processors it keeps
    this. Elsewhere it does not where the result is narrow: of products of 1,427 sizes on 2 and 4 threads of an AMD EPYC
    none differed that left a thread more than 8 columns, whatever its other sides. So the narrowest Linear layer
    decides. NeuMF of MLPerf's shape (64 its narrowest) may use 7 threads, and layers of 16 one.
    """
    before = torch.get_num_threads()
    if not keeps_its_promise():
        torch.set_num_threads(min(before, most_threads(model)))
    try:
        yield
    finally:
        torch.set_num_threads(before)


def steady(steps: Iterator[_Step], model: nn.Module) -> Generator[_Step, None, None]:
    """Yield ``steps``, each computed within `steady_products`."""
    while True:
        with steady_products(model):
            try:
                step = next(steps)
            except StopIteration:
                return
        yield step
        del step  # or its optimizer would outlive its phase


def most_threads(model: nn.Module) -> int:
    """On how many threads products with the Linear layers of ``model`` give what they give on one."""
    layers = [layer for layer in model.modules() if isinstance(layer, nn.Linear)]
    # A product with a vector, as of a layer with one output, is not divided.
    widths = [width for layer in layers for width in layer.weight.shape if width > 1]
    return max(1, (min(widths) - 1) // _COLUMNS) if widths else torch.get_num_threads()


@functools.cache
def keeps_its_promise(cpuinfo: Path = Path("/proc/cpuinfo")) -> bool:
    """Whether this is an Intel processor; where nobody says, it is not."""
    try:
        return "GenuineIntel" in cpuinfo.read_text("utf-8")
    except OSError:
        return False
