"""Where a 1-bit activation switches, found by asking the modules themselves.

BatchNorm and a 1-bit activation behind a number that they treat channel by channel are, in evaluation, a comparison
of it with a threshold: each of their rounded operations is monotone. Formulas for the threshold, rounded in another
order, flip a few decisions in a million, so here every threshold is read off the outputs of the modules.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.func import functional_call

from ppt_core.errors import DataError
from ppt_core.layers import BinaryConv2d, BinaryLinear

_INFINITY = 0x7F800000  # as the bits of a float32


@dataclass(frozen=True, eq=False)
class Thresholds:
    """Bit c of a value v is ``(v >= values[c]) != flipped[c]``.

    Attributes:
        values: int32 or float32 (channels,).
        flipped: bool (channels,); True where BatchNorm's weight is negative. A channel that is constant whatever the
            value, as where that weight is 0, has a threshold that every value reaches, or none.
    """

    values: NDArray[Any]
    flipped: NDArray[np.bool_]


def refuse_other_readers(layer: BinaryLinear | BinaryConv2d, *, name: str) -> None:
    """Raise `DataError`, calling the layer ``name``, if others read its input, which is then real numbers, too."""
    if layer.input_activation.gives_real:
        raise DataError(
            f"the input of layer {name} is read as real numbers by other layers, too, and has no packed form; put a "
            "ForkedReLU there, which gives each its own"
        )


def integer_thresholds(layer: BinaryLinear, activation: Callable[[Tensor], Tensor], *, name: str) -> Thresholds:
    """Thresholds of ``activation(layer(x))`` against the integer ``{0, 1} @ {-1, +1}`` inside the layer.

    Each of the integers ``-in_features .. in_features`` is pushed through both modules, in every channel.

    Args:
        layer: in low precision.
        activation: maps (rows, channels) to 0 or above channel by channel, such as a `BinaryActivation` in low
            precision and evaluation mode.
        name: what an error calls the layer.

    Returns:
        int32 thresholds from ``-in_features`` (every integer reaches it) to ``in_features + 1`` (none does).

    Raises `DataError` if a channel does not switch once at most.
    """
    values, integers = responses(layer, activation)
    return read_thresholds(values > 0, first=int(integers[0]), name=name)


def responses(layer: BinaryLinear, activation: Callable[[Tensor], Tensor]) -> tuple[Tensor, Tensor]:
    """What two modules answer to each integer that the product inside the layer could be.

    Returns:
        ``activation(layer(x))``, float (2 * in_features + 1, channels), and the integers, int64, from
        ``-in_features`` to ``in_features``, by rows.
    """
    n = layer.in_features
    with torch.no_grad():
        x = torch.ones(n + 1, n).tril(-1) * layer.input_activation.alpha  # row t holds t ones
        positive, negative = (
            activation(functional_call(layer, {"weight": torch.full_like(layer.weight, sign)}, (x,)))
            for sign in (1.0, -1.0)
        )
    return torch.cat([negative[1:].flip(0), positive]), torch.arange(-n, n + 1)


def read_thresholds(bits: Tensor, *, first: int, name: str) -> Thresholds:
    """Read int32 thresholds off ``bits`` (integers, channels): the decisions at ``first``, ``first + 1`` and so on.

    Raises `DataError`, calling the layer ``name``, if a channel does not switch once at most.
    """
    n_switches = (bits[1:] != bits[:-1]).sum(0)
    if (n_switches > 1).any():
        channel = int(n_switches.argmax())
        raise DataError(
            f"channel {channel} of layer {name} switches {int(n_switches[channel])} times as its input grows, so it is "
            "no comparison with a threshold and cannot be packed"
        )
    flipped = bits[0] & ~bits[-1]
    values = first + (bits == flipped).sum(0)
    return Thresholds(values.numpy().astype(np.int32), flipped.numpy())


def float_thresholds(activation: Callable[[Tensor], Tensor], n_channels: int) -> Thresholds:
    """Thresholds of ``activation(v)`` against finite float32 values v.

    Found by bisection over all floats in ascending order, so that the comparison decides as the module does for
    every single one of them.

    Args:
        activation: as for `integer_thresholds`; every operation in it must be monotone, which cannot be tried out.
        n_channels: number of channels.

    Returns:
        float32 thresholds; of constant channels minus infinity (1) or infinity (0).
    """

    def bits_at(numbers: Tensor) -> Tensor:
        """The decisions at the floats with these numbers, 0 being zero and -1 minus zero."""
        values = torch.where(numbers >= 0, numbers, numbers ^ 0x7FFFFFFF).to(torch.int32).view(torch.float32)
        with torch.no_grad():
            decisions: Tensor = activation(values[None])[0] > 0
        return decisions

    low = torch.full((n_channels,), -_INFINITY)  # the least finite float
    high = torch.full((n_channels,), _INFINITY - 1)  # the greatest
    at_low, at_high = bits_at(low), bits_at(high)
    flipped = at_low & ~at_high
    while (high - low > 1).any():
        middle = (low + high) >> 1
        reached = bits_at(middle) != flipped
        low, high = torch.where(reached, low, middle), torch.where(reached, middle, high)
    values = torch.where(high >= 0, high, high ^ 0x7FFFFFFF).to(torch.int32).view(torch.float32)
    values = torch.where(at_low == at_high, torch.where(at_low, -torch.inf, torch.inf), values)
    return Thresholds(values.numpy(), flipped.numpy())
