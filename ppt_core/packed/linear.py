"""A 1-bit Linear layer and the 1-bit activation behind it, on 64-bit words."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from ppt_core._kernels import scale_and_activate
from ppt_core.batch_norm import BatchNormReLU
from ppt_core.bits import _kernels
from ppt_core.bits.pack import pack_signs
from ppt_core.errors import DataError
from ppt_core.layers import BinaryLinear
from ppt_core.packed.thresholds import Thresholds, integer_thresholds, refuse_other_readers, responses


@dataclass(frozen=True, kw_only=True, eq=False)
class PackedLinear:
    """Bits in, bits out: channel c of row x is ``(x @ signs[c] >= threshold[c]) != flipped[c]``, in integers.

    Attributes:
        name: of the layer it was packed from.
        in_features: number of bits in.
        signs: uint64 (words in, out_features), a set bit is +1. Bit b of word w belongs to input 64 w + b; bits
            beyond ``in_features`` are 0, here as in every packed row.
        thresholds: int32 ones, (out_features,).
    """

    name: str
    in_features: int
    signs: NDArray[np.uint64]
    thresholds: Thresholds

    @property
    def out_features(self) -> int:
        """Number of bits out."""
        return int(self.signs.shape[1])

    def __call__(self, bits: NDArray[np.uint64]) -> NDArray[np.uint64]:
        """Map packed rows (n, words in) to packed rows (n, words out)."""
        out = np.empty((len(bits), -(-self.out_features // 64)), np.uint64)
        _kernels.threshold_products(bits, self.signs, self.thresholds.values, self.thresholds.flipped, out)
        return out


def pack_linear(layer: nn.Module, activation: Callable[[Tensor], Tensor], *, name: str) -> PackedLinear:
    """Pack a `BinaryLinear` in low precision and what follows it; see `integer_thresholds` for the arguments.

    Raises `DataError`, calling the layer ``name``, for what cannot be packed.
    """
    checked = check_binary(layer, name=name)
    return PackedLinear(
        name=name,
        in_features=checked.in_features,
        signs=pack_signs(checked.weight),
        thresholds=integer_thresholds(checked, activation, name=name),
    )


def check_binary(layer: nn.Module, *, name: str) -> BinaryLinear:
    """Return ``layer`` if it computes with bits. Raises `DataError`, calling it ``name``, if it does not."""
    if not isinstance(layer, BinaryLinear):
        raise DataError(f"layer {name} is a {type(layer).__name__}, which has no packed form; only 1-bit Linears have")
    if layer.precision == "full":
        raise DataError(
            f"layer {name} computes in full precision; train the network to the end of its low-precision phase first"
        )
    refuse_other_readers(layer, name=name)
    return layer


@dataclass(frozen=True, kw_only=True, eq=False)
class PackedReLULinear:
    """Bits in, real numbers out: unit u of row x is ``max(gains[u] * (x @ signs[u]) + offsets[u], 0)``.

    Attributes:
        name: of the layer it was packed from.
        in_features: number of bits in.
        signs: uint64 (words in, out_features), as in `PackedLinear`.
        gains: float32 (out_features,).
        offsets: float32 (out_features,).
    """

    name: str
    in_features: int
    signs: NDArray[np.uint64]
    gains: NDArray[np.float32]
    offsets: NDArray[np.float32]

    @property
    def out_features(self) -> int:
        """Number of units."""
        return int(self.signs.shape[1])


def pack_relu_linear(layer: nn.Module, activation: nn.Module, *, name: str, activation_name: str) -> PackedReLULinear:
    """Pack a `BinaryLinear` in low precision and the ReLU behind it, with or without BatchNorm.

    Gains and offsets are computed in float64 and rounded once, so units differ from the network's by its own
    rounding. All the integers that the layer can meet are tried: a difference beyond rounding is an error.

    Raises `DataError`, calling the layers by their names, for what cannot be packed.
    """
    checked = check_binary(layer, name=name)
    factor, shift = _line(activation, checked.out_features, activation_name)
    scale = float(checked.input_activation.alpha.detach()) * float(checked.scale)
    gains = scale * factor
    offsets = shift if checked.bias is None else checked.bias.detach().double() * factor + shift
    expected, integers = responses(checked, activation)
    found = (integers[:, None] * gains + offsets).clamp(min=0)
    rounding = 1e-5 * (checked.in_features * gains.abs() + offsets.abs() + shift.abs())
    if ((found - expected).abs() > rounding).any():
        raise DataError(f"layer {activation_name} is no BatchNorm and ReLU of its input, so {name} cannot be packed")
    return PackedReLULinear(
        name=name,
        in_features=checked.in_features,
        signs=pack_signs(checked.weight),
        gains=gains.float().numpy(),
        offsets=offsets.float().numpy(),
    )


@dataclass(frozen=True, kw_only=True, eq=False)
class PackedUnits:
    """Bits in, real numbers out, rounded as the modules round them: equal to theirs, bit for bit.

    Unit u of row x is ``max((scale * (x @ signs[u]) + offsets[u]) * factors[u] + shifts[u], 0)``, in float32.

    Attributes:
        name: of the layer it was packed from.
        in_features: number of bits in.
        signs: uint64 (words in, out_features), as in `PackedLinear`.
        scale: of the products.
        offsets: float32 (out_features,), the bias of the layer, or 0.
        factors: float32 (out_features,), of BatchNorm, or 1.
        shifts: float32 (out_features,), of BatchNorm, or 0.
    """

    name: str
    in_features: int
    signs: NDArray[np.uint64]
    scale: float
    offsets: NDArray[np.float32]
    factors: NDArray[np.float32]
    shifts: NDArray[np.float32]

    @property
    def out_features(self) -> int:
        """Number of units."""
        return int(self.signs.shape[1])

    def __call__(self, bits: NDArray[np.uint64]) -> Tensor:
        """Map packed rows (n, words in) to float32 (n, out_features)."""
        products, out = torch.empty(len(bits), self.out_features), torch.empty(len(bits), self.out_features)
        _kernels.multiply_bits(bits, self.signs, np.float32(self.scale), self.offsets, products.numpy())
        scale_and_activate(products.numpy(), self.factors, self.shifts, np.float32(0), False, out.numpy())
        return out


def pack_units(layer: nn.Module, activation: nn.Module, *, name: str, activation_name: str) -> PackedUnits:
    """Pack a `BinaryLinear` in low precision and the ReLU behind it, with or without BatchNorm.

    Raises `DataError`, calling the layers by their names, for what cannot be packed.
    """
    checked = check_binary(layer, name=name)
    _check_relu(activation, activation_name)
    n = checked.out_features
    with torch.no_grad():
        has_norm = isinstance(activation, BatchNormReLU)
        factors, shifts = activation.folded() if has_norm else (torch.ones(n), torch.zeros(n))  # type: ignore[operator]
        return PackedUnits(
            name=name,
            in_features=checked.in_features,
            signs=pack_signs(checked.weight),
            scale=(checked.input_activation.alpha * checked.scale).item(),
            offsets=np.zeros(n, np.float32) if checked.bias is None else checked.bias.detach().numpy().copy(),
            factors=factors.detach().numpy(),
            shifts=shifts.detach().numpy(),
        )


def _check_relu(activation: nn.Module, name: str) -> None:
    if type(activation) not in (nn.ReLU, BatchNormReLU):
        raise DataError(
            f"layer {name} is a {type(activation).__name__}; behind the last 1-bit layer only a ReLU with or without "
            "BatchNorm can be packed"
        )


def _line(activation: nn.Module, n_channels: int, name: str) -> tuple[Tensor, Tensor]:
    """Factor and shift, float64 (n_channels,), with which a module computes ``max(x * factor + shift, 0)``."""
    if type(activation) is nn.ReLU:
        return torch.ones(n_channels).double(), torch.zeros(n_channels).double()
    _check_relu(activation, name)
    assert isinstance(activation, BatchNormReLU)
    assert activation.running_mean is not None
    assert activation.running_var is not None
    weight, bias = activation.weight.detach().double(), activation.bias.detach().double()
    factor = weight / (activation.running_var.double() + activation.eps).sqrt()
    return factor, bias - activation.running_mean.double() * factor
