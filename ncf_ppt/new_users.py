"""People whom a network has no row for, or who have done more since: known by what they did, without training."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from data_prep.ratings.in_memory import read_memory
from data_prep.ratings.interactions import Interactions, PreparedData
from data_prep.ratings.leave_one_out import latest_of_each
from data_prep.ratings.raw_ratings import Ids, Ratings
from data_prep.ratings.readers import read_ratings
from ncf_ppt.baselines import MatrixFactorization
from ncf_ppt.fold_in import fold_in, fold_in_packed
from ncf_ppt.histories import last_items
from ncf_ppt.model import NCF
from ncf_ppt.networks import Network
from ncf_ppt.original_ids import numbers_of
from ncf_ppt.packed.tower import PackedNetwork, PackedTwoTower
from ncf_ppt.ranking import Scorer
from ncf_ppt.scoring import scorer
from ncf_ppt.two_tower import TwoTower
from ppt_core.errors import DataError


def read_histories(source: Any) -> Ratings:
    """Read what people did: from a file, or what `data_prep.ratings.in_memory.read_memory` takes."""
    return read_ratings(Path(source)) if isinstance(source, (str, Path)) else read_memory(source)


def people_of(catalogue: Ids, ratings: Ratings, *, in_order: bool = True) -> PreparedData:
    """Return the users of ``ratings`` as a set over the items with the ids ``catalogue`` (n_items,), nothing held out.

    A pair counts once, at its latest row; rows are ordered by time, equal times by their order. Items that the
    catalogue does not hold are left out, and so who took nothing else has an empty history. Its test items mean
    nothing.

    Raises `DataError` if none of their items is in the catalogue, or if they are to be ``in_order`` and have no times.
    """
    if in_order and not ratings.has_times:
        raise DataError(
            "the histories hold no times, and the order of a user's items is what is read; add a time column"
        )
    items = numbers_of(ratings.item_ids, catalogue)[ratings.items]
    is_known = items >= 0
    if not is_known.any():
        examples = ", ".join(str(item) for item in ratings.item_ids[:3].tolist())
        raise DataError(f"no item of the histories is in the catalogue (they begin with {examples}); check the ids")
    users, items, times = ratings.users[is_known], items[is_known], ratings.times[is_known]
    n_users, n_items = len(ratings.user_ids), len(catalogue)
    codes = users.astype(np.int64) * n_items + items
    codes = latest_of_each(codes[np.lexsort((times, users))])
    users, history = (codes // n_items).astype(np.int32), (codes % n_items).astype(np.int32)
    return PreparedData(
        train=Interactions.from_pairs(users, history, n_users=n_users, n_items=n_items),
        history=history,
        user_ids=ratings.user_ids,
        item_ids=catalogue,
        test_items=np.zeros(n_users, np.int32),
        test_negatives=np.empty((n_users, 0), np.int32),
        protocol="strict",
        manifest={},
    )


def scorer_of_people(model: Network | PackedNetwork, people: PreparedData, data: PreparedData | None = None) -> Scorer:
    """What scores items for the users of `people_of`.

    Two towers read their last items. A network that knows its users by rows gets rows for them, see
    `ncf_ppt.fold_in.fold_in`; ``data`` are then those it was trained on.
    """
    if isinstance(model, (TwoTower, PackedTwoTower)):
        recent = last_items(people, model.config.n_recent if isinstance(model, TwoTower) else model.n_recent)
        return MatrixFactorization(user_vectors=model.user_vectors(recent), item_vectors=model.item_vectors())
    if data is None:
        raise ValueError("rows for new users follow from those of the trained ones; pass the data of the training")
    if isinstance(model, NCF):
        return scorer(fold_in(model, data, people))
    return fold_in_packed(model, data, people)


def scorer_by_history(
    model: Network | PackedNetwork, history: Any, data: Callable[[], PreparedData]
) -> tuple[Scorer, PreparedData]:
    """Return what scores items for the people of ``history``, and the people.

    ``data`` are what the model was trained on, which packed towers do not need; a network that does not read a user's
    last items needs no times.
    """
    known = None if isinstance(model, PackedTwoTower) else data()
    catalogue = model.item_ids if isinstance(model, PackedTwoTower) else data().item_ids
    reads_order = isinstance(model, PackedTwoTower) or (isinstance(model, Network) and model.config.n_recent > 0)
    people = people_of(catalogue, read_histories(history), in_order=reads_order)
    return scorer_of_people(model, people, known), people
