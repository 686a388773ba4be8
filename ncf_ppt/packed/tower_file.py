"""What a packed file holds of two towers: see `ncf_ppt.packed.file`."""

from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from ncf_ppt.packed.ids import ids_from_tensors, ids_to_tensors
from ncf_ppt.packed.parts import (
    check_array,
    check_hidden,
    check_signs,
    check_table,
    check_thresholds,
    hidden_from_tensors,
    hidden_to_json,
    hidden_to_tensors,
    table_from_tensors,
    table_to_tensors,
    thresholds_from_tensors,
    thresholds_to_tensors,
)
from ncf_ppt.packed.tower import PackedTwoTower
from ppt_core.packed.linear import PackedUnits

KIND = "packed two-tower network"
FORMAT_VERSION = 1
_MAX_WIDTH = 1 << 24  # counts of more bits are no exact floats


def write(packed: PackedTwoTower) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """The tensors and the metadata of a packed network, which are a function of it alone."""
    tensors = {"places": torch.from_numpy(packed.places), "item_biases": torch.from_numpy(packed.item_biases)}
    for name, table in packed.tables.items():
        tensors |= table_to_tensors(name, table)
    for name, linear in (("first", packed.first), ("last", packed.last)):
        tensors |= {f"{name}.{part}": tensor for part, tensor in linear.state_dict().items()}
    tensors |= thresholds_to_tensors("first", packed.first_thresholds)
    tensors |= hidden_to_tensors(packed.hidden)
    units = packed.units
    tensors["units.signs"] = torch.from_numpy(units.signs.view(np.int64))
    tensors |= {f"units.{name}": torch.from_numpy(getattr(units, name)) for name in ("offsets", "factors", "shifts")}
    fewest = np.min_scalar_type(-max(packed.n_items, 1))
    tensors["last_items"] = torch.from_numpy(packed.last_items.astype(fewest))
    tensors |= ids_to_tensors("user_ids", packed.user_ids) | ids_to_tensors("item_ids", packed.item_ids)
    return tensors, {
        "kind": KIND,
        "packed_version": FORMAT_VERSION,
        "n_users": packed.n_users,
        "n_items": packed.n_items,
        "embeddings": packed.embeddings,
        "factors": packed.items.size,
        "first_name": packed.first_name,
        "hidden": hidden_to_json(packed.hidden),
        "units": {"name": units.name, "in_features": units.in_features, "scale": units.scale},
        "protocol": packed.protocol,
        "provenance": packed.provenance,
    }


def read(tensors: dict[str, Tensor], metadata: dict[str, Any]) -> PackedTwoTower:
    """Read what `write` gave.

    Raises LookupError, ValueError, TypeError, RuntimeError or AttributeError if parts are missing, have other shapes
    than the kernels take for granted, or do not fit each other.
    """
    n_users, n_items, units = metadata["n_users"], metadata["n_items"], metadata["units"]
    packed = PackedTwoTower(
        recent=table_from_tensors("recent", tensors, metadata["factors"]),
        places=tensors["places"].numpy(),
        items=table_from_tensors("item", tensors, metadata["factors"]),
        item_biases=tensors["item_biases"].numpy(),
        embeddings=metadata["embeddings"],
        first=_linear("first", tensors),
        first_name=metadata["first_name"],
        first_thresholds=thresholds_from_tensors("first", tensors),
        hidden=hidden_from_tensors(tensors, metadata["hidden"]),
        units=PackedUnits(
            name=units["name"],
            in_features=units["in_features"],
            signs=tensors["units.signs"].numpy().view(np.uint64),
            scale=float(units["scale"]),
            offsets=tensors["units.offsets"].numpy(),
            factors=tensors["units.factors"].numpy(),
            shifts=tensors["units.shifts"].numpy(),
        ),
        last=_linear("last", tensors),
        last_items=tensors["last_items"].numpy().astype(np.int32),
        user_ids=ids_from_tensors("user_ids", tensors, n_users),
        item_ids=ids_from_tensors("item_ids", tensors, n_items),
        protocol=metadata["protocol"],
        provenance=metadata["provenance"],
    )
    _check_shapes(packed)
    return packed


def _linear(name: str, tensors: dict[str, Tensor]) -> nn.Linear:
    weight = tensors[f"{name}.weight"]
    layer = nn.Linear(weight.shape[1], weight.shape[0], bias=f"{name}.bias" in tensors, device="meta")
    layer.load_state_dict({part: tensors[f"{name}.{part}"] for part in layer.state_dict()}, assign=True)
    return layer.requires_grad_(False)


def _check_shapes(packed: PackedTwoTower) -> None:
    n_users, n_items, factors, n_recent = len(packed.user_ids), len(packed.item_ids), packed.items.size, packed.n_recent
    for name, table in packed.tables.items():
        check_table(name, table, packed.embeddings, (n_items, factors))
    check_array("places", packed.places, np.float32, (n_recent,))
    check_array("item_biases", packed.item_biases, np.float32, (n_items,))
    check_array("last_items", packed.last_items, np.int32, (n_users, n_recent))
    if packed.last_items.size and not -1 <= packed.last_items.min() <= packed.last_items.max() < n_items:
        raise ValueError(f"last_items are not between -1 and {n_items - 1}")
    width = packed.first.out_features
    _check_linear("first", packed.first, (width, factors))
    check_thresholds("first", packed.first_thresholds, np.float32, width)
    width = check_hidden(packed.hidden, width, _MAX_WIDTH)
    check_signs(packed.units, width, _MAX_WIDTH)
    n_units = packed.units.out_features
    for name in ("offsets", "factors", "shifts"):
        check_array(f"units.{name}", getattr(packed.units, name), np.float32, (n_units,))
    _check_linear("last", packed.last, (factors, n_units))


def _check_linear(name: str, layer: nn.Linear, shape: tuple[int, int]) -> None:
    for part, tensor in layer.state_dict().items():
        check_array(f"{name}.{part}", tensor.numpy(), np.float32, shape if part == "weight" else shape[:1])
