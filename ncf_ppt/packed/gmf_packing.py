"""Pack a GMF network with 1-bit embeddings, and prove that it is the same."""

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from ncf_ppt.model import NCF
from ncf_ppt.packed.comparisons import LOGIT_TOLERANCE, Verification, ranks_of_first
from ncf_ppt.packed.gmf import PackedGMF
from ncf_ppt.packed.table import PackedTable, embeddings_of
from ncf_ppt.row_adam import is_binary
from ppt_core.errors import DataError


def pack_gmf(
    model: NCF, *, user_ids: NDArray[Any], item_ids: NDArray[Any], protocol: str, provenance: dict[str, Any]
) -> PackedGMF:
    """Pack a GMF network whose items, or users and items, are 1-bit; see `ncf_ppt.packed.packing.pack`.

    Raises `DataError` for one that holds nothing of 1 bit, and for bits that meet weights of several sizes, as those of
    older versions of this package do.
    """
    if not is_binary(model.gmf_item):
        raise DataError(
            "this gmf network holds nothing of 1 bit, so there is nothing to pack; train one with 1-bit embeddings "
            "(binarize_embeddings), or pack a neumf or an mlp network"
        )
    weights = model.last.weight.detach()[0].numpy().copy()
    if is_binary(model.gmf_user) and not (weights == weights[0]).all():
        raise DataError("the weights behind the bits of this gmf network differ in size; train it again")
    embeddings = embeddings_of([model.gmf_user, model.gmf_item])
    return PackedGMF(
        user_factors=PackedTable.of(model.gmf_user, embeddings),
        item_factors=PackedTable.of(model.gmf_item, embeddings),
        embeddings=embeddings,
        weights=weights,
        bias=model.last.bias.item(),
        user_ids=user_ids,
        item_ids=item_ids,
        protocol=protocol,
        provenance=provenance,
    )


@torch.inference_mode()
def verify_gmf(packed: PackedGMF, model: NCF, users: NDArray[np.int64], candidates: NDArray[np.int32]) -> Verification:
    """Compare a packed GMF network with the one it was packed from; see `ncf_ppt.packed.verification.verify`.

    Every component of both tables must be the network's, bit for bit, and logits of pairs equal up to rounding; scores
    of the catalogue must be those of pairs.
    """
    n_bits = 0
    for name, stored in packed.tables.items():
        table: Any = model.get_submodule(name)
        if not np.array_equal(stored[:], table.values().numpy()):
            raise DataError(f"table {name} differs from the network's; do not use this packed network, and report it")
        n_bits += stored.values.size * 8 if stored.values.dtype == np.uint8 else 0
    scores = packed(users, candidates)
    catalogue = packed.score_catalogue(users)
    if not np.array_equal(scores, np.take_along_axis(catalogue, candidates.astype(np.int64), axis=1)):
        raise DataError("scores of the whole catalogue differ from those of pairs; do not use this packed network")
    flat_users = torch.from_numpy(np.repeat(users, candidates.shape[1]))
    flat_items = torch.from_numpy(candidates.reshape(-1).astype(np.int64))
    logits = model(flat_users, flat_items).reshape(scores.shape).numpy()
    difference = float(np.abs(scores - logits).max(initial=0))
    if not difference <= LOGIT_TOLERANCE * (1 + np.abs(logits).max(initial=0)):
        raise DataError(f"packed and simulated logits differ by {difference:g}; do not use this packed network")
    return Verification(
        n_pairs=candidates.size,
        compared_bits=n_bits,
        boundary_bits=0,
        first_layer_bits=0,
        first_layer_differences=0,
        max_logit_difference=difference,
        n_ranks=len(users),
        changed_ranks=int((ranks_of_first(logits) != ranks_of_first(scores)).sum()),
    )
