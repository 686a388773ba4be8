"""The hidden layers of a packed network in the form in which its kernels count."""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ncf_ppt.packed import _kernels
from ppt_core.bits.pack import unpack_signs
from ppt_core.packed.linear import PackedLinear, PackedReLULinear

MAX_WIDTH = (2 ** (_kernels.MAX_PLANES - 1) - 1) * 2 // 3  # of a layer's input; counts of more need more planes
_ALL_ONES = np.uint64(2**64 - 1)


@dataclass(frozen=True, kw_only=True, eq=False)
class Counters:
    """For each channel, which rows of sliced bits are counted, and what the count is compared with.

    Counted are the inputs of weight +1 or those of weight -1, whichever are fewer: with n of them set among ``ones``
    set bits, the product is 2 n - ones or ones - 2 n. So ``product >= threshold`` is ``2 n - ones >= t`` or its
    opposite, hence ``n + constant >= (ones + offset) / 2``: the constant is what the count starts from.

    Attributes:
        layers: int64 (layers, 4): channels in and out, number of the first counter, planes of its counts. The first
            counter of a layer counts all its rows.
        rows: int32, the rows' word numbers, counter after counter, each filled up with the row of zeros behind the
            inputs.
        starts: int64 (counters + 1,): where a counter's entries begin in ``rows``.
        constants: uint64 (counters * CONSTANTS,): planes of the constant, whether t is odd, whether bits are inverted.
        lines: float32 (units, 3): gain and offset of each hidden unit as a function of n - ones / 2, times the size of
            its weight in the last layer, and the sign of that weight.
    """

    layers: NDArray[np.int64]
    rows: NDArray[np.int32]
    starts: NDArray[np.int64]
    constants: NDArray[np.uint64]
    lines: NDArray[np.float32]

    @classmethod
    def of(cls, hidden: tuple[PackedLinear, ...], units: PackedReLULinear, weights: NDArray[np.float32]) -> "Counters":
        """Build the counters of 1-bit layers and of the hidden units with their ``weights`` (units,)."""
        rows: list[NDArray[np.int32]] = []
        constants: list[NDArray[np.uint64]] = []
        layers = []
        for layer in hidden:
            n_in = layer.in_features
            offset = 2 * (n_in // 2 + 1)  # so that no constant is negative
            n_planes = max(_kernels.LEVELS, (n_in // 2 * 2 + offset // 2).bit_length())
            layers.append((n_in, layer.out_features, len(rows), n_planes))
            rows.append(_padded(np.arange(n_in), n_in))
            constants.append(_constants(offset))
            signs = unpack_signs(layer.signs, n_in)
            for channel, threshold in enumerate(layer.thresholds.values.tolist()):
                inverted = bool(layer.thresholds.flipped[channel])
                counted = signs[channel]
                if counted.sum() > n_in // 2:
                    counted, threshold, inverted = ~counted, 1 - threshold, not inverted
                rows.append(_padded(np.flatnonzero(counted), n_in))
                constants.append(_constants(offset // 2 - -(-threshold // 2), odd=threshold % 2 == 1, flip=inverted))

        n_in = units.in_features
        n_planes = 8 if n_in // 2 < 2**8 else 16
        layers.append((n_in, units.out_features, len(rows), n_planes))
        rows.append(_padded(np.arange(n_in), n_in))
        signs = unpack_signs(units.signs, n_in)
        gains = 2 * units.gains.astype(np.float64) * np.abs(weights)
        for unit in range(units.out_features):
            counted = signs[unit]
            if counted.sum() > n_in // 2:
                counted = ~counted
                gains[unit] = -gains[unit]
            rows.append(_padded(np.flatnonzero(counted), n_in))
        lines = np.stack([gains, units.offsets.astype(np.float64) * np.abs(weights), np.sign(weights)], axis=1)
        constants += [_constants(0)] * (1 + units.out_features)
        return cls(
            layers=np.array(layers, np.int64),
            rows=np.concatenate(rows),
            starts=np.cumsum([0, *map(len, rows)]),
            constants=np.concatenate(constants),
            lines=lines.astype(np.float32),
        )

    def arguments(self) -> tuple[Any, ...]:
        """What kernels take of it, in their order: everything about hidden layers, then about hidden units."""
        return self.layers, self.rows, self.starts, self.constants, self.lines


def _padded(inputs: NDArray[np.int64], n_in: int) -> NDArray[np.int32]:
    padding = np.full(-len(inputs) % _kernels.STEP, n_in)
    return (np.concatenate([inputs, padding]) * _kernels.ROW).astype(np.int32)


def _constants(start: int, *, odd: bool = False, flip: bool = False) -> NDArray[np.uint64]:
    flags = [*(start >> plane & 1 for plane in range(_kernels.MAX_PLANES)), odd, flip]
    return np.where(flags, _ALL_ONES, np.uint64(0))
