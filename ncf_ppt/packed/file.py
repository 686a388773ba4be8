"""A packed network as one self-contained file: safetensors, sealed, with its ids, protocol and provenance.

The embeddings and the first layer are stored as they were trained, and the halves of the first layer are computed
again on loading: that takes half the bytes of storing the halves.
"""

from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ncf_ppt.packed.network import PackedNCF
from ppt_core.checkpoint import load_tensors, save_tensors
from ppt_core.errors import DataError
from ppt_core.files import refuse_existing
from ppt_core.packed.linear import PackedLinear, PackedReLULinear
from ppt_core.packed.thresholds import Thresholds
from ppt_core.pair_linear import PairLinear

KIND = "packed NCF network"
FORMAT_VERSION = 1
_TABLES = ("user_factors", "item_factors", "user_features", "item_features", "last_weight")


def save_packed(packed: PackedNCF, path: Path) -> None:
    """Write the new file ``path``. Its bytes depend on the network, ids, protocol and provenance alone.

    Raises `DataError` if ``path`` exists or cannot be written.
    """
    refuse_existing(path)
    tensors = {name: torch.from_numpy(getattr(packed, name)) for name in _TABLES}
    tensors |= {f"first.{name}": tensor for name, tensor in packed.first.state_dict().items()}
    tensors |= _thresholds_to_tensors("first", packed.first_thresholds)
    for number, layer in enumerate(packed.hidden):
        tensors[f"hidden.{number}.signs"] = torch.from_numpy(layer.signs.view(np.int64))
        tensors |= _thresholds_to_tensors(f"hidden.{number}", layer.thresholds)
    tensors["units.signs"] = torch.from_numpy(packed.units.signs.view(np.int64))
    tensors["units.gains"] = torch.from_numpy(packed.units.gains)
    tensors["units.offsets"] = torch.from_numpy(packed.units.offsets)
    tensors |= _ids_to_tensors("user_ids", packed.user_ids) | _ids_to_tensors("item_ids", packed.item_ids)
    metadata = {
        "kind": KIND,
        "packed_version": FORMAT_VERSION,
        "first": {"name": packed.first_name, "x_features": packed.first.x_features},
        "hidden": [{"name": layer.name, "in_features": layer.in_features} for layer in packed.hidden],
        "units": {"name": packed.units.name, "in_features": packed.units.in_features},
        "last_bias": packed.last_bias,
        "protocol": packed.protocol,
        "provenance": packed.provenance,
    }
    save_tensors(path, tensors, metadata)


def load_packed(path: Path) -> PackedNCF:
    """Read what `save_packed` wrote.

    Raises `DataError` if the file is missing, is no packed network, was changed, or has another format version.
    """
    tensors, metadata = load_tensors(path)
    if metadata.get("kind") != KIND:
        raise DataError(f"{path} holds no packed network; make one with `ppt-ncf pack RUN --out FILE`")
    if metadata["packed_version"] != FORMAT_VERSION:
        raise DataError(
            f"{path} is a packed network of version {metadata['packed_version']} and this version of ppt-ncf reads "
            f"{FORMAT_VERSION}; pack the run again"
        )
    first_weight = tensors["first.weight"]
    x_features = metadata["first"]["x_features"]
    first = PairLinear(x_features, first_weight.shape[1] - x_features, len(first_weight), "first.bias" in tensors)
    first.load_state_dict({name: tensors[f"first.{name}"] for name in first.state_dict()})
    units = metadata["units"]
    return PackedNCF(
        **{name: tensors[name].numpy() for name in _TABLES},
        first=first,
        first_name=metadata["first"]["name"],
        first_thresholds=_thresholds_from_tensors("first", tensors),
        hidden=tuple(
            PackedLinear(
                name=layer["name"],
                in_features=layer["in_features"],
                signs=tensors[f"hidden.{number}.signs"].numpy().view(np.uint64),
                thresholds=_thresholds_from_tensors(f"hidden.{number}", tensors),
            )
            for number, layer in enumerate(metadata["hidden"])
        ),
        units=PackedReLULinear(
            name=units["name"],
            in_features=units["in_features"],
            signs=tensors["units.signs"].numpy().view(np.uint64),
            gains=tensors["units.gains"].numpy(),
            offsets=tensors["units.offsets"].numpy(),
        ),
        last_bias=metadata["last_bias"],
        user_ids=_ids_from_tensors("user_ids", tensors),
        item_ids=_ids_from_tensors("item_ids", tensors),
        protocol=metadata["protocol"],
        provenance=metadata["provenance"],
    )


def _thresholds_to_tensors(prefix: str, thresholds: Thresholds) -> dict[str, Tensor]:
    return {
        f"{prefix}.thresholds": torch.from_numpy(thresholds.values),
        f"{prefix}.flipped": torch.from_numpy(thresholds.flipped),
    }


def _thresholds_from_tensors(prefix: str, tensors: dict[str, Tensor]) -> Thresholds:
    return Thresholds(tensors[f"{prefix}.thresholds"].numpy(), tensors[f"{prefix}.flipped"].numpy())


def _ids_to_tensors(name: str, ids: NDArray[Any]) -> dict[str, Tensor]:
    """Integers as they are; strings as UTF-8, one behind the other, with the offsets of their beginnings and ends."""
    if ids.dtype.kind == "i":
        return {name: torch.from_numpy(ids.astype(np.int64))}
    encoded = [str(each).encode() for each in ids]
    offsets = np.cumsum([0, *map(len, encoded)], dtype=np.int64)
    octets = np.frombuffer(bytearray(b"".join(encoded)), np.uint8)
    return {f"{name}.utf8": torch.from_numpy(octets), f"{name}.offsets": torch.from_numpy(offsets)}


def _ids_from_tensors(name: str, tensors: dict[str, Tensor]) -> NDArray[Any]:
    if name in tensors:
        integers: NDArray[np.int64] = tensors[name].numpy()
        return integers
    octets, offsets = tensors[f"{name}.utf8"].numpy().tobytes(), tensors[f"{name}.offsets"].tolist()
    ids = np.empty(len(offsets) - 1, object)
    ids[:] = [octets[start:stop].decode() for start, stop in pairwise(offsets)]
    return ids
