"""A packed ResNet up to its last block's sum in one compiled call, equal to its modules one after the other."""

import copy
import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F

from ppt_core.bits._kernels import LANES, by_lanes, most_differing
from ppt_core.bits.conv import is_channels_last
from ppt_core.packed.chain import PackedChain
from ppt_core.packed.conv import PackBits, PackedConv2d, PackedProducts2d
from vision_ppt.packed import _kernels
from vision_ppt.resnet import ResNet

_GEOMETRY = ((3, 3), (1, 1))  # kernel and padding
_NEIGHBOURS = 4  # floats on each side; 2 were met
_SIDE = 32  # of the image of sums that tells what a stem's BatchNorm does
ORDERS = ((0, 1, 2), (1, 2, 0))
"""In which the products of a window are added, by its axes: channel, row and column. A small image alone that has its
channels first was met with the first, all others with the second."""
Line = tuple[Tensor, Tensor, bool]
"""What BatchNorm does in evaluation: factors and shifts (channels,), and whether it rounds once or after each."""


class PackedResNet(ResNet):
    """A copy of a ResNet whose blocks are about to be packed, in evaluation.

    At batches of one, calling modules would take more than half of the time of its convolutions. So they are not
    called, and hooks on them need `module_by_module`. The first call reads the buffers of all modules: change none
    after it but by ``load_state_dict`` or ``to``.

    Attributes:
        in_one_call: whether the network up to the last block's sum runs in one call where it can (`compile_blocks`,
            `compile_stem`); else module by module.
    """

    def __init__(self, network: ResNet) -> None:
        nn.Module.__init__(self)  # not that of `ResNet`: the modules are those of the other network
        self.config = network.config
        for name, module in copy.deepcopy(network).named_children():
            self.add_module(name, module)
        self.in_one_call = True
        self._forget()
        self.eval().requires_grad_(False)

    def forward(self, images: Tensor) -> Tensor:
        """Map images to logits, see `vision_ppt.resnet.ResNet.forward`."""
        blocks = self._blocks_for(images)
        if blocks is None:
            return super().forward(images)
        # The same operations; as modules they took three times as long for one image.
        last = self.last
        return F.linear(self._run(blocks, images).relu().mean((2, 3)), last.weight, last.bias)

    def sums(self, images: Tensor) -> Tensor:
        """Map images to the last block's sum, see `vision_ppt.resnet.ResNet.sums`."""
        blocks = self._blocks_for(images)
        return super().sums(images) if blocks is None else self._run(blocks, images)

    def load_state_dict(self, *args: Any, **kwargs: Any) -> Any:
        """Load buffers, see `torch.nn.Module.load_state_dict`; the next call reads them."""
        self._forget()
        return super().load_state_dict(*args, **kwargs)

    def _apply(self, *args: Any, **kwargs: Any) -> Any:
        self._forget()
        return super()._apply(*args, **kwargs)  # type: ignore[no-untyped-call]

    def _forget(self) -> None:
        self._blocks: CompiledBlocks | None = None
        self._were_compiled = False
        self._stems: dict[tuple[Any, ...], CompiledStem | None] = {}

    def _blocks_for(self, images: Tensor) -> "CompiledBlocks | None":
        """What runs the blocks behind ``images`` in one call; None where modules must do it, or say what is wrong."""
        is_usual = images.dim() == 4 and len(images) > 0 and images.dtype == torch.float32
        if not (self.in_one_call and is_usual) or self.training or torch.is_autocast_enabled("cpu"):
            return None
        if not self._were_compiled:
            self._blocks = compile_blocks([block for stage in self.stages for block in stage])  # type: ignore[attr-defined]
            self._were_compiled = True
        return self._blocks

    def _run(self, blocks: "CompiledBlocks", images: Tensor) -> Tensor:
        stem = self._stem_for(images)
        return blocks(self.stem(images)) if stem is None else blocks(images, stem)

    def _stem_for(self, images: Tensor) -> "CompiledStem | None":
        is_last = is_channels_last(images)
        if not is_last and not images.is_contiguous():
            return None
        kind = (len(images) == 1, images.shape[1:], is_last)
        if kind not in self._stems:
            self._stems[kind] = compile_stem(self.stem, images)
        return self._stems[kind]


@contextmanager
def module_by_module(packed: nn.Module) -> Iterator[None]:
    """Let a packed network call its modules in the block, as hooks on them need it."""
    if not isinstance(packed, PackedResNet):
        yield
        return
    before = packed.in_one_call
    try:
        packed.in_one_call = False
        yield
    finally:
        packed.in_one_call = before


@dataclass(frozen=True, kw_only=True, eq=False)
class CompiledStem:
    """What `vision_ppt.packed._kernels.run_blocks` wants to know of a stem.

    Attributes:
        taps: int64 (products of a sum, 3): input channel, row and column of each, in the order of addition.
        floats: float32, weights and BatchNorm.
        is_fused: whether BatchNorm rounds its product and sum once.
    """

    taps: NDArray[np.int64]
    floats: NDArray[np.float32]
    is_fused: bool


@dataclass(frozen=True, kw_only=True, eq=False)
class CompiledBlocks:
    """What `vision_ppt.packed._kernels.run_blocks` wants to know of the blocks of a network.

    Attributes:
        blocks: int64 (n_blocks, 3): channels in and out, and stride.
        words: uint64, signs.
        levels: int64, thresholds and counts of ones.
        floats: float32, activations, scales and BatchNorm.
        is_fused: whether BatchNorm rounds its product and sum once, as PyTorch's does on most processors, or each.
    """

    blocks: NDArray[np.int64]
    words: NDArray[np.uint64]
    levels: NDArray[np.int64]
    floats: NDArray[np.float32]
    is_fused: bool

    @cached_property
    def stride(self) -> int:
        """Of all blocks together."""
        return math.prod(self.blocks[:, 2].tolist())

    def __call__(self, input: Tensor, stem: CompiledStem | None = None) -> Tensor:
        """Map float32 (n, channels, height, width) to the last block's sum, in the layout of ``input``.

        ``input`` are the images that ``stem`` takes; without one, what is behind it.
        """
        n, n_in, height, width = input.shape
        n_channels = self.blocks[0, 0] if stem is None else stem.taps[-1, 0] + 1
        if n_in != n_channels:
            raise ValueError(f"the input has {n_in} channels; the network takes {n_channels}")
        n_out, new_height, new_width = int(self.blocks[-1, 1]), -(-height // self.stride), -(-width // self.stride)
        is_last = is_channels_last(input)
        pixels = (input.permute(0, 2, 3, 1) if is_last else input).detach().contiguous()
        out = np.empty((n, n_out * new_height * new_width), np.float32)
        arrays = (self.blocks, self.words, self.levels, self.floats)
        stem_arrays = _NO_STEM if stem is None else (stem.taps, stem.floats, stem.is_fused)
        images = pixels.view(n, -1).numpy()
        _kernels.run_blocks(images, (height, width), is_last, stem_arrays, *arrays, self.is_fused, out)
        if is_last:
            return torch.from_numpy(out.reshape(n, new_height, new_width, n_out)).permute(0, 3, 1, 2)
        return torch.from_numpy(out.reshape(n, n_out, new_height, new_width))


_NO_STEM = (np.empty((0, 3), np.int64), np.empty(0, np.float32), True)


def compile_stem(stem: nn.Module, images: Tensor) -> CompiledStem | None:
    """Lay a stem out for the call that runs the blocks; None where it has no such form for such images.

    It has one if it is a 3x3 convolution and BatchNorm, keeps the layout of the images, which have no gaps in memory,
    and adds in an order that is known. PyTorch's depends on the processor and on the images: their size, their layout
    and whether there is one alone. Those that were met are tried on random images.
    """
    if [type(layer) for layer in stem.children()] != [nn.Conv2d, nn.BatchNorm2d]:
        return None
    convolution, norm = stem.children()
    assert isinstance(convolution, nn.Conv2d)
    assert isinstance(norm, nn.BatchNorm2d)
    geometry = (convolution.kernel_size, convolution.padding, convolution.stride)
    if geometry != (*_GEOMETRY, (1, 1)) or convolution.bias is not None:
        return None
    size, is_last = (images.shape[2], images.shape[3]), is_channels_last(images)
    layout = torch.channels_last if is_last else torch.contiguous_format
    generator = torch.Generator().manual_seed(0)
    n = min(len(images), 2)
    some = torch.randn(n, convolution.in_channels, *size, generator=generator).contiguous(memory_format=layout)
    # Sums of every magnitude: large ones tell the factors, small ones how it rounds.
    magnitudes = torch.logspace(-3, 5, _SIDE * _SIDE).view(_SIDE, _SIDE)
    values = torch.randn(n, convolution.out_channels, _SIDE, _SIDE, generator=generator) * magnitudes
    with torch.inference_mode():
        expected = stem(some)
        line = find_line(norm, values.contiguous(memory_format=layout))
    if line is None or is_channels_last(expected) != is_last:
        return None
    image, rows = (some[0].permute(1, 2, 0) if is_last else some[0]).reshape(-1).numpy(), _rows(expected[:1])
    for order in ORDERS:
        found, laid_out = np.empty_like(rows), lay_out_stem(convolution, order, line)
        arrays = (laid_out.taps, laid_out.floats, laid_out.is_fused)
        _kernels.run_stem(image, size, is_last, arrays, found)
        if np.array_equal(found, rows):
            return laid_out
    return None


def lay_out_stem(convolution: nn.Conv2d, order: tuple[int, ...], line: Line) -> CompiledStem:
    """A stem that adds the products of a window in ``order``, one of `ORDERS`, and what its BatchNorm does."""
    kernel = np.ndindex(convolution.in_channels, 3, 3)
    taps = np.array(sorted(kernel, key=lambda tap: [tap[axis] for axis in order]), np.int64)
    weights = convolution.weight[:, taps[:, 0], taps[:, 1], taps[:, 2]].T
    factors, shifts, is_fused = line
    floats = np.concatenate([_padded(values) for values in (weights, factors, shifts)])
    return CompiledStem(taps=taps, floats=floats, is_fused=is_fused)


def compile_blocks(blocks: list[nn.Module]) -> CompiledBlocks | None:
    """Lay the packed blocks of a network out for one call; None where they have no such form.

    They have one with identity shortcuts, at most 64 channels (a pixel's bits are then a word) and BatchNorm that is
    found to be a product and a sum, with every integer that the convolution before it can give.
    """
    found = [_read(block) for block in blocks]
    parts = [part for part in found if part is not None]
    if len(parts) < len(found) or not parts or len({part.is_fused for part in parts}) > 1:
        return None
    return CompiledBlocks(
        blocks=np.array([part.shape for part in parts], np.int64),
        words=np.concatenate([part.words for part in parts]),
        levels=np.concatenate([part.levels for part in parts]),
        floats=np.concatenate([part.floats for part in parts]),
        is_fused=parts[0].is_fused,
    )


@dataclass(frozen=True, kw_only=True, eq=False)
class _Block:
    shape: tuple[int, int, int]
    words: NDArray[np.uint64]
    levels: NDArray[np.int64]
    floats: NDArray[np.float32]
    is_fused: bool


def _read(block: nn.Module) -> _Block | None:
    branch: Any = block.get_submodule("relu1")
    chain: PackedChain = branch.chain
    layers = list(chain)
    if [type(layer) for layer in layers] != [PackBits, PackedConv2d, PackedProducts2d, nn.BatchNorm2d]:
        return None
    activation, first, second, norm = layers
    assert isinstance(activation, PackBits)
    assert isinstance(first, PackedConv2d)
    assert isinstance(second, PackedProducts2d)
    assert isinstance(norm, nn.BatchNorm2d)
    is_identity = not any(True for _ in block.get_submodule("shortcut").buffers())
    fits = all((layer.kernel_size, layer.padding) == _GEOMETRY for layer in (first, second))
    if not is_identity or not fits or first.out_channels > 64 or second.bias is not None:
        return None
    n = second.in_channels * second.kernel_size[0] * second.kernel_size[1]
    products = (torch.arange(-n, n + 1).float() * second.scale)[:, None].expand(-1, second.out_channels)
    # As a row of pixels with the channels last in memory, as the layer gives them: other orders are other loops.
    line = find_line(norm, products.contiguous().T[None, :, None])
    if line is None:
        return None
    factors, shifts, is_fused = line
    first_signs, first_ones = by_lanes(first.signs.numpy())
    second_signs, second_ones = by_lanes(second.signs.numpy())
    bounds = most_differing(first_ones, first.thresholds.numpy())
    alpha = 0.0 if branch.alpha is None else branch.alpha.item()
    numbers = np.array([activation.threshold.item(), alpha, second.scale.item()], np.float32)
    return _Block(
        shape=(first.in_channels, first.out_channels, first.stride[0]),
        words=np.concatenate([first_signs.reshape(-1), second_signs.reshape(-1)]),
        levels=np.concatenate([bounds, first.flipped.numpy(), second_ones]),
        floats=np.concatenate([numbers, _padded(factors), _padded(shifts)]),
        is_fused=is_fused,
    )


def find_line(norm: nn.BatchNorm2d, x: Tensor) -> Line | None:
    """What BatchNorm does with ``x`` and all that is like it.

    PyTorch's factor may be a neighbour of the one that a formula gives, so neighbours are tried, the nearest first.
    None if in some channel of ``x`` (n, channels, height, width) no single one maps all values to what BatchNorm does.
    """
    with torch.inference_mode():
        expected, shifts, infinity = _rows(norm(x)), norm(torch.zeros_like(x))[0, :, 0, 0], torch.tensor(torch.inf)
        assert norm.running_var is not None
        formula = norm.weight * (1 / (norm.running_var + norm.eps).sqrt())
        candidates, below, above = [formula], formula, formula
        for _ in range(_NEIGHBOURS):
            below, above = (torch.nextafter(*pair) for pair in ((below, -infinity), (above, infinity)))
            candidates += [below, above]
        rows, out = _rows(x), np.empty_like(expected)
        for is_fused in (True, False):
            factors, is_found = formula, torch.zeros(len(formula), dtype=torch.bool)
            for candidate in candidates:
                _kernels.lines(rows, _padded(candidate), _padded(shifts), is_fused, out)
                is_equal = torch.from_numpy((out == expected).reshape(-1, len(_padded(formula))).all(0))[: len(formula)]
                factors, is_found = torch.where(is_equal & ~is_found, candidate, factors), is_found | is_equal
            if is_found.all():
                return factors, shifts, is_fused
    return None


def _rows(x: Tensor) -> NDArray[np.float32]:
    """Pixels (n, channels, height, width) with the channels last and 0 for lanes of no channel, flat."""
    return _padded(x.permute(0, 2, 3, 1).reshape(-1, x.shape[1]))


def _padded(values: Tensor) -> NDArray[np.float32]:
    """Values (..., channels), and 0 for lanes of no channel, flat."""
    n_channels = values.shape[-1]
    padded = np.zeros((*values.shape[:-1], -(-n_channels // LANES) * LANES), np.float32)
    padded[..., :n_channels] = values.detach().numpy()
    return padded.reshape(-1)
