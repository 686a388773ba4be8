"""The searches for candidates that a network's own vectors make."""

from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from data_prep.ratings.interactions import Interactions, PreparedData
from ncf_ppt.candidates import By, Search, VectorSearch, find_in_blocks, similarity_search
from ncf_ppt.codes import Codes, CodeSearch
from ncf_ppt.model import NCF
from ncf_ppt.networks import Network
from ncf_ppt.packed.network import PackedNCF
from ncf_ppt.packed.tower import PackedNetwork
from ncf_ppt.recommendation import AllowedItems
from ncf_ppt.rotation import fit_rotation, rotate
from ncf_ppt.serving import served

Way = By | Literal["codes"]
_FEWEST_BITS = 256  # of a code


@dataclass(frozen=True, kw_only=True, eq=False)
class SearchByCodes:
    """A search by the signs of rotated vectors: a `ncf_ppt.candidates.Search`.

    Attributes:
        codes: of users and items.
    """

    codes: CodeSearch

    @classmethod
    def of(cls, users: NDArray[np.float32], items: NDArray[np.float32]) -> "SearchByCodes":
        """Rotate vectors of users and items (n, size), whose products find candidates, and keep their signs.

        They have 256 bits, or twice their components if that is more.
        """
        n_bits = max(_FEWEST_BITS, -(-2 * items.shape[1] // 64) * 64)
        rotation = fit_rotation(items, n_bits)
        return cls(codes=CodeSearch(users=Codes.of(rotate(users, rotation)), items=Codes.of(rotate(items, rotation))))

    def score_catalogue(self, users: NDArray[np.int64]) -> NDArray[np.float32]:
        """See `CodeSearch.score_catalogue`."""
        return self.codes.score_catalogue(users)

    def find(
        self, users: NDArray[np.int64], n: int, seen: Interactions, allowed: AllowedItems
    ) -> tuple[NDArray[np.int32], NDArray[np.int64]]:
        """See `ncf_ppt.candidates.Search`."""
        if allowed.is_left_out is None:
            return self.codes.find(users, n, seen)
        return find_in_blocks(self, users, n, seen, allowed)


def searches_of(model: Network | PackedNetwork, data: PreparedData) -> dict[Way, Search]:
    """The ways in which a network's own vectors find candidates: none where its scores are products already.

    ``product`` is that of its GMF half; of a packed network also by ``codes``. Of its MLP, items alike: see
    `ncf_ppt.candidates.open_vectors`.
    """
    searches: dict[Way, Search] = {}
    if isinstance(model, PackedNCF):
        users, items, features = model.user_factors[:], model.item_factors[:], model.item_features[:]
        weights = model.last_weight[: model.user_factors.size]
    elif isinstance(model, NCF) and model.config.model != "gmf":
        network = served(model)
        has_factors = network.config.model == "neumf"
        nothing = np.empty((0, 0), np.float32)
        users, items = (
            (table.values().cpu().numpy() if has_factors else nothing)
            for table in (network.tables()[:2] if has_factors else (network.mlp_user,) * 2)
        )
        features = network.mlp_item.values().cpu().numpy()
        weights = network.last.weight[0, : users.shape[1]].detach().cpu().numpy()
    else:
        return searches
    if users.shape[1]:
        searches["product"] = VectorSearch(user_vectors=users * weights, item_vectors=items, bias=0)
        if isinstance(model, PackedNCF):  # beside which a search in 32 bits is slow
            searches["codes"] = SearchByCodes.of(users * weights, items)
    searches["similarity"] = similarity_search(features, data)
    return searches
