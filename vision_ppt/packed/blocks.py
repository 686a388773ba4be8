"""The residual blocks of a packed ResNet in one compiled call, equal to its modules one after the other."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from ppt_core.bits._kernels import LANES, by_lanes, most_differing
from ppt_core.packed.chain import PackedChain
from ppt_core.packed.conv import PackBits, PackedConv2d, PackedProducts2d
from vision_ppt.packed import _kernels

_GEOMETRY = ((3, 3), (1, 1))  # kernel and padding
_NEIGHBOURS = 4  # floats on each side; 2 were met


class PackedStages(nn.Sequential):
    """The stages of a packed ResNet: at batches of one, calling modules would take more than half of their time.

    The first call reads the buffers of all blocks, so change none after it.

    Attributes:
        in_one_call: whether all blocks run in one call where they can (`compile_blocks`); else module by module.
    """

    def __init__(self, *stages: nn.Module) -> None:
        super().__init__(*stages)
        self.in_one_call = True
        self._compiled: CompiledBlocks | None = None
        self._was_compiled = False

    def forward(self, input: Tensor) -> Tensor:
        """Map float32 (n, channels, height, width) behind the stem to the last sum, in the layout of ``input``."""
        if not self.in_one_call:
            return super().forward(input)  # type: ignore[no-any-return, no-untyped-call]
        if not self._was_compiled:
            self._compiled = compile_blocks([block for stage in self for block in stage])  # type: ignore[attr-defined]
            self._was_compiled = True
        if self._compiled is None:
            return super().forward(input)  # type: ignore[no-any-return, no-untyped-call]
        return self._compiled(input)


@contextmanager
def module_by_module(packed: nn.Module) -> Iterator[None]:
    """Let all stages of a packed network call their modules in the block, as hooks on them need it."""
    stages = [module for module in packed.modules() if isinstance(module, PackedStages)]
    before = [module.in_one_call for module in stages]
    try:
        for module in stages:
            module.in_one_call = False
        yield
    finally:
        for module, in_one_call in zip(stages, before, strict=True):
            module.in_one_call = in_one_call


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

    def __call__(self, input: Tensor) -> Tensor:
        """Map float32 (n, channels, height, width) to the last block's sum, in the layout of ``input``."""
        if input.shape[1] != self.blocks[0, 0]:
            raise ValueError(f"the input has {input.shape[1]} channels; the blocks take {self.blocks[0, 0]}")
        n, _, *old_size = input.shape
        size = old_size
        for stride in self.blocks[:, 2].tolist():
            size = [(length - 1) // stride + 1 for length in size]
        is_last = input.is_contiguous(memory_format=torch.channels_last) and not input.is_contiguous()
        layout = torch.channels_last if is_last else torch.contiguous_format
        images = input.detach().contiguous(memory_format=layout)
        out = torch.empty(n, int(self.blocks[-1, 1]), *size, memory_format=layout)
        flat = (tensor.as_strided((n, tensor[0].numel()), (tensor[0].numel(), 1)).numpy() for tensor in (images, out))
        source, target = flat
        arrays = (self.blocks, self.words, self.levels, self.floats)
        _kernels.run_blocks(source, (old_size[0], old_size[1]), is_last, *arrays, self.is_fused, target)
        return out


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
    line = _line(second, norm)
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


def _line(layer: PackedProducts2d, norm: nn.BatchNorm2d) -> tuple[Tensor, Tensor, bool] | None:
    """Factors and shifts (channels,) with which BatchNorm treats every product of the layer, and how it rounds.

    PyTorch's factor may be a neighbour of the one that a formula gives, so neighbours are tried.
    """
    n = layer.in_channels * layer.kernel_size[0] * layer.kernel_size[1]
    with torch.inference_mode():
        x = torch.arange(-n, n + 1).float() * layer.scale
        rows = torch.cat([x, torch.zeros(1)])[:, None].expand(-1, layer.out_channels).contiguous()
        # As a row of pixels with the channels last in memory, as the layer gives them: other orders are other loops.
        *expected, shifts = norm(rows.T[None, :, None]).squeeze(2)[0].T
        assert norm.running_var is not None
        formula = norm.weight * (1 / (norm.running_var + norm.eps).sqrt())
        candidates = [formula]
        for end in (-torch.inf, torch.inf):
            neighbour = formula
            for _ in range(_NEIGHBOURS):
                neighbour = torch.nextafter(neighbour, torch.tensor(end))
                candidates.append(neighbour)
        for is_fused in (True, False):
            factors, is_found = formula, torch.zeros(layer.out_channels, dtype=torch.bool)
            for candidate in candidates:
                out = torch.empty(len(x), layer.out_channels)
                _kernels.lines(x.numpy(), candidate.numpy(), shifts.numpy(), is_fused, out.numpy())
                is_equal = (out == torch.stack(expected)).all(0)
                factors, is_found = torch.where(is_equal, candidate, factors), is_found | is_equal
            if is_found.all():
                return factors, shifts, is_fused
    return None


def _padded(values: Tensor) -> NDArray[np.float32]:
    """Values of channels, and 0 for lanes of no channel."""
    padded = np.zeros(-(-len(values) // LANES) * LANES, np.float32)
    padded[: len(values)] = values.numpy()
    return padded
