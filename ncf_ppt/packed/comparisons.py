"""What the verification of a packed network consists of, whatever the network."""

import copy
from dataclasses import asdict, dataclass
from typing import Any, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from ncf_ppt.model import NCF
from ncf_ppt.packed.network import PackedNCF
from ncf_ppt.packed.tower import PackedNetwork, PackedTwoTower
from ncf_ppt.row_adam import RowEmbedding
from ncf_ppt.two_tower import TwoTower
from ppt_core.bits.pack import unpack_signs
from ppt_core.errors import DataError
from ppt_core.packed import boundaries
from ppt_core.packed.linear import PackedLinear

AnyNetwork = TypeVar("AnyNetwork", NCF, TwoTower)

PAIRS = 1 << 13  # at a time
LOGIT_TOLERANCE = 1e-4  # times 1 + the largest logit; rounding is a hundredth of that


@dataclass(frozen=True, kw_only=True)
class Verification:
    """What was compared, and what rounding made of it.

    Attributes:
        n_pairs: (user, item) pairs put through both networks.
        compared_bits: bits behind the first 1-bit activation that were compared on these pairs and are equal, all.
        boundary_bits: bits compared on made-up inputs, products next to their thresholds among them, and equal.
        first_layer_bits: bits of the first 1-bit activation on these pairs.
        first_layer_differences: those of them that differ: sums rounded in another order, next to a threshold.
        max_logit_difference: largest difference of two logits of the same bits.
        n_ranks: users whose first candidate was ranked among the others.
        changed_ranks: how many of these ranks differ.
    """

    n_pairs: int
    compared_bits: int
    boundary_bits: int
    first_layer_bits: int
    first_layer_differences: int
    max_logit_difference: float
    n_ranks: int
    changed_ranks: int

    def to_dict(self) -> dict[str, Any]:
        """The attributes as JSON values."""
        return asdict(self)


def compare_embeddings(packed: PackedNetwork, model: AnyNetwork) -> AnyNetwork:
    """Return the network with the embeddings that are packed: itself, or a copy that has the rounded ones."""
    for name, stored in packed.tables.items():
        table: RowEmbedding = model.get_submodule(name)  # type: ignore[assignment]
        difference = np.abs(stored[:] - table.values().numpy())
        step = stored.scales[:, np.newaxis] if packed.embeddings == "int8" and stored.scales is not None else 0
        if not (difference <= step * np.float32(0.5001) + np.float32(1e-37)).all():
            raise DataError(f"table {name} differs from the network's; do not use this packed network, and report it")
    if packed.embeddings != "int8":
        return model
    rounded = copy.deepcopy(model)
    for name, stored in packed.tables.items():
        rounded.get_submodule(name).weight.copy_(torch.from_numpy(stored[:]))  # type: ignore[operator]
    return rounded


def compare_first_boundaries(packed: PackedNCF | PackedTwoTower, activation: nn.Module) -> int:
    """Compare the first activation on sums next to its thresholds and far from them; return the number of bits."""
    thresholds, flipped = packed.first_thresholds.values, packed.first_thresholds.flipped
    finite = np.where(np.isfinite(thresholds), thresholds, np.float32(0))
    neighbours = [np.nextafter(finite, np.float32(side)) for side in (-np.inf, np.inf)]
    others = [np.full_like(finite, value) for value in (0, -1, 1, -1e30, 1e30)]
    sums = np.stack([finite, *neighbours, *others])
    packed_bits = (sums >= thresholds) != flipped
    compare(activation(torch.from_numpy(sums)) > 0, torch.from_numpy(packed_bits), packed.first_name)
    return sums.size


def ranks_of_first(scores: NDArray[np.float32]) -> NDArray[np.int64]:
    """Rank of the first column, from 0, losing ties."""
    ranks: NDArray[np.int64] = (scores[:, 1:] >= scores[:, :1]).sum(axis=1)
    return ranks


def boundary_inputs(layer: PackedLinear) -> NDArray[np.uint8]:
    """Return distinct rows of bits, uint8 (n, in_features), that try a layer: `ppt_core.packed.boundaries`."""
    return boundaries.boundary_inputs(unpack_signs(layer.signs, layer.in_features), layer.thresholds.values)


def compare(simulated: Tensor, packed: Tensor, name: str) -> None:
    """Raise `DataError`, naming the layer, unless all bits (rows, channels) are equal."""
    differing = simulated != packed.bool()
    if differing.any():
        row, channel = differing.nonzero()[0].tolist()
        raise DataError(
            f"{int(differing.sum())} bits behind layer {name} differ from the simulated network, the first in channel "
            f"{channel} of input {row}; do not use this packed network, and report it"
        )
