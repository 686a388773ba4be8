"""What a recommender scores on the held-out items, and by which protocol."""

from dataclasses import dataclass
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from data_prep.ratings.interactions import PreparedData
from ncf_ppt.catalogue import CatalogueRanks, rank_catalogue
from ncf_ppt.rank_files import RanksOfUsers
from ncf_ppt.ranking import Ranks, Scorer, rank_test_items
from ppt_core.distributed import World
from ppt_core.identity import copied_record, data_record

if TYPE_CHECKING:
    import pandas as pd

    from ncf_ppt.two_stages import FirstStage

Ranking = Literal["sampled", "full"]
MEMORY = 64_000_000
"""Bytes of catalogue scores held at a time."""


@dataclass(frozen=True, kw_only=True, eq=False, repr=False)
class Evaluation:
    """Where each user's held-out item ranks, and what follows from it. Metrics let it lose every tie.

    Attributes:
        ranks: of each user, see `ncf_ppt.ranking.Ranks`.
        data: what was ranked.
        ranking: ``sampled``: among the frozen negatives of ``data``; ``full``: in the whole catalogue without what
            the user has.
        engine: what computed the scores.
        k: length of the lists, where no other is asked for.
        first_stage: how candidates were found, where not all items were scored; an item that is none ranks last.
    """

    ranks: Ranks
    data: PreparedData
    ranking: Ranking
    engine: str
    k: int = 10
    first_stage: "FirstStage | None" = None

    @property
    def protocol(self) -> str:
        """What a metric must carry; numbers of different protocols must not be compared."""
        if self.ranking == "full":
            return f"{self.data.split_label}, whole catalogue without train items"
        return self.data.protocol_label

    @property
    def n_users(self) -> int:
        """Number of users, each with one held-out item."""
        return self.data.n_tested

    @property
    def remark(self) -> str | None:
        """What makes the metrics say nothing: that the first `k` are all candidates. None if they say something."""
        n = self.data.n_items if self.ranking == "full" else 1 + self.data.n_negatives
        if self.k < n:
            return None
        return f"k is {self.k} and there are {n} candidates: every user is a hit, so HR@{self.k} says nothing"

    def hit_ratio(self, k: int | None = None) -> float:
        """Share of users whose held-out item is among the first ``k``: HR@k."""
        return self.ranks.hit_ratio(k or self.k)

    def ndcg(self, k: int | None = None) -> float:
        """NDCG@k, see `ncf_ppt.ranking.Ranks.ndcg`."""
        return self.ranks.ndcg(k or self.k)

    def tie_rate(self) -> float:
        """Share of users whose held-out item ties with another."""
        return self.ranks.tie_rate()

    def to_dict(self) -> dict[str, Any]:
        """The metrics at `k` and what they mean, under the names of the commands' JSON."""
        return {
            "n_users": self.n_users,
            "n_negatives": None if self.ranking == "full" else self.data.n_negatives,
            "ranking": self.ranking,
            "engine": self.engine,
            "protocol": self.protocol,
            **self.ranks.metrics(self.k),
            **({"remark": self.remark} if self.remark else {}),
            **({} if self.first_stage is None else {"candidates": self.first_stage.to_dict()}),
        }

    def to_pandas(self) -> "pd.DataFrame":
        """One row for each user, see `save`."""
        import pandas as pd

        return pd.DataFrame(self.of_users().columns())

    def save(self, path: Path | str) -> None:
        """Write one row for each user to a new Parquet file, see `ncf_ppt.rank_files`."""
        self.of_users().save(Path(path))

    def of_users(self) -> RanksOfUsers:
        """The ranks with original ids, and what they mean."""
        n_negatives = None if self.ranking == "full" else self.data.n_negatives
        data = copied_record(data_record(self.data))
        return RanksOfUsers(
            ranks=self.ranks,
            user_ids=self.data.user_ids[: self.data.n_tested],
            item_ids=self.data.item_ids[self.data.test_items],
            protocol=self.protocol,
            about={"ranking": self.ranking, "n_negatives": n_negatives, "engine": self.engine, "data": data},
        )

    def __repr__(self) -> str:
        values = f"HR@{self.k} {self.hit_ratio():.4f}, NDCG@{self.k} {self.ndcg():.4f}"
        if isinstance(self.ranks, CatalogueRanks):
            values += f", MRR {self.ranks.mrr():.4f}, coverage {self.ranks.coverage(self.k):.1%}"
        remark = f"; {self.remark}" if self.remark else ""
        return f"Evaluation({values} [{self.protocol}; ties lost]{remark})"

    def _repr_html_(self) -> str:
        metrics = {f"HR@{self.k}": self.hit_ratio(), f"NDCG@{self.k}": self.ndcg(), "tie rate": self.tie_rate()}
        heads = "".join(f"<th>{escape(name)}</th>" for name in metrics)
        values = "".join(f"<td>{value:.4f}</td>" for value in metrics.values())
        return f"<table><tr>{heads}</tr><tr>{values}</tr></table><p>{escape(self.protocol)}; ties lost</p>"


def evaluate(
    score: Scorer,
    data: PreparedData,
    *,
    ranking: Ranking = "sampled",
    k: int = 10,
    engine: str = "torch",
    memory: int = MEMORY,
    world: World = World(),  # noqa: B008 (frozen)
) -> Evaluation:
    """Rank each user's held-out item by a scorer: a network, a packed one or a baseline.

    Args:
        score: see `ncf_ppt.ranking.Scorer`.
        data: what is ranked.
        ranking: see `Evaluation`.
        k: at least 1.
        engine: how the result calls what computed.
        memory: bytes of catalogue scores held at a time, one user's at least; no result depends on it.
        world: the processes that share the users (`ppt_core.distributed.join_world`); no result depends on it either,
            and each has it whole.

    Raises `DataError` if a score is NaN, and ValueError for an argument out of its range.
    """
    if ranking not in ("sampled", "full"):
        raise ValueError(f"ranking is {ranking!r}; it must be sampled or full")
    if k < 1:
        raise ValueError(f"k is {k}; it must be at least 1")
    ranks: Ranks
    if ranking == "sampled":
        ranks = rank_test_items(score, data, world=world)
    else:
        ranks = rank_catalogue(score, data, k=k, memory=memory, world=world)
    return Evaluation(ranks=ranks, data=data, ranking=ranking, engine=engine, k=k)
