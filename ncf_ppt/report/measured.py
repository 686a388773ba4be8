"""What a report shows of each run, as values: its metrics, and where held-out items rank by popularity and activity."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from data_prep.ratings.interactions import PreparedData
from ncf_ppt.catalogue import CatalogueRanks
from ncf_ppt.contenders import per_user, refuse_incomparable
from ncf_ppt.evaluation import Evaluation
from ncf_ppt.item_lists import Titles, titles_of
from ncf_ppt.paired_tests import Interval, mean_interval
from ncf_ppt.ranking import Ranks
from ncf_ppt.trained import TrainedNCF
from ppt_core.errors import DataError

N_GROUPS = 5
N_SHOWN = 3
_SHOWN_ITEMS = 10
_LAST_ITEMS = 5


@dataclass(frozen=True, kw_only=True)
class GroupOfUsers:
    """Users of about the same activity, or whose held-out items are about as popular.

    Attributes:
        lowest: the smallest number of interactions among them.
        highest: the largest.
        n_users: how many they are.
        hit_ratio: HR@k, with its interval over users.
        ndcg: NDCG@k, likewise.
        median_rank: from 1, the held-out item losing ties.
    """

    lowest: int
    highest: int
    n_users: int
    hit_ratio: Interval
    ndcg: Interval
    median_rank: float


@dataclass(frozen=True, kw_only=True)
class SampleList:
    """What one user would be recommended, as texts.

    Attributes:
        user: the original id.
        n_known: how many items training knew of the user.
        last: what the user did last, the latest first; empty where no order in time is known.
        held_out: the held-out item.
        lists: of each run, best first.
        held_out_at: where the held-out item stands in each, from 0; None where it does not. Titles may be alike.
    """

    user: str
    n_known: int
    last: tuple[str, ...]
    held_out: str
    lists: tuple[tuple[str, ...], ...]
    held_out_at: tuple[int | None, ...]


@dataclass(frozen=True, kw_only=True, eq=False)
class MeasuredRun:
    """One run.

    Attributes:
        name: of its folder.
        settings: how it was trained, and by what, as JSON values of its ``config.json``.
        provenance: by what, see `ppt_core.runs.provenance.provenance`; empty in older runs.
        history: the lines of its ``metrics.jsonl``, one for each evaluation.
        evaluation: among the frozen negatives.
        metrics: HR@k and NDCG@k of that, with intervals over users, by ``hit_ratio`` and ``ndcg``.
        by_popularity: groups by the train positives of the held-out item.
        by_activity: groups by the train positives of the user.
        catalogue: in the whole catalogue; None if that was not asked for.
    """

    name: str
    settings: Mapping[str, Any]
    provenance: Mapping[str, Any]
    history: Sequence[Mapping[str, Any]]
    evaluation: Evaluation
    metrics: Mapping[str, Interval]
    by_popularity: tuple[GroupOfUsers, ...]
    by_activity: tuple[GroupOfUsers, ...]
    catalogue: CatalogueRanks | None


@dataclass(frozen=True, kw_only=True, eq=False)
class RunReport:
    """Several runs on the same data.

    Attributes:
        runs: what was measured of each.
        k: length of the lists.
        samples: lists of some users.
    """

    runs: tuple[MeasuredRun, ...]
    k: int
    samples: tuple[SampleList, ...] = field(repr=False)

    @property
    def protocol(self) -> str:
        """How the held-out items were ranked."""
        return self.runs[0].evaluation.protocol

    @property
    def n_users(self) -> int:
        """How many users have one."""
        return self.runs[0].evaluation.n_users


def measure_runs(
    trained: Sequence[TrainedNCF], *, k: int = 10, titles: Titles | None = None, catalogue: bool = True
) -> RunReport:
    """Measure finished runs for a report.

    Args:
        trained: runs on the same data.
        k: length of the lists.
        titles: of the items, see `ncf_ppt.side_files.read_titles`; without them lists hold ids.
        catalogue: also rank in the whole catalogue, which takes a while where it is large.

    Raises ValueError for none and for a packed file, which has no history, and `DataError` for runs on different data,
    or two of the same name.
    """
    if not trained:
        raise ValueError("a report needs a run; name one at least")
    names = [each.name for each in trained]
    for name in names:
        if names.count(name) > 1:
            raise DataError(f"{name} is named {names.count(name)} times; name each run once")
    folders = [each.run for each in trained]  # a packed file has none
    refuse_incomparable([(each.name, each.data_record | {"protocol": each.protocol}) for each in trained])
    data = trained[0].data
    popularity = np.bincount(data.train.items, minlength=data.n_items)[data.test_items]
    activity = np.diff(data.train.offsets)[: data.n_tested]
    runs = []
    for each, folder in zip(trained, folders, strict=True):
        found = each.evaluate(k=k)
        whole = each.evaluate(ranking="full", k=k).ranks if catalogue else None
        assert whole is None or isinstance(whole, CatalogueRanks)
        config = folder.config
        runs.append(
            MeasuredRun(
                name=each.name,
                settings=config.settings(),
                provenance=config.provenance,
                history=folder.metrics(),
                evaluation=found,
                metrics={metric: mean_interval(values) for metric, values in per_user(found.ranks, k).items()},
                by_popularity=tuple(groups_of_users(found.ranks, popularity, k)),
                by_activity=tuple(groups_of_users(found.ranks, activity, k)),
                catalogue=whole,
            )
        )
    return RunReport(runs=tuple(runs), k=k, samples=tuple(_samples(trained, data, titles)))


def groups_of_users(
    ranks: Ranks, counts: NDArray[np.int64], k: int, n_groups: int = N_GROUPS
) -> Iterator[GroupOfUsers]:
    """Part users by a count, few first, into groups as equal in size as can be: equal counts stay together.

    Args:
        ranks: of n users.
        counts: int64 (n,).
        k: length of the lists.
        n_groups: at most so many.
    """
    ends = np.unique(np.quantile(counts, np.arange(1, n_groups + 1) / n_groups, method="inverted_cdf"))
    group = np.searchsorted(ends, counts)
    values = per_user(ranks, k)
    for number in range(len(ends)):
        chosen = group == number
        yield GroupOfUsers(
            lowest=int(counts[chosen].min()),
            highest=int(counts[chosen].max()),
            n_users=int(chosen.sum()),
            hit_ratio=mean_interval(values["hit_ratio"][chosen]),
            ndcg=mean_interval(values["ndcg"][chosen]),
            median_rank=float(np.median(ranks.pessimistic[chosen])) + 1,
        )


def _samples(trained: Sequence[TrainedNCF], data: PreparedData, titles: Titles | None) -> Iterator[SampleList]:
    """Lists of users with few, with middling and with many interactions."""
    activity = np.diff(data.train.offsets)[: data.n_tested]
    order = np.argsort(activity, kind="stable")
    users = np.unique(order[[len(order) * (2 * n + 1) // (2 * N_SHOWN) for n in range(N_SHOWN)]])
    chosen = sorted(users.tolist(), key=lambda user: int(activity[user]))
    asked = data.user_ids[chosen].tolist()
    lists = [each.recommend(asked, _SHOWN_ITEMS).to_dicts() for each in trained]
    for place, user in enumerate(chosen):
        first, last = data.train.offsets[user], data.train.offsets[user + 1]
        latest = [] if data.history is None else data.history[first:last][::-1][:_LAST_ITEMS].tolist()
        held_out = data.item_ids[[data.test_items[user]]]
        found = [each[place]["item_ids"] for each in lists]
        yield SampleList(
            user=str(asked[place]),
            n_known=int(activity[user]),
            last=_texts(data.item_ids[latest], titles),
            held_out=_texts(held_out, titles)[0],
            lists=tuple(_texts(np.array(each, object), titles) for each in found),
            held_out_at=tuple(each.index(held_out[0]) if held_out[0] in each else None for each in found),
        )


def _texts(item_ids: NDArray[Any], titles: Titles | None) -> tuple[str, ...]:
    """Titles, or ids where there are none."""
    ids = [str(item) for item in item_ids.tolist()]
    if titles is None:
        return tuple(ids)
    return tuple(title or item for item, title in zip(ids, titles_of(item_ids, titles).tolist(), strict=True))
