"""The binarization operators: exact forwards, straight-through backwards.

Partial pre-training (Renda and Fromm 2020) inserts both at its switch from full to low precision.
"""

from typing import Any

import torch
from torch import Tensor


class _BinarizeActivation(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, alpha: Tensor) -> Tensor:
        ctx.save_for_backward(x, alpha)
        return torch.where(x > alpha / 2, alpha, torch.zeros((), dtype=x.dtype, device=x.device))

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, Tensor]:
        x, alpha = ctx.saved_tensors
        (grad,) = grads
        grad_x = grad * ((x >= 0) & (x <= alpha))
        # By rows first: a sum over everything at once would depend on the number of threads.
        grad_alpha = (grad * (x >= alpha)).reshape(len(x) if x.dim() else 1, -1).sum(0).sum()
        return grad_x, grad_alpha


def binarize_activation(x: Tensor, alpha: Tensor) -> Tensor:
    """Binarize activations to 0 or ``alpha``: one-bit PACT with a trainable clipping level.

    ==============  ===========================================
    forward         0 where ``x <= alpha / 2``, else ``alpha``
    d / d x         1 where ``0 <= x <= alpha``, else 0
    d / d alpha     1 where ``x >= alpha``, else 0, summed over x
    ==============  ===========================================

    Args:
        x: float tensor of any shape.
        alpha: scalar tensor (shape ``()``) of the same dtype, positive.

    At ``x == alpha`` both gradients are 1. NaN gives 0.

    Source: Choi et al. 2018, "PACT: Parameterized Clipping Activation for Quantized Neural Networks", at one bit,
    as used by Renda and Fromm 2020.
    """
    result: Tensor = _BinarizeActivation.apply(x, alpha)  # type: ignore[no-untyped-call]
    return result


class _BinarizeWeight(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, weight: Tensor) -> Tensor:
        ctx.save_for_backward(weight)
        return torch.where(weight > 0, 1.0, -1.0).to(weight.dtype)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Tensor:
        (weight,) = ctx.saved_tensors
        (grad,) = grads
        passed: Tensor = grad * (weight.abs() <= 1)
        return passed


def binarize_weight(weight: Tensor) -> Tensor:
    """Binarize latent weights to -1 or +1 with a clipped straight-through gradient.

    ==============  ================================================================
    forward         -1 where ``weight <= 0``, else +1 (never 0, unlike `torch.sign`)
    d / d weight    1 where ``-1 <= weight <= 1``, else 0
    ==============  ================================================================

    Zero, negative zero and NaN give -1.

    Source: Courbariaux et al. 2016, "Binarized Neural Networks", with the sign of zero as in Renda and Fromm 2020.
    """
    result: Tensor = _BinarizeWeight.apply(weight)  # type: ignore[no-untyped-call]
    return result
