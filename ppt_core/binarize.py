"""The binarization operators: exact forwards, straight-through backwards.

Partial pre-training (Renda and Fromm 2020) inserts both at its switch from full to low precision.
"""

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from ppt_core import _kernels
from ppt_core.device import has_kernels

_ROW = 4096  # up to 2**27 activations: more row sums than 2**15 would be shared among threads


class _BinarizeActivation(torch.autograd.Function):
    """Bits of x, and its ReLU where ``with_real``, which costs no further pass over x."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, alpha: Tensor, with_real: bool) -> tuple[Tensor, Tensor | None]:
        ctx.has_kernels = has_kernels(x)
        if not ctx.has_kernels:
            ctx.save_for_backward(x, alpha)
            dtype = x.dtype
            if torch.is_autocast_enabled(x.device.type):  # the layer behind would round them to this
                dtype = torch.get_autocast_dtype(x.device.type)
            bits = torch.where(x > alpha / 2, alpha.to(dtype), torch.zeros((), dtype=dtype, device=x.device))
            return bits, F.relu(x) if with_real else None
        # `empty_like` keeps the order of the dimensions in memory, channels last say, and closes gaps.
        output, real = torch.empty_like(x), torch.empty_like(x) if with_real else None
        codes = torch.empty_like(x, dtype=torch.uint8)
        values = _in_order_of(output, x)
        _kernels.binarize_activations(
            values.numpy(), np.float32(alpha.item()), _flat(output), _flat(codes), None if real is None else _flat(real)
        )
        ctx.save_for_backward(codes)
        return output, real

    @staticmethod
    def backward(ctx: Any, *grads: Tensor | None) -> tuple[Tensor, Tensor, None]:
        grad, grad_real = grads
        assert grad is not None
        if not ctx.has_kernels:
            x, alpha = ctx.saved_tensors
            grad_x = grad * ((x >= 0) & (x <= alpha))
            if grad_real is not None:
                grad_x = grad_x + grad_real.masked_fill(x <= 0, 0)
            return grad_x, sum_in_one_order((grad * (x >= alpha)).to(alpha.dtype)), None
        (codes,) = ctx.saved_tensors
        grad_x, grad_alpha = torch.empty_like(codes, dtype=grad.dtype), torch.empty(1)
        sums = np.empty(-(-codes.numel() // _kernels.BLOCK_VALUES), np.float32)
        _kernels.binarize_activations_backward(
            _in_order_of(codes, grad).numpy(), _flat(codes),
            None if grad_real is None else _in_order_of(codes, grad_real).numpy(),
            sums, _flat(grad_x), grad_alpha.numpy(),
        )  # fmt: skip
        return grad_x, grad_alpha.reshape(()), None


def sum_in_one_order(values: Tensor) -> Tensor:
    """Sum of all elements, the same bit for bit on any number of threads.

    `Tensor.sum` adds one partial sum for each thread, and a sum over rows splits its columns where the threads
    do. A sum within rows is one thread's, and 32,768 row sums are few enough for one thread as well.
    """
    if values.dim() == 4 and values.is_contiguous(memory_format=torch.channels_last):
        values = values.permute(0, 2, 3, 1)  # its order in memory, or flattening would copy it
    flat = values.reshape(-1)
    n_in_rows = flat.numel() // _ROW * _ROW
    return flat[:n_in_rows].view(-1, _ROW).sum(1).sum() + flat[n_in_rows:].sum()


def _flat(dense: Tensor) -> NDArray[Any]:
    """The values of a tensor without gaps, in their order in memory, (n,)."""
    flat: NDArray[Any] = dense.detach().as_strided((dense.numel(),), (1,)).numpy()
    return flat


def _in_order_of(dense: Tensor, x: Tensor) -> Tensor:
    """The values of ``x``, of the shape of ``dense``, in the order in memory of ``dense``, (n,)."""
    x = x.detach()
    if x.stride() != dense.stride():
        x = torch.empty_like(dense, dtype=x.dtype).copy_(x)
    return x.as_strided((x.numel(),), (1,), x.storage_offset())


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
    result: Tensor = _BinarizeActivation.apply(x, alpha, False)[0]  # type: ignore[no-untyped-call]
    return result


def binarize_and_rectify(x: Tensor, alpha: Tensor) -> tuple[Tensor, Tensor]:
    """Return `binarize_activation` of ``x`` and its ReLU, in one pass over memory, and in one back."""
    bits, real = _BinarizeActivation.apply(x, alpha, True)  # type: ignore[no-untyped-call]
    return bits, real


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


class _BinarizeRows(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, rows: Tensor) -> Tensor:
        scales = rows.abs().mean(-1, keepdim=True).half().to(rows.dtype)
        return torch.where(rows > 0, scales, -scales)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Tensor:
        return grads[0]


def binarize_rows(rows: Tensor) -> Tensor:
    """Binarize each row of a table to -scale or +scale, the scale being the row's own.

    ==============  ==========================================================================
    forward         ``scale`` where ``rows > 0``, else ``-scale``; ``scale`` is mean |row|
    d / d rows      1: straight through, not clipped
    ==============  ==========================================================================

    Args:
        rows: float (..., size), latent. A row's result does not depend on the other rows.

    The scale is rounded to float16, so that what is trained is what two bytes hold. It is taken anew from the latent
    row each time, never frozen: an embedding starts near 0 and grows by training, and its size is how popular an item
    is. Mean |row| is the scale of least squared error (Rastegari et al. 2016, equation 6), so a row and its
    binarization stay close, and the gradient passes as it is (Zhou et al. 2016, "DoReFa-Net", equation 7).
    """
    result: Tensor = _BinarizeRows.apply(rows)  # type: ignore[no-untyped-call]
    return result
