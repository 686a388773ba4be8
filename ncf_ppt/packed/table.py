"""An embedding table in the bytes in which it is stored."""

from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from ncf_ppt.export.encodings import decode, encode
from ncf_ppt.row_adam import RowEmbedding, is_binary

Stored = Literal["float32", "int8", "binary"]
Embeddings = Stored | Literal["binary items"]


@dataclass(frozen=True, kw_only=True, eq=False)
class PackedTable:
    """Rows (n, size), float32 as they are read: ``table[users]``.

    Attributes:
        values: the stored rows: float32 or int8 (n, size), or uint8 bits as `ncf_ppt.export.encodings` packs them.
        scales: of the rows: float32 (n,) of int8, float16 (n,) of bits, None of float32.
        size: components of a row.
    """

    values: NDArray[Any]
    scales: NDArray[Any] | None
    size: int

    @classmethod
    def of(cls, table: RowEmbedding, embeddings: Embeddings) -> "PackedTable":
        """Encode a table. ``binary`` loses nothing of one that is 1-bit, and is for no other.

        ``binary items`` is that for a table that is 1-bit, and float32 for another one.
        """
        rows = table.values().numpy()
        if embeddings == "binary items":
            embeddings = "binary" if is_binary(table) else "float32"
        if embeddings == "binary":
            scales = np.abs(rows).max(axis=1, initial=0).astype(np.float16)
            return cls(values=encode(rows, "binary")[0], scales=scales, size=rows.shape[1])
        values, scales = encode(rows, embeddings)
        return cls(values=values, scales=scales, size=rows.shape[1])

    @classmethod
    def empty(cls, n_rows: int) -> "PackedTable":
        """Rows without components, of a network without that part."""
        return cls(values=np.empty((n_rows, 0), np.float32), scales=None, size=0)

    def __len__(self) -> int:
        return len(self.values)

    def __getitem__(self, rows: Any) -> NDArray[np.float32]:
        """The rows of an index or a slice, float32 (n, size)."""
        return decode(self.values[rows], None if self.scales is None else self.scales[rows], self.size)

    @property
    def nbytes(self) -> int:
        """Bytes of rows and scales."""
        return int(self.values.nbytes) + (0 if self.scales is None else int(self.scales.nbytes))


def embeddings_of(tables: list[RowEmbedding]) -> Embeddings:
    """How a network's tables are stored without loss."""
    are_binary = set(map(is_binary, tables))
    return "float32" if True not in are_binary else "binary" if are_binary == {True} else "binary items"


def stored_as(embeddings: Embeddings, name: str) -> Stored:
    """How the table of this name, ``gmf_item`` say, is stored in a network whose embeddings are so."""
    if embeddings != "binary items":
        return embeddings
    return "binary" if name.endswith("item") else "float32"
