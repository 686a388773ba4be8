"""What makes a network ready for embeddings of one bit: a rotation under which it stays the function that it is."""

import torch
from torch import Tensor

from ncf_ppt.model import NCF
from ncf_ppt.rotation import fit_rotation, rotate
from ncf_ppt.row_adam import BinaryRowEmbedding, RowEmbedding
from ppt_core.layers import check_finite


@torch.no_grad()
def rotate_tables(model: NCF, *, seed: int = 0) -> None:
    """Rotate the tables that become 1-bit, so that their signs lose least, and undo it where they are read.

    The logits stay what they are, up to rounding. GMF's part is ``sum of w * user * item``: the users take over what
    sets the weights w apart, which leaves all of them at the mean of |w|, and then users and items turn by one rotation
    that is fitted to the items (`ncf_ppt.rotation`). A table of the MLP turns by one of its own, and the first layer's
    weights by the same.

    Args:
        model: with ``binarize_embeddings``, in full precision.
        seed: of the rotations.

    Raises ValueError naming the first parameter that is not finite.
    """
    for table in model.tables():
        table.catch_up()
    check_finite(model)
    if model.config.model != "mlp":
        weights = model.last.weight[0, : model.config.factors]
        size = weights.abs().mean()
        if size > 0:
            model.gmf_user.weight.mul_(weights / size)
            weights.fill_(size)
        _rotate([model.gmf_item, model.gmf_user], seed)
    if model.config.model != "gmf":
        n_user = model.mlp_user.embedding_dim
        for table, half in (
            (model.mlp_user, model.first.weight[:, :n_user]),
            (model.mlp_item, model.first.weight[:, model.first.x_features :]),
        ):
            if isinstance(table, BinaryRowEmbedding):
                half.copy_(_turned(half, _rotate([table], seed)))


def _rotate(tables: list[RowEmbedding], seed: int) -> Tensor:
    """Rotate tables in place by what is fitted to the first; return the rotation, float64 (size, size)."""
    first = tables[0]
    rotation = fit_rotation(first.weight.float().cpu().numpy(), first.embedding_dim, seed=seed)
    for table in tables:
        table.weight.copy_(torch.from_numpy(rotate(table.weight.float().cpu().numpy(), rotation)))
    return torch.from_numpy(rotation)


def _turned(half: Tensor, rotation: Tensor) -> Tensor:
    """Weights (n_out, size) that make of rotated rows what ``half`` made of them."""
    return torch.from_numpy(rotate(half.float().cpu().numpy(), rotation.numpy()))
