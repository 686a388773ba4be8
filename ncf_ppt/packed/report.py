"""A packed network written to a file: what it takes, and what it was verified to keep."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from data_prep.ratings.interactions import PreparedData
from ncf_ppt.networks import Network
from ncf_ppt.packed.comparisons import Verification
from ncf_ppt.packed.file import save_packed
from ncf_ppt.packed.tower import PackedNetwork
from ncf_ppt.packed.verification import verify_on_test_items
from ncf_ppt.ranking import rank_test_items
from ncf_ppt.scoring import scorer


@dataclass(frozen=True, kw_only=True, repr=False)
class PackReport:
    """What a packed file holds beside the network that it was made from.

    Attributes:
        path: the file.
        file_bytes: its size.
        embeddings: how they are stored.
        embedding_bytes: their size.
        float32_bytes: size of all parameters of the network at 32 bits.
        hit_ratio: HR@10 of the packed network.
        hit_ratio_of_run: HR@10 of the network.
        protocol: of both.
        verification: what was compared.
    """

    path: Path
    file_bytes: int
    embeddings: str
    embedding_bytes: int
    float32_bytes: int
    hit_ratio: float
    hit_ratio_of_run: float
    protocol: str
    verification: Verification

    def to_dict(self) -> dict[str, Any]:
        """The attributes as JSON values."""
        return {
            "out": str(self.path),
            "bytes": self.file_bytes,
            "embeddings": self.embeddings,
            "embedding_bytes": self.embedding_bytes,
            "float32_bytes": self.float32_bytes,
            "hit_ratio": self.hit_ratio,
            "hit_ratio_of_run": self.hit_ratio_of_run,
            "protocol": self.protocol,
            **self.verification.to_dict(),
        }

    def __repr__(self) -> str:
        found = self.verification
        return (
            f"{self.path}: {self.file_bytes:,} bytes, {self.embedding_bytes:,} of them embeddings "
            f"({self.embeddings}); all parameters at 32 bits: {self.float32_bytes:,}\n"
            f"HR@10 {self.hit_ratio:.4f} [{self.protocol}; ties lost], of the run {self.hit_ratio_of_run:.4f}\n"
            f"bits that differ from the simulated network: 0 of {found.compared_bits + found.boundary_bits:,}\n"
            f"rounding of the first layer: {found.first_layer_differences:,} of {found.first_layer_bits:,} bits, "
            f"{found.changed_ranks:,} of {found.n_ranks:,} ranks"
        )


def write_packed(packed: PackedNetwork, model: Network, data: PreparedData, path: Path) -> PackReport:
    """Verify a packed network against the one it was made from, and write it to the new file ``path``.

    Raises `DataError` if they differ, or if ``path`` exists.
    """
    verification = verify_on_test_items(packed, model, data)
    save_packed(packed, path)
    return PackReport(
        path=path,
        file_bytes=path.stat().st_size,
        embeddings=packed.embeddings,
        embedding_bytes=sum(table.nbytes for table in packed.tables.values()),
        float32_bytes=sum(4 * parameter.numel() for parameter in model.parameters()),
        hit_ratio=rank_test_items(packed, data).hit_ratio(),
        hit_ratio_of_run=rank_test_items(scorer(model), data).hit_ratio(),
        protocol=data.protocol_label,
        verification=verification,
    )
