"""What training makes small: cross-entropy, and penalties on vectors and on alpha."""

from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ncf_ppt.model import NCF
from ppt_core.layers import alpha_penalty


def loss(model: nn.Module, batch: tuple[Tensor, ...], regularization: float = 0) -> Tensor:
    """Mean binary cross-entropy of the logits, and the penalties on a batch's vectors and, in low precision, on alpha.

    The former is ``regularization`` times the sum of squares of all that `NCF.vectors` gives, divided by the samples; a
    vector that several samples share counts for each of them.
    """
    *pairs, labels = batch
    if not regularization:
        return F.binary_cross_entropy_with_logits(model(*pairs).float(), labels) + alpha_penalty(model)
    assert isinstance(model, NCF)
    vectors = model.vectors(*pairs)
    logits = model.logits(vectors, pairs[1]).float()
    n = labels.numel()
    squares = [rows.square().sum() * (n // rows.shape[:-1].numel()) for rows in vectors.values()]
    penalty = regularization / n * torch.stack(squares).sum()
    return F.binary_cross_entropy_with_logits(logits, labels) + penalty + alpha_penalty(model)


def loss_function(
    arithmetic: str, device: str, regularization: float = 0
) -> Callable[[nn.Module, tuple[Tensor, ...]], Tensor]:
    """`loss`, under autocast if ``arithmetic`` is bf16."""
    if arithmetic == "fp32":
        return partial(loss, regularization=regularization)

    def autocast_loss(model: nn.Module, batch: tuple[Tensor, ...]) -> Tensor:
        with torch.autocast(torch.device(device).type, dtype=torch.bfloat16):
            return loss(model, batch, regularization)

    return autocast_loss
