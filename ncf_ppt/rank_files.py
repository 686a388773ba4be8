"""Where each user's held-out item ranks, with the original ids: a table, and the Parquet file that keeps it.

Columns ``user_id`` and ``item_id`` (of the held-out item) as in the source, int64 ``above`` and ``equal`` as in
`ncf_ppt.ranking.Ranks`, and int64 ``rank``, from 0, when the held-out item loses every tie. The file's metadata hold
the ``protocol``, and under ``about`` a JSON object with what was measured by what, and on which data.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from data_prep.ratings.interactions import id_column
from ncf_ppt.ranking import Ranks
from ppt_core.damaged import checked, understanding
from ppt_core.errors import DataError
from ppt_core.json_text import json_text
from ppt_core.runs.files import refuse_existing, replaced_file


@dataclass(frozen=True, kw_only=True, eq=False, repr=False)
class RanksOfUsers:
    """Ranks with the ids that they belong to.

    Attributes:
        ranks: of each user.
        user_ids: original ids, int64 or str objects (n_users,).
        item_ids: original ids of the held-out items, likewise.
        protocol: how they were measured; ranks of different protocols must not be compared.
        about: ``ranking``, ``n_negatives`` and ``engine`` as `ncf_ppt.evaluation.Evaluation` has them, and ``data``,
            what names the prepared set; empty where a file says nothing.
    """

    ranks: Ranks
    user_ids: NDArray[Any]
    item_ids: NDArray[Any]
    protocol: str
    about: Mapping[str, Any]

    def columns(self) -> dict[str, NDArray[Any]]:
        """One element for each user in each column."""
        return {
            "user_id": self.user_ids,
            "item_id": self.item_ids,
            "above": self.ranks.above,
            "equal": self.ranks.equal,
            "rank": self.ranks.pessimistic,
        }

    def save(self, path: Path) -> None:
        """Write the new Parquet file ``path``. Raises `DataError` if it exists."""
        import pyarrow as pa
        import pyarrow.parquet as pq

        refuse_existing(path)
        table = pa.table(
            {name: id_column(column) if name.endswith("_id") else column for name, column in self.columns().items()}
        )
        metadata = {"protocol": self.protocol, "about": json_text(dict(self.about))}
        with replaced_file(path, new=True) as partial:
            pq.write_table(table.replace_schema_metadata(metadata), partial)


def is_rank_file(path: Path) -> bool:
    """Whether ``path`` is a Parquet file."""
    if not path.is_file():
        return False
    with path.open("rb") as file:
        return file.read(4) == b"PAR1"


def read_ranks(path: Path) -> RanksOfUsers:
    """Read what `RanksOfUsers.save` wrote. Raises `DataError` if it cannot be read, or is something else."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    with understanding(path, OSError, pa.ArrowException):
        table = pq.read_table(path)
        metadata = {key.decode(): value.decode() for key, value in (table.schema.metadata or {}).items()}
        about = json.loads(metadata.get("about", "{}"))
        names = table.column_names
    missing = [name for name in ("user_id", "item_id", "above", "equal") if name not in names]
    if missing or "protocol" not in metadata or not len(table):
        what = f"column {missing[0]}" if missing else "protocol" if len(table) else "user"
        raise DataError(f"{path} is no file of ranks (it has no {what}); write one with `evaluate --per-user`")
    checked(about, {}, path)
    above, equal = (_counts(path, name, table[name]) for name in ("above", "equal"))
    with understanding(path):  # Arrow decodes texts when they are asked for
        user_ids, item_ids = (_ids(table[name]) for name in ("user_id", "item_id"))
    return RanksOfUsers(
        ranks=Ranks(above=above, equal=equal),
        user_ids=user_ids,
        item_ids=item_ids,
        protocol=metadata["protocol"],
        about=about,
    )


def _ids(column: Any) -> NDArray[Any]:
    import pyarrow as pa

    if pa.types.is_integer(column.type):
        return np.asarray(column.to_numpy(), np.int64)
    return np.array(column.to_pylist(), object)


def _counts(path: Path, name: str, column: Any) -> NDArray[np.int64]:
    import pyarrow as pa

    if not pa.types.is_integer(column.type) or column.null_count:
        raise DataError(f"{path}: column {name} holds no counts but {column.type}; write it with `evaluate --per-user`")
    counts = np.asarray(column.to_numpy(), np.int64)
    if (counts < 0).any():
        raise DataError(f"{path}: column {name} holds {counts.min()}, and counts are at least 0; write it again")
    return counts
