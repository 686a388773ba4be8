"""People whom a network has no row for, or who have done more since: known by what they did, without training."""

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from data_prep.ratings.in_memory import read_memory
from data_prep.ratings.interactions import Interactions, PreparedData
from data_prep.ratings.leave_one_out import latest_of_each
from data_prep.ratings.raw_ratings import Ids, Ratings
from data_prep.ratings.readers import read_ratings
from ncf_ppt.baselines import MatrixFactorization
from ncf_ppt.histories import last_items
from ncf_ppt.model import NCF
from ncf_ppt.networks import Network
from ncf_ppt.packed.tower import PackedNetwork, PackedTwoTower
from ncf_ppt.two_tower import TwoTower
from ppt_core.errors import DataError


def read_histories(source: Any) -> Ratings:
    """Read what people did: from a file, or what `data_prep.ratings.in_memory.read_memory` takes."""
    return read_ratings(Path(source)) if isinstance(source, (str, Path)) else read_memory(source)


def people_of(catalogue: Ids, ratings: Ratings) -> PreparedData:
    """Return the users of ``ratings`` as a set over the items with the ids ``catalogue`` (n_items,), nothing held out.

    A pair counts once, at its latest row; rows are ordered by time, equal times by their order. Items that the
    catalogue does not hold are left out, and so who took nothing else has an empty history. Its test items mean
    nothing.

    Raises `DataError` if the ratings have no times, or none of their items is in the catalogue.
    """
    if not ratings.has_times:
        raise DataError(
            "the histories hold no times, and the order of a user's items is what is read; add a time column"
        )
    items = _numbers_of(ratings.item_ids, catalogue)[ratings.items]
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


def scorer_of_people(model: Network | PackedNetwork, people: PreparedData) -> MatrixFactorization:
    """What scores items for the users of `people_of`, by their last items alone.

    Raises `DataError` for a network that knows its users by rows.
    """
    if isinstance(model, TwoTower):
        n_recent = model.config.n_recent
    elif isinstance(model, PackedTwoTower):
        n_recent = model.n_recent
    else:
        name = model.config.model if isinstance(model, NCF) else "packed NCF"
        raise DataError(
            f"a {name} network has a row for each user it was trained with, so a history tells it "
            "nothing of somebody new; train one with recipe warm"
        )
    recent = last_items(people, n_recent)
    return MatrixFactorization(user_vectors=model.user_vectors(recent), item_vectors=model.item_vectors())


def _numbers_of(ids: Ids, catalogue: Ids) -> NDArray[np.int64]:
    """The number of each id in the catalogue, -1 where it is not there; 7 and "7" are the same id."""
    if ids.dtype.kind != catalogue.dtype.kind:
        ids, catalogue = (np.array([str(each) for each in these.tolist()], object) for these in (ids, catalogue))
    return np.asarray(pd.Index(catalogue).get_indexer(pd.Index(ids)), np.int64)
