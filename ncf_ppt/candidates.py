"""Exported vectors as the first stage of recommending: they find candidates, and the network reranks them."""

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Literal, Protocol

import numpy as np
from numpy.typing import NDArray

from data_prep.ratings.interactions import Interactions, PreparedData
from ncf_ppt import _kernels
from ncf_ppt.export.embeddings import FORMAT_VERSION
from ncf_ppt.export.vector_files import read_table
from ncf_ppt.networks import Network
from ncf_ppt.ranking import Scorer
from ncf_ppt.recommendation import AllowedItems, CatalogueScorer, TopItems, top_items
from ncf_ppt.scoring import scorer
from ncf_ppt.similar_items import at_unit_length
from ppt_core.damaged import checked, understanding
from ppt_core.errors import DataError
from ppt_core.runs.files import read_json, verify_checksums

By = Literal["product", "similarity"]
_USERS = 256  # at a time
_NEEDED = {"model": str, "format": str, "tables": dict}


class Search(CatalogueScorer, Protocol):
    """What finds candidates: the items that it scores highest."""

    def find(
        self, users: NDArray[np.int64], n: int, seen: Interactions, allowed: AllowedItems
    ) -> tuple[NDArray[np.int32], NDArray[np.int64]]:
        """Find the best ``n`` items of each of users (n_users,) among what is ``allowed`` and none of it ``seen``.

        Returns:
            Items, int32 (n_users, n), best first, undefined behind the end of a list; and the lengths of the lists,
            int64 (n_users,): below ``n`` where fewer are left.
        """


@dataclass(frozen=True, kw_only=True, eq=False)
class VectorSearch:
    """Scores of a whole catalogue by vectors alone: a `ncf_ppt.recommendation.CatalogueScorer`.

    Attributes:
        user_vectors: float32 (n_users, dimension).
        item_vectors: float32 (n_items, dimension).
        bias: added to each product.
    """

    user_vectors: NDArray[np.float32]
    item_vectors: NDArray[np.float32]
    bias: float

    def __call__(self, users: NDArray[np.int64], candidates: NDArray[np.int32]) -> NDArray[np.float32]:
        """Inner products of users (n,) with candidates (n, m)."""
        return np.take_along_axis(self.score_catalogue(users), candidates.astype(np.int64), axis=1)

    def score_catalogue(self, users: NDArray[np.int64]) -> NDArray[np.float32]:
        """Inner products of users (n,) with all items, the terms of each added in order: float32 (n, n_items)."""
        scores = np.zeros((len(users), len(self.item_vectors)), np.float32)
        _kernels.add_catalogue_products(self.user_vectors[users], self._columns, scores)
        scores += np.float32(self.bias)
        return scores

    def find(
        self, users: NDArray[np.int64], n: int, seen: Interactions, allowed: AllowedItems
    ) -> tuple[NDArray[np.int32], NDArray[np.int64]]:
        """See `Search`."""
        return find_in_blocks(self, users, n, seen, allowed)

    @cached_property
    def _columns(self) -> NDArray[np.float32]:
        return np.ascontiguousarray(self.item_vectors.T)


def find_in_blocks(
    search: CatalogueScorer, users: NDArray[np.int64], n: int, seen: Interactions, allowed: AllowedItems
) -> tuple[NDArray[np.int32], NDArray[np.int64]]:
    """`Search.find` by the scores of whole catalogues, some users at a time."""
    items, lengths = np.empty((len(users), n), np.int32), np.empty(len(users), np.int64)
    for start in range(0, len(users), _USERS):
        rows = slice(start, start + _USERS)
        scores = allowed.of(search.score_catalogue(users[rows]))
        items[rows], _, lengths[rows] = top_items(scores, n, seen, users[rows])
    return items, lengths


def open_vectors(folder: Path, data: PreparedData, *, by: By | None = None) -> VectorSearch:
    """Open what `ncf_ppt.export.embeddings.export_embeddings` wrote, as a search.

    Args:
        folder: the exported one; its checksums are verified.
        data: whose users are asked for; ids must be those of the folder, in their order.
        by: ``product``: the inner product of ``gmf_users`` and ``gmf_items``. ``similarity``: the inner product of an
            item's vector in ``mlp_items`` with the mean over the items a user has, all at unit length. By default the
            product for a GMF network, whose logit it is, and similarity for the others, which it serves better.

    Raises `DataError` for another folder or other ids, and ValueError if there are no tables for ``by``.
    """
    if not (folder / "manifest.json").is_file():
        raise DataError(
            f"{folder} holds no manifest.json; make one with `ppt-ncf export-embeddings RUN --out {folder}`"
        )
    manifest = read_json(folder / "manifest.json", format_version=FORMAT_VERSION)
    if manifest.get("kind") != "embeddings":
        raise DataError(f"{folder} holds no exported embeddings; name a folder that export-embeddings made")
    checked(manifest, _NEEDED, folder / "manifest.json")
    verify_checksums(folder, manifest.get("files"))
    return search_of(folder, manifest, data, by=by)


def search_of(folder: Path, manifest: dict[str, Any], data: PreparedData, *, by: By | None = None) -> VectorSearch:
    """`open_vectors` of a folder with its manifest as a value."""
    by = by or ("product" if manifest["model"] == "gmf" else "similarity")
    names = ("gmf_users", "gmf_items") if by == "product" else ("mlp_items",)
    if names[-1] not in manifest["tables"]:
        raise ValueError(f"{folder} has no {names[-1]}: a {manifest['model']} network cannot be searched by {by}")
    tables = {}
    for name in names:
        with understanding(folder / "manifest.json"):
            dimension = int(manifest["tables"][name]["dimension"])
        ids, vectors = read_table(folder, name, manifest["format"], dimension)
        if not np.array_equal(ids, data.user_ids if name.endswith("users") else data.item_ids):
            raise DataError(f"{folder} has other {name[4:]} than the data; export the run that was trained on them")
        tables[name] = vectors
    if by == "product":
        return VectorSearch(
            user_vectors=tables["gmf_users"], item_vectors=tables["gmf_items"], bias=float(manifest["bias"])
        )
    return similarity_search(tables["mlp_items"], data)


def similarity_search(vectors: NDArray[np.float32], data: PreparedData) -> VectorSearch:
    """Search items alike: by products of ``vectors`` (n_items, size) with the mean over what a user has, see above."""
    items = at_unit_length(vectors)
    return VectorSearch(user_vectors=_profiles(items, data), item_vectors=items, bias=0)


def _profiles(items: NDArray[np.float32], data: PreparedData) -> NDArray[np.float32]:
    """Sum of the vectors of each user's train positives at unit length; zeros without any."""
    profiles = np.zeros((data.n_users, items.shape[1]), np.float32)
    for user in range(data.n_users):
        profiles[user] = items[data.train.items_of(user)].sum(axis=0)
    return at_unit_length(profiles)


@dataclass(frozen=True, kw_only=True, eq=False)
class Reranker:
    """A search for candidates and a network that scores them: a `ncf_ppt.recommendation.CatalogueScorer`.

    Attributes:
        search: finds the candidates.
        score: the network.
        seen: what is no candidate of each user: `PreparedData.known`, or `Interactions.none` where seen items may be
            recommended again.
        n_candidates: for each user, as far as there are so many.
        allowed: what may be a candidate.
    """

    search: Search
    score: Scorer
    seen: Interactions
    n_candidates: int
    allowed: AllowedItems = AllowedItems()  # noqa: RUF009 (frozen)

    def __call__(self, users: NDArray[np.int64], candidates: NDArray[np.int32]) -> NDArray[np.float32]:
        """The network's scores."""
        return self.score(users, candidates)

    def score_catalogue(self, users: NDArray[np.int64]) -> NDArray[np.float32]:
        """The network's scores of the candidates of users (n,), minus infinity for every other item."""
        scores = np.full((len(users), self.seen.n_items + 1), -np.inf, np.float32)  # one column for no item
        items, found = self._scored(users)
        np.put_along_axis(scores, items.astype(np.int64), found, axis=1)
        return scores[:, :-1]

    def top(self, users: NDArray[np.int64], k: int) -> TopItems:
        """See `ncf_ppt.recommendation.ListScorer`."""
        items, scores = self._scored(users)
        k = min(k, items.shape[1])
        nothing = Interactions.none(n_users=1, n_items=items.shape[1])
        places, best, lengths = top_items(scores, k, nothing, np.zeros(len(users), np.int64))
        places = np.where(np.arange(k) < lengths[:, np.newaxis], places, 0)
        chosen = np.take_along_axis(items, places.astype(np.int64), axis=1)
        return chosen, best, lengths, np.logical_or.reduce(np.isnan(scores), axis=1)

    def _scored(self, users: NDArray[np.int64]) -> tuple[NDArray[np.int32], NDArray[np.float32]]:
        """Candidates (n, n_candidates) of users (n,), ascending, and their scores.

        Where there are fewer, n_items with a score of minus infinity is behind them.
        """
        n_items = self.seen.n_items
        found, lengths = self.search.find(users, min(self.n_candidates, n_items), self.seen, self.allowed)
        is_there = np.arange(found.shape[1]) < lengths[:, np.newaxis]
        items = np.sort(np.where(is_there, found, n_items).astype(np.int32), axis=1)
        is_there = items < n_items
        wanted = np.where(is_there, items, 0).astype(np.int32)
        if isinstance(self.score, CatalogueScorer):
            scores = self.score(users, wanted)
        else:  # a user at a time, as `ncf_ppt.recommendation` does: scores then depend on no other user
            scores = np.empty(wanted.shape, np.float32)
            for row, length in enumerate(lengths.tolist()):
                scores[row : row + 1, :length] = self.score(users[row : row + 1], wanted[row : row + 1, :length])
        scores[~is_there] = -np.inf
        return items, scores


@dataclass(frozen=True, kw_only=True)
class SearchReport:
    """How much of the network's own best ``k`` a search finds, over ``n_users`` users, seen items left out.

    Attributes:
        n_users: that were compared.
        k: length of the lists.
        n_candidates: that a search may return.
        recall_of_top_k: share of the network's best k among the search's best k.
        recall_of_candidates: the same among its best ``n_candidates``.
        n_equal: users whose k best scores by the network are those of the search's list, up to rounding: equal lists
            but for ties.
    """

    n_users: int
    k: int
    n_candidates: int
    recall_of_top_k: float
    recall_of_candidates: float
    n_equal: int


def compare_search(
    search: VectorSearch, score: Scorer, data: PreparedData, *, k: int = 10, n_candidates: int = 100, n_users: int = 200
) -> SearchReport:
    """Compare a search with the network for ``n_users`` users, evenly spread."""
    users = np.unique(np.linspace(0, data.n_users - 1, min(n_users, data.n_users)).astype(np.int64))
    catalogue = np.arange(data.n_items, dtype=np.int32)[np.newaxis]
    seen = data.known()
    k, n_candidates = min(k, data.n_items), min(n_candidates, data.n_items)
    found_k = found = wanted = n_equal = 0
    for user in users:
        one = np.array([user])
        scores = score(one, catalogue)
        best, _, (length,) = top_items(scores, k, seen, one)
        candidates, _, (n_found,) = top_items(search.score_catalogue(one), n_candidates, seen, one)
        own, ours = best[0, :length], candidates[0, :n_found]
        found_k += len(np.intersect1d(own, ours[:length]))
        found += len(np.intersect1d(own, ours))
        wanted += int(length)
        own_scores, our_scores = np.sort(scores[0, own]), np.sort(scores[0, ours[:length]])
        n_equal += bool(
            np.allclose(own_scores, our_scores, rtol=0, atol=1e-5 * (1 + np.abs(own_scores).max(initial=0)))
        )
    return SearchReport(
        n_users=len(users),
        k=k,
        n_candidates=n_candidates,
        recall_of_top_k=found_k / max(wanted, 1),
        recall_of_candidates=found / max(wanted, 1),
        n_equal=n_equal,
    )


def verify_export(folder: Path, model: Network, data: PreparedData) -> dict[str, SearchReport]:
    """Search in an exported folder, every way its tables allow, and compare with the network it was exported from.

    Returns:
        A report for ``product``, ``similarity`` or both.

    Raises `DataError` if inner products are the network's logits, at 32 bits, and a list differs beyond ties.
    """
    manifest = read_json(folder / "manifest.json", format_version=FORMAT_VERSION, needed=_NEEDED)
    score = scorer(model)
    reports = {}
    for by, table in (("product", "gmf_items"), ("similarity", "mlp_items")):
        if table in manifest["tables"]:
            report = compare_search(open_vectors(folder, data, by=by), score, data)  # type: ignore[arg-type]
            reports[by] = report
            is_exact = manifest["model"] == "gmf" and manifest["dtype"] == "float32"
            if is_exact and report.n_equal < report.n_users:
                raise DataError(
                    f"in {folder} the top {report.k} of {report.n_users - report.n_equal} of {report.n_users} users "
                    "differs from the network's; do not use it, and report it"
                )
    return reports
