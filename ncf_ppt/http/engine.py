"""What answers: a packed network with everything that its answers take, computed beforehand.

A result is a function of the model and the one who is asked about, never of the others in the same call.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from data_prep.ratings.interactions import Interactions
from ncf_ppt.candidates import Reranker
from ncf_ppt.fold_in import PackedFoldIn
from ncf_ppt.http.known_ids import KnownIds, Texts
from ncf_ppt.packed.tower import PackedNetwork, PackedTwoTower
from ncf_ppt.ranking import Scorer
from ncf_ppt.recommendation import score_catalogue, top_items
from ncf_ppt.similar_items import ItemsAlike
from ppt_core.errors import DataError


@dataclass(frozen=True, kw_only=True, eq=False)
class Wanted:
    """A list that is wanted.

    Attributes:
        user: number of a known user; None stands for somebody who is known by a history alone.
        k: length of the list; it is shorter where fewer items are left.
        include_seen: list what the user has, too.
        left_out: bool (n_items,), items that must not be listed; None leaves out nothing.
        history: numbers of the items that somebody had, each once, oldest first.
    """

    user: int | None
    k: int
    include_seen: bool = False
    left_out: NDArray[np.bool_] | None = None
    history: tuple[int, ...] = ()


Found = tuple[NDArray[np.int32], NDArray[np.float32]]
"""Item numbers and their scores, best first, equal scores in the order of item numbers."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Engine:
    """A model as it is served.

    Attributes:
        name: what it was loaded from.
        identity: the first digits of the SHA-256 of what was loaded.
        network: without its ids, which are kept once, below.
        users: their original ids.
        items: likewise.
        alike: finds items alike.
        seen: what each user had; None where no data were given.
        titles: of the items, by number; None without any.
        two_stages: finds candidates and scores them; None where all items are scored.
        fold_in: makes rows of histories for a network that knows its users by rows, and has its data at hand.
        longest: lists that candidates were chosen for have this length at most.
    """

    name: str
    identity: str
    network: PackedNetwork
    users: KnownIds
    items: KnownIds
    alike: ItemsAlike
    seen: Interactions | None
    titles: Texts | None
    two_stages: Reranker | None
    fold_in: PackedFoldIn | None
    longest: int

    def warm_up(self) -> None:
        """Answer one request of each kind, by which everything that is computed once is computed."""
        self.recommend([Wanted(user=0, k=min(self.longest, len(self.items)))])
        self.recommend([Wanted(user=0, k=1, include_seen=True, left_out=np.zeros(len(self.items), np.bool_))])
        if self.reads_histories:
            self.recommend([Wanted(user=None, k=1, history=(0,))])
        self.score([(0, 0)])
        self.similar([(0, 1)])

    def recommend(self, wanted: Sequence[Wanted]) -> list[Found | DataError]:
        """The best items of each user; an error in the place of a list that holds NaN."""
        found: list[Found | DataError] = [(np.empty(0, np.int32), np.empty(0, np.float32))] * len(wanted)
        short = [number for number, each in enumerate(wanted) if self._by_candidates(each)]
        whole = [number for number, each in enumerate(wanted) if not self._by_candidates(each)]
        if short:
            assert self.two_stages is not None
            users = np.array([wanted[number].user for number in short], np.int64)
            k = max(wanted[number].k for number in short)
            items, scores, lengths, is_nan = self.two_stages.top(users, k)
            self._put(found, short, wanted, items, scores, lengths, is_nan)
        if whole:
            some = [wanted[number] for number in whole]
            scores = self._scores(some)
            is_nan = np.logical_or.reduce(np.isnan(scores), axis=1)
            for row, each in enumerate(some):
                if each.left_out is not None:
                    scores[row, each.left_out] = -np.inf
                if not each.include_seen:
                    scores[row, list(each.history)] = -np.inf
            # Two calls where lists of some leave out what `seen` holds and those of others do not.
            leaves_out = [not each.include_seen and each.user is not None for each in some]
            for is_so in set(leaves_out):
                rows = [row for row, value in enumerate(leaves_out) if value is is_so]
                k = min(max(some[row].k for row in rows), len(self.items))
                users = np.array([some[row].user if is_so else 0 for row in rows], np.int64)
                these = scores if len(rows) == len(some) else scores[rows]
                items, best, lengths = top_items(these, k, *self._seen_by(users, is_so))
                self._put(found, [whole[row] for row in rows], wanted, items, best, lengths, is_nan[rows])
        return found

    def _scores(self, wanted: Sequence[Wanted]) -> NDArray[np.float32]:
        """The scores of all items for each, float32 (n, n_items)."""
        users = np.array([each.user for each in wanted if each.user is not None], np.int64)
        known = score_catalogue(self.network, users, len(self.items))
        if len(users) == len(wanted):
            return known
        histories = [each.history for each in wanted if each.user is None]
        new = score_catalogue(self._of_histories(histories), np.arange(len(histories)), len(self.items))
        of_known, of_new = iter(known), iter(new)
        return np.stack([next(of_new if each.user is None else of_known) for each in wanted])

    @property
    def reads_histories(self) -> bool:
        """Whether lists can be made for somebody who is known by a history alone."""
        return self.fold_in is not None or isinstance(self.network, PackedTwoTower)

    def _of_histories(self, histories: Sequence[tuple[int, ...]]) -> Scorer:
        """What scores items for the people of these histories, by their number."""
        if isinstance(self.network, PackedTwoTower):
            recent = np.full((len(histories), self.network.n_recent), -1, np.int32)
            for row, history in enumerate(histories):
                last = history[: -self.network.n_recent - 1 : -1]
                recent[row, : len(last)] = last
            return self.network.of_histories(recent)
        assert self.fold_in is not None
        people = Interactions(
            offsets=np.cumsum([0, *map(len, histories)]),
            items=np.array([item for history in histories for item in sorted(history)], np.int32),
            n_items=len(self.items),
        )
        return self.fold_in(people, np.arange(len(histories)))

    def score(self, pairs: Sequence[tuple[int, int]]) -> list[float | DataError]:
        """The logit of each pair of a user and an item, by their numbers."""
        numbers = np.array(pairs, np.int64).reshape(-1, 2)
        users = np.ascontiguousarray(numbers[:, 0])
        scores = self.network(users, np.ascontiguousarray(numbers[:, 1:]).astype(np.int32))[:, 0]
        return [self._diverged(user) if score != score else score for user, score in zip(users, scores.tolist())]  # noqa: B905

    def similar(self, wanted: Sequence[tuple[int, int]]) -> list[Found]:
        """The items most like each of some, with cosines, for pairs of an item's number and k."""
        numbers = np.array([number for number, _ in wanted], np.int64)
        best, similarities = self.alike.find(numbers, max(k for _, k in wanted))
        return [(best[row, :k], similarities[row, :k]) for row, (_, k) in enumerate(wanted)]

    def _by_candidates(self, wanted: Wanted) -> bool:
        """Whether candidates hold the list: those that were chosen leave out what was seen, and nothing else."""
        is_usual = wanted.left_out is None and not wanted.include_seen and wanted.user is not None
        return self.two_stages is not None and is_usual and wanted.k <= self.longest

    def _seen_by(self, users: NDArray[np.int64], leaves_out: bool) -> tuple[Interactions, NDArray[np.int64]]:
        if not leaves_out or self.seen is None:
            return Interactions.none(n_users=1, n_items=len(self.items)), np.zeros(len(users), np.int64)
        return self.seen, users

    def _put(
        self,
        found: list[Found | DataError],
        numbers: Sequence[int],
        wanted: Sequence[Wanted],
        items: NDArray[np.int32],
        scores: NDArray[np.float32],
        lengths: NDArray[np.int64],
        is_nan: NDArray[np.bool_],
    ) -> None:
        for row, number in enumerate(numbers):
            n = min(int(lengths[row]), wanted[number].k)
            is_bad = bool(is_nan[row])
            found[number] = self._diverged(wanted[number].user) if is_bad else (items[row, :n], scores[row, :n])

    def _diverged(self, user: int | None) -> DataError:
        who = "the history" if user is None else f"user {self.users.of_numbers(np.array([user]))[0]}"
        return DataError(
            f"the scores of {who} hold NaN, so nothing can be recommended; the model has diverged: train it "
            "again with a lower learning rate"
        )
