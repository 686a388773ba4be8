"""Pack a trained network of two towers."""

from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import nn

from ncf_ppt.packed.table import Embeddings, PackedTable
from ncf_ppt.packed.tower import PackedTwoTower
from ncf_ppt.two_tower import TwoTower
from ppt_core.errors import DataError
from ppt_core.layers import BinaryActivation
from ppt_core.packed.linear import pack_linear, pack_units
from ppt_core.packed.thresholds import float_thresholds


def pack_tower(
    model: TwoTower,
    *,
    user_ids: NDArray[Any],
    item_ids: NDArray[Any],
    protocol: str,
    provenance: dict[str, Any],
    embeddings: Embeddings,
) -> PackedTwoTower:
    """Pack a network on a CPU, in low precision and in evaluation mode; see `ncf_ppt.packed.packing.pack`."""
    names = [f"tower.{number}" for number in range(len(model.tower))]
    layers = dict(zip(names, model.tower, strict=True))
    if len(names) < 5:
        raise DataError("the network holds no 1-bit layer, so there is nothing to pack; train one with more layers")
    first, last = (_copy(layers[name], name) for name in (names[0], names[-1]))
    for name in names[1:-3:2]:
        check_activation(layers[name], name)
    return PackedTwoTower(
        recent=PackedTable.of(model.recent, embeddings),
        places=model.recent.places.detach().numpy().copy(),
        items=PackedTable.of(model.item, embeddings),
        item_biases=model.item_bias.values()[:, 0].numpy().copy(),
        embeddings=embeddings,
        first=first,
        first_name=names[1],
        first_thresholds=float_thresholds(layers[names[1]], first.out_features),
        hidden=tuple(
            pack_linear(layers[name], layers[follower], name=name)
            for name, follower in zip(names[2:-3:2], names[3:-3:2], strict=True)
        ),
        units=pack_units(layers[names[-3]], layers[names[-2]], name=names[-3], activation_name=names[-2]),
        last=last,
        last_items=model.last_items.numpy().astype(np.int32),
        user_ids=user_ids,
        item_ids=item_ids,
        protocol=protocol,
        provenance=provenance,
    )


def check_activation(layer: nn.Module, name: str) -> None:
    """Raise `DataError`, calling the layer ``name``, unless it is a 1-bit activation in low precision."""
    if not isinstance(layer, BinaryActivation):
        raise DataError(f"layer {name} is a {type(layer).__name__} of 32 bits; before a 1-bit layer it must be 1-bit")
    if layer.precision == "full":
        raise DataError(
            f"layer {name} computes in full precision; train the network to the end of its low-precision phase first"
        )
    if not layer.alpha > 0:
        raise DataError(f"alpha of layer {name} is {layer.alpha.item():g}; it must be above 0: train the network again")


def _copy(layer: nn.Module, name: str) -> nn.Linear:
    if type(layer) is not nn.Linear:
        raise DataError(f"layer {name} is a {type(layer).__name__}; only a Linear of 32 bits can be packed")
    copy = nn.Linear(layer.in_features, layer.out_features, bias=layer.bias is not None, device="meta")
    state = {part: tensor.detach().clone() for part, tensor in layer.state_dict().items()}
    copy.load_state_dict(state, assign=True)
    return copy.requires_grad_(False)
