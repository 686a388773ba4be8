"""The product of one-bit activations and one-bit weights, forward and backward."""

from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from ppt_core.binarize import binarize_weight
from ppt_core.bits import _kernels
from ppt_core.bits.pack import pack_signs
from ppt_core.device import has_kernels, is_simulated_as_usual


def binary_linear(x: Tensor, weight: Tensor, bias: Tensor | None, *, alpha: Tensor, scale: Tensor) -> Tensor:
    """Return ``alpha * scale * (bits @ signs.T) + bias`` of the bits ``x > 0`` and the signs -1 or +1 of ``weight``.

    ==============  =====================================================================
    d / d x         ``scale * grad @ signs``
    d / d weight    ``scale * grad.T @ x`` where ``-1 <= weight <= 1``, else 0
    d / d bias      ``grad`` summed over rows
    ==============  =====================================================================

    On a CPU the product counts bits, elsewhere it multiplies floats: the same integers exactly, but for autocast to
    bf16, which rounds those above 256 and the operands of both gradients.

    Args:
        x: float (rows, in_features), each value 0 or ``alpha``.
        weight: float (out_features, in_features), latent.
        bias: float (out_features,) or None.
        alpha: shape ``()``, above 0. Its gradient flows through the activation that made ``x``, not through here.
        scale: shape ``()``, static.

    Source: Courbariaux et al. 2016 for the clipped straight-through gradient; alpha and scale stay out of the
    product by a decision of ours.
    """
    if is_simulated_as_usual():
        return F.linear(x, binarize_weight(weight) * scale, bias)
    result: Tensor = _BinaryLinear.apply(x, weight, bias, alpha, scale)  # type: ignore[no-untyped-call]
    return result


class _BinaryLinear(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None, alpha: Tensor, scale: Tensor) -> Tensor:
        ctx.save_for_backward(x, weight, scale)
        ctx.has_bias, ctx.dtype = bias is not None, x.dtype
        if not has_kernels(x):
            if torch.is_autocast_enabled(x.device.type):
                ctx.dtype = torch.get_autocast_dtype(x.device.type)
            integers = F.linear((x > 0).to(ctx.dtype), torch.where(weight > 0, 1.0, -1.0).to(ctx.dtype))
            product = integers * (alpha * scale).reshape(1)  # of one dimension it makes float32 of bfloat16
            return product if bias is None else product + bias
        bits = np.empty((len(x), -(-x.shape[1] // 64)), np.uint64)
        _kernels.pack_above(x.contiguous().numpy(), np.float32(0), bits)
        output = torch.empty(len(x), len(weight))
        offsets = np.zeros(len(weight), np.float32) if bias is None else bias.numpy()
        _kernels.multiply_bits(bits, pack_signs(weight), np.float32((alpha * scale).item()), offsets, output.numpy())
        return output

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        x, weight, scale = ctx.saved_tensors
        grad = grads[0].to(ctx.dtype)
        grad_x = grad_weight = None
        # The scale joins the weights' side, which is small: no pass over the batch.
        if ctx.needs_input_grad[0]:
            grad_x = (grad @ _scaled_signs(weight, scale).to(ctx.dtype)).to(x.dtype)
        if ctx.needs_input_grad[1]:
            grad_weight = (grad.t() @ x.to(ctx.dtype)).to(weight.dtype)
            grad_weight = _pass_straight_through(grad_weight, weight, scale)
        return grad_x, grad_weight, grads[0].sum(0) if ctx.has_bias else None, None, None


def _scaled_signs(weight: Tensor, scale: Tensor) -> Tensor:
    if not has_kernels(weight):
        return torch.where(weight > 0, scale, -scale)
    signs = torch.empty(weight.shape)
    _kernels.fill_scaled_signs(weight.contiguous().numpy(), np.float32(scale.item()), signs.numpy())
    return signs


def _pass_straight_through(grad: Tensor, weight: Tensor, scale: Tensor) -> Tensor:
    if not (has_kernels(weight) and grad.is_contiguous()):
        return grad * ((weight.abs() <= 1) * scale)
    _kernels.pass_straight_through(weight.contiguous().numpy(), np.float32(scale.item()), grad.numpy())
    return grad
