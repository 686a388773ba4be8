"""1-bit convolutions, activations and max pooling on 64-bit words, as modules.

Bits are int64 tensors (n, height, width, words): bit b of word w is channel 64 w + b, and bits of no channel are 0.
"""

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from ppt_core.bits import _kernels
from ppt_core.bits.conv import binary_conv2d, multiply_windows, new_size
from ppt_core.bits.pack import pack_images, pack_signs, pack_window_signs
from ppt_core.errors import DataError
from ppt_core.layers import BinaryActivation, BinaryConv2d
from ppt_core.packed.thresholds import Thresholds, read_thresholds, refuse_other_readers


class PackBits(nn.Module):
    """A 1-bit activation without BatchNorm, real numbers in and bits out: ``x > alpha / 2``.

    Here and below ``names`` are those of the simulated layers whose place a packed one takes, the last of them giving
    the same output.
    """

    threshold: Tensor

    def __init__(self, activation: BinaryActivation, *, name: str) -> None:
        super().__init__()
        self.names = (name,)
        self.register_buffer("threshold", activation.alpha.detach() / 2)

    def forward(self, x: Tensor) -> Tensor:
        """Map float32 (n, channels, height, width) to bits (n, height, width, words)."""
        return torch.from_numpy(pack_images(x, self.threshold.item()))


class _PackedWeights(nn.Module):
    """Signs of a 1-bit convolution and its geometry.

    Attributes:
        signs: int64 (rows of a window, words of such a row, out_channels), see `pack_window_signs`.
    """

    signs: Tensor

    def __init__(self, layer: BinaryConv2d, names: tuple[str, ...]) -> None:
        super().__init__()
        self.names = names
        self.in_channels = layer.in_channels
        self.out_channels = layer.out_channels
        self.kernel_size = _pair(layer.kernel_size)
        self.stride = _pair(layer.stride)
        self.padding = _pair(layer.padding)  # type: ignore[arg-type]
        self.geometry = (*self.kernel_size, *self.stride, *self.padding)
        self.register_buffer("signs", torch.from_numpy(pack_window_signs(layer.weight)))

    def _arrays(self) -> list[NDArray[Any]]:
        """The buffers in the order of their registration; by attribute each would take 1 us of some 12."""
        return [buffer.numpy() for buffer in self._buffers.values() if buffer is not None]

    def _new_shape(self, bits: Tensor) -> tuple[int, int, int]:
        """Images, height and width of the result."""
        n, height, width, n_words = bits.shape
        if n_words != -(-self.in_channels // 64):
            raise ValueError(f"the bits have {n_words} words; those of {self.in_channels} channels have another number")
        return n, *new_size((height, width), self.geometry)

    def extra_repr(self) -> str:
        """What `print` says."""
        return f"{self.in_channels}, {self.out_channels}, kernel_size={self.kernel_size}, stride={self.stride}"


class PackedConv2d(_PackedWeights):
    """A 1-bit convolution and the BatchNorm and 1-bit activation behind it: bits in, bits out.

    Args:
        layer: in low precision.
        activation: maps (n, channels, height, width) to 0 or above, channel by channel, in evaluation.
        names: of the layer and of what the activation consists of.

    Attributes:
        thresholds: int64 (out_channels,) of the integer products.
        flipped: int64 (words,), bits of the channels that are set below their threshold.
    """

    thresholds: Tensor
    flipped: Tensor

    def __init__(self, layer: BinaryConv2d, activation: Callable[[Tensor], Tensor], *, names: tuple[str, ...]) -> None:
        super().__init__(_checked(layer, names[0]), names)
        found = conv_thresholds(layer, activation, name=names[0])
        self.register_buffer("thresholds", torch.from_numpy(found.values.astype(np.int64)))
        flipped = pack_signs(torch.from_numpy(found.flipped[np.newaxis].astype(np.float32)))[:, 0]
        self.register_buffer("flipped", torch.from_numpy(np.ascontiguousarray(flipped).view(np.int64)))

    def forward(self, bits: Tensor) -> Tensor:
        """Map bits (n, height, width, words) to bits (n, height', width', words')."""
        signs, thresholds, flipped = self._arrays()
        out = np.empty((*self._new_shape(bits), len(flipped)), np.int64)
        words = bits.contiguous().numpy()
        _kernels.convolve(words, self.in_channels, self.geometry, signs, thresholds, flipped, np.float32(1), out)
        return torch.from_numpy(out)


class PackedProducts2d(_PackedWeights):
    """A 1-bit convolution whose output is wanted in real numbers: bits in, the layer's own floats out.

    The integers are exact, and scale and bias are applied as the layer does: equal to it bit for bit.

    Args:
        layer: in low precision.
        name: what an error calls the layer.
    """

    scale: Tensor
    bias: Tensor | None

    def __init__(self, layer: BinaryConv2d, *, name: str) -> None:
        super().__init__(_checked(layer, name), (name,))
        self.register_buffer("scale", layer.input_activation.alpha.detach() * layer.scale)
        self.register_buffer("bias", None if layer.bias is None else layer.bias.detach().clone())

    def forward(self, bits: Tensor) -> Tensor:
        """Map bits (n, height, width, words) to float32 (n, out_channels, height', width'), channels last in memory."""
        self._new_shape(bits)
        words, signs = bits.contiguous().numpy(), self._arrays()[0]
        products = multiply_windows(words, self.in_channels, signs, self.geometry, self.scale.item())
        return products if self.bias is None else products + self.bias[:, None, None]


class PackedMaxPool2d(nn.Module):
    """Max pooling of bits: their or. Raises `DataError`, calling it ``name``, for dilation or rounding up."""

    def __init__(self, layer: nn.MaxPool2d, *, name: str) -> None:
        super().__init__()
        self.names = (name,)
        if layer.ceil_mode or _pair(layer.dilation) != (1, 1) or layer.return_indices:
            raise DataError(f"layer {name} pools with dilation, indices or rounding up, which has no packed form")
        self.kernel_size, self.stride, self.padding = (
            _pair(value) for value in (layer.kernel_size, layer.stride, layer.padding)
        )

    def forward(self, bits: Tensor) -> Tensor:
        """Map bits (n, height, width, words) to bits (n, height', width', words)."""
        words = bits.contiguous().numpy().view(np.uint64)
        n, height, width, n_words = words.shape
        new_height, new_width = new_size((height, width), (*self.kernel_size, *self.stride, *self.padding))
        out = np.empty((n, new_height, new_width, n_words), np.uint64)
        _kernels.max_pool_bits(words, self.kernel_size, self.stride, self.padding, out)
        return torch.from_numpy(out.view(np.int64))


def conv_thresholds(layer: BinaryConv2d, activation: Callable[[Tensor], Tensor], *, name: str) -> Thresholds:
    """Thresholds of ``activation(layer(x))`` against the integer inside the layer; see `integer_thresholds`.

    Each of the integers from minus to plus the size of a window goes through both modules, in every channel.
    """
    n = layer.in_channels * layer.kernel_size[0] * layer.kernel_size[1]
    alpha = layer.input_activation.alpha.detach()
    with torch.no_grad():
        windows = (torch.ones(n + 1, n).tril(-1) * alpha)[:, :, None, None]  # number t holds t ones
        products = [
            binary_conv2d(
                windows, torch.full((1, n, 1, 1), sign), None, alpha=alpha, scale=layer.scale,
                stride=(1, 1), padding=(0, 0), dilation=(1, 1), groups=1,
            )
            for sign in (1.0, -1.0)
        ]  # fmt: skip
        values = torch.cat([products[1][1:].flip(0), products[0]]).expand(-1, layer.out_channels, 1, 1)
        if layer.bias is not None:
            values = values + layer.bias[:, None, None]
        bits = activation(values.contiguous())[:, :, 0, 0] > 0
    return read_thresholds(bits, first=-n, name=name)


def _checked(layer: BinaryConv2d, name: str) -> BinaryConv2d:
    """Return ``layer`` if it can be packed. Raises `DataError`, calling it ``name``, if not."""
    if layer.precision == "full":
        raise DataError(
            f"layer {name} computes in full precision; train the network to the end of its low-precision phase first"
        )
    if isinstance(layer.padding, str) or layer.padding_mode != "zeros" or layer.groups != 1 or layer.dilation != (1, 1):
        raise DataError(
            f"layer {name} has groups, dilation, or padding by name or with other values than 0; only plain "
            "convolutions have a packed form"
        )
    refuse_other_readers(layer, name=name)
    if not layer.input_activation.alpha > 0:
        raise DataError(f"alpha of the input of layer {name} is not above 0; train the network again")
    return layer


def _pair(value: int | tuple[int, ...]) -> tuple[int, int]:
    return (value, value) if isinstance(value, int) else (value[0], value[1])
