"""The parts of which packed files consist: as tensors by name, and checked before a kernel reads them."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ncf_ppt.packed.table import Embeddings, PackedTable, stored_as
from ppt_core.packed.linear import PackedLinear, PackedReLULinear, PackedUnits
from ppt_core.packed.thresholds import Thresholds


def table_to_tensors(name: str, table: PackedTable) -> dict[str, Tensor]:
    """The arrays of a table by their names in a file."""
    tensors = {f"{name}.values": torch.from_numpy(table.values)}
    if table.scales is not None:
        tensors[f"{name}.scales"] = torch.from_numpy(table.scales)
    return tensors


def table_from_tensors(name: str, tensors: dict[str, Tensor], size: int) -> PackedTable:
    """Read what `table_to_tensors` gave of a table whose rows have ``size`` components."""
    scales = tensors[f"{name}.scales"].numpy() if f"{name}.scales" in tensors else None
    return PackedTable(values=tensors[f"{name}.values"].numpy(), scales=scales, size=size)


def check_table(name: str, table: PackedTable, embeddings: Embeddings, shape: tuple[int, int]) -> None:
    """Raise ValueError unless a table holds rows of this shape, stored as ``embeddings``."""
    n, size = shape
    if table.size != size:
        raise ValueError(f"{name} has rows of {table.size}, not {size}")
    if size:
        dtypes: dict[str, tuple[Any, Any]] = {
            "float32": (np.float32, None),
            "int8": (np.int8, np.float32),
            "binary": (np.uint8, np.float16),
        }
        stored = stored_as(embeddings, name)
        dtype, scale_dtype = dtypes[stored]
        check_array(name, table.values, dtype, (n, -(-size // 8) if stored == "binary" else size))
        if scale_dtype is not None:
            check_array(f"{name}.scales", table.scales, scale_dtype, (n,))


def hidden_to_tensors(hidden: Sequence[PackedLinear]) -> dict[str, Tensor]:
    """The arrays of 1-bit layers by their names in a file."""
    tensors = {}
    for number, layer in enumerate(hidden):
        tensors[f"hidden.{number}.signs"] = torch.from_numpy(layer.signs.view(np.int64))
        tensors |= thresholds_to_tensors(f"hidden.{number}", layer.thresholds)
    return tensors


def hidden_to_json(hidden: Sequence[PackedLinear]) -> list[dict[str, Any]]:
    """What a file says of 1-bit layers beside their arrays."""
    return [{"name": layer.name, "in_features": layer.in_features} for layer in hidden]


def hidden_from_tensors(
    tensors: Mapping[str, Tensor], described: Sequence[Mapping[str, Any]]
) -> tuple[PackedLinear, ...]:
    """Read what `hidden_to_tensors` and `hidden_to_json` gave."""
    return tuple(
        PackedLinear(
            name=layer["name"],
            in_features=layer["in_features"],
            signs=tensors[f"hidden.{number}.signs"].numpy().view(np.uint64),
            thresholds=thresholds_from_tensors(f"hidden.{number}", tensors),
        )
        for number, layer in enumerate(described)
    )


def check_hidden(hidden: Sequence[PackedLinear], width: int, max_width: int) -> int:
    """Raise ValueError unless each 1-bit layer fits the one before it; return the last one's outputs.

    ``width`` bits come to the first; without a layer they are returned.
    """
    for layer in hidden:
        check_signs(layer, width, max_width)
        width = layer.out_features
        check_thresholds(layer.name, layer.thresholds, np.int32, width)
    return width


def check_signs(layer: PackedLinear | PackedReLULinear | PackedUnits, width: int, max_width: int) -> None:
    """Raise ValueError unless a layer reads ``width`` bits, of ``max_width`` at most, and holds a sign for each."""
    if layer.in_features != width or not 1 <= width <= max_width:
        raise ValueError(f"layer {layer.name} has {layer.in_features} inputs where {width} come")
    check_array(f"{layer.name}.signs", layer.signs, np.uint64, (-(-width // 64), layer.out_features))


def check_thresholds(name: str, thresholds: Thresholds, dtype: type, width: int) -> None:
    """Raise ValueError unless thresholds have this dtype, are as many, and none is NaN."""
    check_array(f"{name}.thresholds", thresholds.values, dtype, (width,))
    check_array(f"{name}.flipped", thresholds.flipped, np.bool_, (width,))
    if np.isnan(thresholds.values).any():
        raise ValueError(f"thresholds of {name} are NaN")


def check_array(name: str, array: NDArray[Any] | None, dtype: type, shape: tuple[int, ...]) -> None:
    """Raise ValueError unless an array has this dtype and shape."""
    found = None if array is None else (array.dtype, array.shape)
    if found != (np.dtype(dtype), tuple(shape)):
        raise ValueError(f"{name} is {found}, not {(np.dtype(dtype), tuple(shape))}")


def thresholds_to_tensors(prefix: str, thresholds: Thresholds) -> dict[str, Tensor]:
    """The arrays of thresholds by their names in a file."""
    return {
        f"{prefix}.thresholds": torch.from_numpy(thresholds.values),
        f"{prefix}.flipped": torch.from_numpy(thresholds.flipped),
    }


def thresholds_from_tensors(prefix: str, tensors: Mapping[str, Tensor]) -> Thresholds:
    """Read what `thresholds_to_tensors` gave."""
    return Thresholds(tensors[f"{prefix}.thresholds"].numpy(), tensors[f"{prefix}.flipped"].numpy())
