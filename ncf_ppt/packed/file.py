"""A packed network as one self-contained file: safetensors, sealed, with its ids, protocol and provenance.

The embeddings are stored as they were packed and the first layer as it was trained. The halves of the first layer are
computed again on loading: that takes half the bytes of storing them, or less.

Of two towers it holds the items' tables, the user's tower with its 1-bit layers as bits, and the last items of each
user, which are the user's only interactions in it.
"""

from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ncf_ppt.packed import gmf_file, tower_file
from ncf_ppt.packed.counters import MAX_WIDTH
from ncf_ppt.packed.gmf import PackedGMF
from ncf_ppt.packed.ids import ids_from_tensors, ids_to_tensors
from ncf_ppt.packed.network import PackedNCF
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
from ncf_ppt.packed.table import PackedTable
from ncf_ppt.packed.tower import PackedNetwork, PackedTwoTower
from ppt_core.errors import DataError
from ppt_core.packed.linear import PackedReLULinear
from ppt_core.pair_linear import PairLinear
from ppt_core.runs.checkpoint import load_tensors, save_tensors
from ppt_core.runs.files import refuse_existing

KIND = "packed NCF network"
FORMAT_VERSION = 2
VERSIONS = {
    KIND: FORMAT_VERSION,
    tower_file.KIND: tower_file.FORMAT_VERSION,
    gmf_file.KIND: gmf_file.FORMAT_VERSION,
}


def save_packed(packed: PackedNetwork, path: Path) -> None:
    """Write the new file ``path``. Its bytes depend on the network, ids, protocol and provenance alone.

    Raises `DataError` if ``path`` exists or cannot be written.
    """
    refuse_existing(path)
    if isinstance(packed, PackedTwoTower):
        return save_tensors(path, *tower_file.write(packed), new=True)
    save_tensors(path, *(gmf_file.write(packed) if isinstance(packed, PackedGMF) else _write(packed)), new=True)


def _write(packed: PackedNCF) -> tuple[dict[str, Tensor], dict[str, Any]]:
    tensors = {"last_weight": torch.from_numpy(packed.last_weight)}
    for name, table in packed.tables.items():
        tensors |= table_to_tensors(name, table)
    tensors |= {f"first.{name}": tensor for name, tensor in packed.first.state_dict().items()}
    tensors |= thresholds_to_tensors("first", packed.first_thresholds)
    tensors |= hidden_to_tensors(packed.hidden)
    tensors["units.signs"] = torch.from_numpy(packed.units.signs.view(np.int64))
    tensors["units.gains"] = torch.from_numpy(packed.units.gains)
    tensors["units.offsets"] = torch.from_numpy(packed.units.offsets)
    tensors |= ids_to_tensors("user_ids", packed.user_ids) | ids_to_tensors("item_ids", packed.item_ids)
    metadata = {
        "kind": KIND,
        "packed_version": FORMAT_VERSION,
        "n_users": packed.n_users,
        "n_items": packed.n_items,
        "embeddings": packed.embeddings,
        "sizes": {name: table.size for name, table in packed.tables.items()},
        "first": {"name": packed.first_name, "x_features": packed.first.x_features},
        "hidden": hidden_to_json(packed.hidden),
        "units": {"name": packed.units.name, "in_features": packed.units.in_features},
        "last_bias": packed.last_bias,
        "protocol": packed.protocol,
        "provenance": packed.provenance,
    }
    return tensors, metadata


def load_packed(path: Path) -> PackedNetwork:
    """Read what `save_packed` wrote.

    Raises `DataError` if the file is missing, is no packed network, was changed, has another format version, or holds
    parts that do not fit each other.
    """
    tensors, metadata = load_tensors(path)
    version = VERSIONS.get(metadata.get("kind", ""))
    if version is None:
        raise DataError(f"{path} holds no packed network; make one with `ppt-ncf pack RUN --out FILE`")
    if metadata["packed_version"] != version:
        raise DataError(
            f"{path} is a packed network of version {metadata['packed_version']} and this version of ppt-ncf reads "
            f"{version}; pack the run again"
        )
    try:
        if metadata["kind"] == tower_file.KIND:
            return tower_file.read(tensors, metadata)
        if metadata["kind"] == gmf_file.KIND:
            return gmf_file.read(tensors, metadata)
        packed = _read(tensors, metadata)
        _check_shapes(packed)
    except (LookupError, ValueError, TypeError, RuntimeError, AttributeError) as error:
        # Sealed by another program: what its parts say must not reach a kernel.
        raise DataError(f"{path} is a damaged packed network ({' '.join(str(error).split())}); pack it again") from None
    return packed


def _read(tensors: dict[str, Tensor], metadata: dict[str, Any]) -> PackedNCF:
    first_weight = tensors["first.weight"]
    x_features = metadata["first"]["x_features"]
    first = PairLinear(x_features, first_weight.shape[1] - x_features, len(first_weight), "first.bias" in tensors)
    first.load_state_dict({name: tensors[f"first.{name}"] for name in first.state_dict()})
    units = metadata["units"]
    n_users, n_items = metadata["n_users"], metadata["n_items"]

    def table(name: str, n_rows: int) -> PackedTable:
        if name not in metadata["sizes"]:
            return PackedTable.empty(n_rows)
        return table_from_tensors(name, tensors, metadata["sizes"][name])

    return PackedNCF(
        user_factors=table("gmf_user", n_users),
        item_factors=table("gmf_item", n_items),
        user_features=table("mlp_user", n_users),
        item_features=table("mlp_item", n_items),
        embeddings=metadata["embeddings"],
        first=first,
        first_name=metadata["first"]["name"],
        first_thresholds=thresholds_from_tensors("first", tensors),
        hidden=hidden_from_tensors(tensors, metadata["hidden"]),
        units=PackedReLULinear(
            name=units["name"],
            in_features=units["in_features"],
            signs=tensors["units.signs"].numpy().view(np.uint64),
            gains=tensors["units.gains"].numpy(),
            offsets=tensors["units.offsets"].numpy(),
        ),
        last_weight=tensors["last_weight"].numpy(),
        last_bias=float(metadata["last_bias"]),
        user_ids=ids_from_tensors("user_ids", tensors, n_users),
        item_ids=ids_from_tensors("item_ids", tensors, n_items),
        protocol=metadata["protocol"],
        provenance=metadata["provenance"],
    )


def _check_shapes(packed: PackedNCF) -> None:
    """Raise ValueError unless every array has the shape and dtype that the kernels take for granted."""
    n_users, n_items, n_factors = len(packed.user_ids), len(packed.item_ids), packed.item_factors.size
    features = packed.first.x_features, packed.first.in_features - packed.first.x_features
    check_table("gmf_user", packed.user_factors, packed.embeddings, (n_users, n_factors))
    check_table("gmf_item", packed.item_factors, packed.embeddings, (n_items, n_factors))
    check_table("mlp_user", packed.user_features, packed.embeddings, (n_users, features[0]))
    check_table("mlp_item", packed.item_features, packed.embeddings, (n_items, features[1]))
    check_array("first.weight", packed.first.weight.detach().numpy(), np.float32, packed.first.weight.shape)
    width = packed.first.out_features
    check_thresholds("first", packed.first_thresholds, np.float32, width)
    width = check_hidden(packed.hidden, width, MAX_WIDTH)
    check_signs(packed.units, width, MAX_WIDTH)
    n_units = packed.units.out_features
    check_array("units.gains", packed.units.gains, np.float32, (n_units,))
    check_array("units.offsets", packed.units.offsets, np.float32, (n_units,))
    check_array("last_weight", packed.last_weight, np.float32, (n_factors + n_units,))
