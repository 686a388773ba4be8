"""What answers: a packed network with everything that its answers take, computed beforehand.

A result is a function of the model and the one who is asked about, never of the others in the same call.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from data_prep.ratings.interactions import Interactions
from ncf_ppt.candidates import Rescorer
from ncf_ppt.http.known_ids import KnownIds, Texts
from ncf_ppt.packed.tower import PackedNetwork
from ncf_ppt.recommendation import score_catalogue, top_items
from ncf_ppt.similar_items import ItemsAlike, item_vectors
from ncf_ppt.trained import TrainedNCF
from ncf_ppt.two_stages import Candidates, FirstStage
from ppt_core.errors import DataError


@dataclass(frozen=True, kw_only=True, eq=False)
class Wanted:
    """A list that is wanted.

    Attributes:
        user: number of a known user.
        k: length of the list; it is shorter where fewer items are left.
        include_seen: list what the user has, too.
        left_out: bool (n_items,), items that must not be listed; None leaves out nothing.
    """

    user: int
    k: int
    include_seen: bool = False
    left_out: NDArray[np.bool_] | None = None


Found = tuple[NDArray[np.int32], NDArray[np.float32]]
"""Item numbers and their scores, best first, equal scores in the order of item numbers."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Engine:
    """A model as it is served.

    Attributes:
        name: what it was loaded from.
        identity: the first digits of the SHA-256 of what was loaded.
        label: the protocol that it was measured by.
        network: without its ids, which are kept once, below.
        users: their original ids.
        items: likewise.
        alike: finds items alike.
        seen: what each user had; None where no data were given.
        titles: of the items, by number; None without any.
        two_stages: finds candidates and scores them; None where all items are scored.
        first_stage: how, if candidates were asked for.
        longest: lists that candidates were chosen for have this length at most.
    """

    name: str
    identity: str
    label: str
    network: PackedNetwork
    users: KnownIds
    items: KnownIds
    alike: ItemsAlike
    seen: Interactions | None
    titles: Texts | None
    two_stages: Rescorer | None
    first_stage: FirstStage | None
    longest: int

    @classmethod
    def of(
        cls,
        trained: TrainedNCF,
        *,
        identity: str,
        has_data: bool,
        titles: dict[str, str] | None,
        candidates: Candidates,
        k: int,
    ) -> "Engine":
        """Prepare a trained network, packed or to be packed, for serving.

        Args:
            trained: as `ncf_ppt.trained.load` gives it.
            identity: see the class.
            has_data: whether its data are at hand: who had what, and what candidates are chosen by.
            titles: of items by their original ids as text.
            candidates: what the network is to score.
            k: length of the lists that candidates are chosen for.

        Raises `DataError` if the network ended in full precision, or its data are gone or others.
        """
        packed: Any = trained.scorer("packed")
        users, items = KnownIds.of("user", packed.user_ids), KnownIds.of("item", packed.item_ids)
        named = None
        if titles is not None:
            named = Texts.of([titles.get(str(item), "") for item in packed.item_ids.tolist()])
        score, first_stage = packed, None
        if candidates.source is not None:
            score, first_stage = candidates.before(packed, packed, trained.data, k=k)
        nobody = np.empty(0, np.int64)
        bare = replace(packed, user_ids=nobody, item_ids=nobody)
        bare.__dict__.update({name: value for name, value in packed.__dict__.items() if name not in bare.__dict__})
        engine = cls(
            name=trained.name,
            identity=identity,
            label=trained.protocol,
            network=bare,
            users=users,
            items=items,
            alike=ItemsAlike.of(item_vectors(bare)),
            seen=score.seen if isinstance(score, Rescorer) else trained.data.known() if has_data else None,
            titles=named,
            two_stages=replace(score, score=bare) if isinstance(score, Rescorer) else None,
            first_stage=first_stage,
            longest=k,
        )
        engine.warm_up()
        return engine

    def warm_up(self) -> None:
        """Answer one request of each kind, by which everything that is computed once is computed."""
        self.recommend([Wanted(user=0, k=min(self.longest, len(self.items)))])
        self.recommend([Wanted(user=0, k=1, include_seen=True, left_out=np.zeros(len(self.items), np.bool_))])
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
            users = np.array([wanted[number].user for number in whole], np.int64)
            scores = score_catalogue(self.network, users, len(self.items))
            is_nan = np.logical_or.reduce(np.isnan(scores), axis=1)
            for row, number in enumerate(whole):
                left_out = wanted[number].left_out
                if left_out is not None:
                    scores[row, left_out] = -np.inf
            # Two calls where some want what they have and others do not.
            for include_seen in (False, True):
                rows = [row for row, number in enumerate(whole) if wanted[number].include_seen is include_seen]
                if rows:
                    numbers = [whole[row] for row in rows]
                    k = min(max(wanted[number].k for number in numbers), len(self.items))
                    some = scores if len(rows) == len(whole) else scores[rows]
                    items, best, lengths = top_items(some, k, *self._seen_by(users[rows], include_seen))
                    self._put(found, numbers, wanted, items, best, lengths, is_nan[rows])
        return found

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
        is_usual = wanted.left_out is None and not wanted.include_seen
        return self.two_stages is not None and is_usual and wanted.k <= self.longest

    def _seen_by(self, users: NDArray[np.int64], include_seen: bool) -> tuple[Interactions, NDArray[np.int64]]:
        if include_seen or self.seen is None:
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

    def _diverged(self, user: int) -> DataError:
        (name,) = self.users.of_numbers(np.array([user]))
        return DataError(
            f"the scores of user {name} hold NaN, so nothing can be recommended; the model has diverged: train it "
            "again with a lower learning rate"
        )
