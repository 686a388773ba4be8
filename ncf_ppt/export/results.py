"""What an export wrote, and what was measured on it."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from ncf_ppt.candidates import SearchReport


@dataclass(frozen=True, kw_only=True)
class ExportedEmbeddings:
    """A folder of vectors.

    Attributes:
        path: the folder.
        manifest: what its ``manifest.json`` holds, see `ncf_ppt.export.embeddings.export_embeddings`.
        searches: how well searches in it find the network's own top items, by ``product`` and ``similarity``; empty
            where that was not measured.
    """

    path: Path
    manifest: Mapping[str, Any] = field(repr=False)
    searches: Mapping[str, SearchReport]

    def to_dict(self) -> dict[str, Any]:
        """The manifest, the folder under ``out``, and the searches under ``verification`` if there are any."""
        reports = {by: asdict(report) for by, report in self.searches.items()}
        return {"out": str(self.path), **self.manifest, **({"verification": reports} if reports else {})}

    def __str__(self) -> str:
        of = self.manifest
        lines = [f"{self.path}: {of['n_users']:,} users, {of['n_items']:,} items, {of['meaning']}"]
        for by, found in self.searches.items():
            lines.append(
                f"by {by}: of the network's top {found.k}, {found.recall_of_top_k:.1%} in the search's top {found.k} "
                f"and {found.recall_of_candidates:.1%} in its top {found.n_candidates} ({found.n_users} users)"
            )
        return "\n".join(lines)


@dataclass(frozen=True, kw_only=True)
class ExportedOnnx:
    """An ONNX file, and how it differs from the network in PyTorch.

    Attributes:
        path: the file.
        n_bytes: its size.
        n_pairs: pairs that both scored.
        n_differing: pairs whose logits differ by more than rounding.
        largest_difference: of all other logits.
    """

    path: Path
    n_bytes: int
    n_pairs: int
    n_differing: int
    largest_difference: float

    def to_dict(self) -> dict[str, Any]:
        """The fields as JSON values, with the file under ``out`` and its size under ``bytes``."""
        fields = asdict(self)
        return {"out": str(fields.pop("path")), "bytes": fields.pop("n_bytes"), **fields}

    def __str__(self) -> str:
        return (
            f"{self.path}: {self.n_bytes:,} bytes; of {self.n_pairs:,} pairs {self.n_differing} have other logits "
            f"than in PyTorch, all others within {self.largest_difference:.1g}"
        )
