"""What a packed file holds of a GMF network: see `ncf_ppt.packed.file`."""

from typing import Any

import numpy as np
import torch
from torch import Tensor

from ncf_ppt.packed.gmf import PackedGMF
from ncf_ppt.packed.ids import ids_from_tensors, ids_to_tensors
from ncf_ppt.packed.parts import check_array, check_table, table_from_tensors, table_to_tensors

KIND = "packed GMF network"
FORMAT_VERSION = 1


def write(packed: PackedGMF) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """The tensors and the metadata of a packed network, which are a function of it alone."""
    tensors = {"weights": torch.from_numpy(packed.weights)}
    for name, table in packed.tables.items():
        tensors |= table_to_tensors(name, table)
    tensors |= ids_to_tensors("user_ids", packed.user_ids) | ids_to_tensors("item_ids", packed.item_ids)
    return tensors, {
        "kind": KIND,
        "packed_version": FORMAT_VERSION,
        "n_users": packed.n_users,
        "n_items": packed.n_items,
        "embeddings": packed.embeddings,
        "factors": packed.item_factors.size,
        "bias": packed.bias,
        "protocol": packed.protocol,
        "provenance": packed.provenance,
    }


def read(tensors: dict[str, Tensor], metadata: dict[str, Any]) -> PackedGMF:
    """Read what `write` gave.

    Raises LookupError, ValueError, TypeError, RuntimeError or AttributeError if parts are missing, have other shapes
    than the kernels take for granted, or do not fit each other.
    """
    factors = int(metadata["factors"])
    packed = PackedGMF(
        user_factors=table_from_tensors("gmf_user", tensors, factors),
        item_factors=table_from_tensors("gmf_item", tensors, factors),
        embeddings=metadata["embeddings"],
        weights=tensors["weights"].numpy(),
        bias=float(metadata["bias"]),
        user_ids=ids_from_tensors("user_ids", tensors, metadata["n_users"]),
        item_ids=ids_from_tensors("item_ids", tensors, metadata["n_items"]),
        protocol=metadata["protocol"],
        provenance=metadata["provenance"],
    )
    for name, table, ids in (
        ("gmf_user", packed.user_factors, packed.user_ids),
        ("gmf_item", packed.item_factors, packed.item_ids),
    ):
        check_table(name, table, packed.embeddings, (len(ids), factors))
    check_array("weights", packed.weights, np.float32, (factors,))
    _ = packed.scores  # which checks the codes
    return packed
