"""What a trained or packed NCF network consists of: layers, bytes, and the operations that score a pair."""

from collections import Counter
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from torch import nn

from ncf_ppt.layer_reports import (
    BITS,
    Form,
    LayerReport,
    activation_report,
    first_report,
    hidden_report,
    last_report,
    table_report,
)
from ncf_ppt.networks import Network
from ncf_ppt.packed.gmf import PackedGMF
from ncf_ppt.packed.packing import pack
from ncf_ppt.packed.table import stored_as
from ncf_ppt.packed.tower import PackedNetwork, PackedTwoTower
from ncf_ppt.row_adam import is_binary
from ncf_ppt.serving import served
from ncf_ppt.tower_inspection import inspect_packed_tower, inspect_tower
from ncf_ppt.two_tower import TwoTower
from ppt_core.layers import BinaryActivation


@dataclass(frozen=True, kw_only=True, repr=False)
class Inspection:
    """What a trained network consists of.

    Attributes:
        name: of what was inspected.
        kind: ``run`` or ``packed``.
        layers: in the order of execution.
        file_bytes: size of its file; None for a network that is in none.
        protocol: label of the protocol that it is evaluated by.
        more: further keys of `to_dict`.
    """

    name: str
    kind: str
    layers: tuple[LayerReport, ...]
    file_bytes: int | None
    protocol: str
    more: dict[str, Any]

    @property
    def operations(self) -> dict[str, int]:
        """How many of which kind score one pair."""
        operations: Counter[str] = Counter()
        for layer in self.layers:
            operations.update(layer.operations)
        return dict(operations)

    @property
    def latent_bytes(self) -> int:
        """What all layers hold as they were trained."""
        return sum(layer.latent_bytes for layer in self.layers)

    @property
    def packed_bytes(self) -> int | None:
        """What all layers hold in a packed file; None for a network that has no such file."""
        sizes = [layer.packed_bytes for layer in self.layers if layer.packed_bytes is not None]
        return sum(sizes) if len(sizes) == len(self.layers) else None

    def to_dict(self) -> dict[str, Any]:
        """The attributes as JSON values."""
        return {
            "path": self.name,
            "kind": self.kind,
            "file_bytes": self.file_bytes,
            "protocol": self.protocol,
            **self.more,
            "layers": [layer.to_dict() for layer in self.layers],
            "latent_bytes": self.latent_bytes,
            "packed_bytes": self.packed_bytes,
            "operations": self.operations,
        }

    def __repr__(self) -> str:
        rows = [_HEADS, *map(_cells, self.layers)]
        rows.append(["all", "", "", "", *_sums(self.latent_bytes, self.packed_bytes), "", _work(self.operations)])
        widths = [max(len(row[column]) for row in rows) for column in range(len(_HEADS))]
        lines = []
        for row in rows:
            padded = [
                cell.rjust(width) if 2 <= column <= 5 else cell.ljust(width)
                for column, (cell, width) in enumerate(zip(row, widths, strict=True))
            ]
            lines.append("  ".join(padded).rstrip())
        size = "" if self.file_bytes is None else f"{self.file_bytes:,} bytes, "
        return "\n".join([*lines, f"{self.name}: {size}{self.kind} [{self.protocol}]"])


_HEADS = ["layer", "kind", "shape", "bits", "bytes at 32", "packed", "form", "operations a pair"]


def _cells(layer: LayerReport) -> list[str]:
    shape = " x ".join(f"{n:,}" for n in layer.shape)
    sizes = _sums(layer.latent_bytes, layer.packed_bytes)
    return [layer.name, layer.kind, shape, str(layer.bits), *sizes, layer.form, _work(layer.operations)]


def _sums(latent_bytes: int, packed_bytes: int | None) -> tuple[str, str]:
    return f"{latent_bytes:,}", "-" if packed_bytes is None else f"{packed_bytes:,}"


def _work(operations: dict[str, int]) -> str:
    return ", ".join(f"{n:,} {kind}" for kind, n in operations.items())


def inspect_trained(model: Network | PackedNetwork, *, name: str, path: Path, protocol: str) -> Inspection:
    """List the layers of a network, or of a packed one, that is called ``name`` and lies in the file ``path``."""
    more, is_packed = {}, isinstance(model, PackedNetwork)
    if isinstance(model, PackedNetwork):
        layers = inspect_packed(model)
        more = {"embeddings": model.embeddings, "provenance": model.provenance}
    else:
        layers = inspect_network(model)
    return Inspection(
        name=name,
        kind="packed" if is_packed else "run",
        layers=tuple(layers),
        file_bytes=path.stat().st_size if path.is_file() else None,
        protocol=protocol,
        more=more,
    )


def inspect_packed(packed: PackedNetwork, *, form: Form = "packed") -> list[LayerReport]:
    """Report the layers of a packed network in the order of execution; ``form`` is that of its 1-bit parts."""
    if isinstance(packed, PackedTwoTower):
        return inspect_packed_tower(packed, form=form)
    forms: dict[str, Form] = {"float32": "32-bit", "int8": "8-bit", "binary": form}
    reports = []
    for name, table in packed.tables.items():
        stored = stored_as(packed.embeddings, name)
        reports.append(table_report(name, len(table), table.size, BITS[stored], table.nbytes, forms[stored]))
    if isinstance(packed, PackedGMF):
        last = last_report(packed.item_factors.size, 0, packed.weights.nbytes + 8)
        if packed.embeddings == "binary":
            last = replace(last, operations={"1-bit multiply-add": packed.item_factors.size, "32-bit multiply-add": 2})
        return [*reports, last]
    has_batch_norm = packed.first.bias is None
    width = packed.first.out_features
    first_bytes = sum(4 * tensor.numel() for tensor in packed.first.state_dict().values())
    reports.append(first_report(packed.first, first_bytes))
    reports.append(activation_report(packed.first_name, width, 1, 5 * width, has_batch_norm, form))
    for layer in packed.hidden:
        n_in, n_out = layer.in_features, layer.out_features
        reports.append(hidden_report(layer.name, n_in, n_out, layer.signs.nbytes, has_batch_norm, form))
        reports.append(activation_report(_next(layer.name), n_out, 1, 5 * n_out, has_batch_norm, form))
    units = packed.units
    n_in, n_units = units.in_features, units.out_features
    reports.append(hidden_report(units.name, n_in, n_units, units.signs.nbytes, has_batch_norm, form))
    reports.append(activation_report(_next(units.name), n_units, 32, 8 * n_units, has_batch_norm, "32-bit"))
    reports.append(last_report(packed.item_factors.size, n_units, packed.last_weight.nbytes + 8))
    return reports


def inspect_network(model: Network) -> list[LayerReport]:
    """Report the layers of a network in the order of execution, as they serve (`ncf_ppt.serving.served`).

    For one that is in low precision and can be packed, bytes packed are those of `ncf_ppt.packed.packing.pack`.
    """
    model = model if isinstance(model, TwoTower) else served(model)
    is_low = any(isinstance(module, BinaryActivation) and module.precision == "low" for module in model.modules())
    if is_low or (model.config.model == "gmf" and any(map(is_binary, model.tables()))):
        nothing = np.empty(0, np.int64)
        return inspect_packed(pack(model, user_ids=nothing, item_ids=nothing, protocol=""), form="simulated")
    if isinstance(model, TwoTower):
        return inspect_tower(model)
    names = {table: name for name, table in model.named_modules()}
    reports = [
        table_report(names[table], table.num_embeddings, table.embedding_dim, 32, None, "32-bit")
        for table in model.tables()
    ]
    n_units = 0
    if model.config.model != "gmf":
        reports.append(first_report(model.first, None))
        n_units = model.first.out_features
        has_batch_norm = model.config.batch_norm
        for number, layer in enumerate(model.mlp):
            if isinstance(layer, nn.Linear):
                n_units = layer.out_features
                reports.append(
                    hidden_report(f"mlp.{number}", layer.in_features, n_units, None, has_batch_norm, "32-bit")
                )
            else:
                reports.append(activation_report(f"mlp.{number}", n_units, 32, None, has_batch_norm, "32-bit"))
    n_factors = model.config.factors if model.config.model != "mlp" else 0
    return [*reports, last_report(n_factors, n_units, None)]


def _next(name: str) -> str:
    """Name of the activation behind a Linear of the MLP."""
    return f"mlp.{int(name.split('.')[1]) + 1}"
