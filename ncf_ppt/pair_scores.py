"""Scores of given pairs of a user and an item."""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from data_prep.ratings.in_memory import read_memory
from data_prep.ratings.interactions import PreparedData
from ncf_ppt.item_lists import SHOWN
from ncf_ppt.original_ids import known_numbers, written
from ncf_ppt.ranking import Scorer
from ncf_ppt.side_files import Entries, read_pairs
from ncf_ppt.table_files import save_table
from ppt_core.errors import DataError

if TYPE_CHECKING:
    import pandas as pd


@dataclass(frozen=True, kw_only=True, eq=False, repr=False)
class PairScores:
    """A score for each pair, in the order in which they were asked for.

    Attributes:
        user_ids: original ids, int64 or str objects (n,).
        item_ids: original ids, int64 or str objects (n,).
        scores: float32 (n,): logits; the higher, the likelier. Only pairs of one user are to be compared.
    """

    user_ids: NDArray[Any]
    item_ids: NDArray[Any]
    scores: NDArray[np.float32]

    def __len__(self) -> int:
        return len(self.scores)

    def columns(self) -> dict[str, NDArray[Any]]:
        """``user_id``, ``item_id`` and float32 ``score`` of each pair."""
        return {"user_id": self.user_ids, "item_id": self.item_ids, "score": self.scores}

    def to_dicts(self) -> list[dict[str, Any]]:
        """The same of each pair, as JSON values."""
        lists = [column.tolist() for column in self.columns().values()]
        return [dict(zip(self.columns(), row, strict=True)) for row in zip(*lists, strict=True)]

    def to_pandas(self) -> "pd.DataFrame":
        """A row for each pair, see `columns`."""
        import pandas as pd

        return pd.DataFrame(self.columns())

    def save(self, path: Path | str) -> None:
        """Write a row for each pair to the new ``path``: see `ncf_ppt.table_files.save_table`."""
        save_table(path, self.columns())

    def lines(self) -> list[str]:
        """Each pair as text: user, item and score with commas between them; ids with commas as JSON strings."""
        rows = zip(self.user_ids.tolist(), self.item_ids.tolist(), self.scores, strict=True)
        return [f"{written(user)}, {written(item)}, {score}" for user, item, score in rows]

    def __repr__(self) -> str:
        more = [f"... and {len(self) - SHOWN:,} more"] if len(self) > SHOWN else []
        return "\n".join([f"Scores of {len(self):,} pairs: user, item, score", *self.lines()[:SHOWN], *more])


def score_pairs(score: Scorer, data: PreparedData, pairs: Any) -> PairScores:
    """Score pairs of users and items.

    Args:
        score: the network. A packed one's scores are bit for bit those that `ncf_ppt.recommendation.recommend` lists;
            PyTorch rounds by how many pairs it computes at a time, which differed by at most 1e-6.
        data: what it was trained on.
        pairs: a file (`ncf_ppt.side_files.read_pairs`), or what `data_prep.ratings.in_memory.read_memory` takes: rows,
            two arrays in a tuple, a DataFrame with a user and an item column.

    Raises `DataError` for an id that is unknown or cannot be one, with its line, and for a score that is NaN.
    """
    if isinstance(pairs, (str, Path)):
        users, items = read_pairs(Path(pairs))
    else:
        found = read_memory(pairs)
        users = Entries(values=tuple(found.user_ids[found.users].tolist()))
        items = Entries(values=tuple(found.item_ids[found.items].tolist()))
    user_numbers = known_numbers(data.user_ids, "user", users, manifest=data.manifest)
    item_numbers = known_numbers(data.item_ids, "item", items, manifest=data.manifest)
    scores = score(user_numbers, item_numbers.astype(np.int32)[:, np.newaxis])[:, 0]
    is_nan = np.isnan(scores)
    if is_nan.any():
        user = data.user_ids[user_numbers[is_nan.argmax()]]
        raise DataError(
            f"a score of user {user} is NaN; the model has diverged: train it again with a lower learning rate"
        )
    return PairScores(user_ids=data.user_ids[user_numbers], item_ids=data.item_ids[item_numbers], scores=scores)
