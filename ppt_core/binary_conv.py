"""The convolution of one-bit activations with one-bit weights, forward and backward."""

from typing import Any

import torch
from torch import Tensor

from ppt_core.binarize import binarize_weight

Pair = tuple[int, ...]


def binary_conv2d(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    *,
    alpha: Tensor,
    scale: Tensor,
    stride: Pair,
    padding: Pair,
    dilation: Pair,
    groups: int,
) -> Tensor:
    """Return ``alpha * scale * (bits * signs) + bias``: the bits ``x > 0`` convolved with the signs of ``weight``.

    ==============  =====================================================================
    d / d x         that of the convolution with ``scale * signs``
    d / d weight    ``scale`` times that of the convolution of ``x``, where ``-1 <= weight <= 1``, else 0
    d / d bias      ``grad`` summed over images and positions
    ==============  =====================================================================

    The bits times the signs are summed as floats, and exactly: in float32 always, in bfloat16 up to 256.

    Args:
        x: float (n, in_channels, height, width), each value 0 or ``alpha``; zeros beyond its edges.
        weight: float (out_channels, in_channels / groups, height, width), latent. -1 where not above 0, else +1.
        bias: float (out_channels,) or None.
        alpha: shape ``()``, above 0. Its gradient flows through the activation that made ``x``, not through here.
        scale: shape ``()``, static.
        stride: as of `torch.nn.functional.conv2d`, like the following.
        padding: of height and width.
        dilation: of height and width.
        groups: number of groups of channels.

    Source: as `ppt_core.binary_linear.binary_linear`.
    """
    if torch.is_autocast_enabled(x.device.type):
        x = x.to(torch.get_autocast_dtype(x.device.type))
    geometry = (stride, padding, dilation, False, (0, 0), groups)
    result: Tensor = _BinaryConv2d.apply(x, weight, bias, alpha, scale, geometry)  # type: ignore[no-untyped-call]
    return result


class _BinaryConv2d(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None, alpha: Tensor, scale: Tensor, geometry: Any
    ) -> Tensor:
        ctx.save_for_backward(x, weight, scale)
        ctx.geometry, ctx.has_bias = geometry, bias is not None
        signs = binarize_weight(weight).to(x.dtype)
        # alpha / alpha is exactly 1.
        output: Tensor = torch.ops.aten.convolution(x / alpha.to(x.dtype), signs, None, *geometry)
        output *= (alpha * scale).to(x.dtype)
        return output if bias is None else output + bias.to(x.dtype)[:, None, None]

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        x, weight, scale = ctx.saved_tensors
        # The scale joins the weights' side, which is small: no pass over the batch.
        scaled_signs = torch.where(weight > 0, scale, -scale).to(x.dtype)
        wanted = [ctx.needs_input_grad[0], ctx.needs_input_grad[1], ctx.has_bias]
        grad_x, grad_weight, grad_bias = torch.ops.aten.convolution_backward(
            grads[0], x, scaled_signs, [len(weight)] if ctx.has_bias else None, *ctx.geometry, wanted
        )
        if grad_weight is not None:
            grad_weight = grad_weight.to(weight.dtype) * ((weight.abs() <= 1) * scale)
        if grad_bias is not None:
            grad_bias = grad_bias.to(weight.dtype)
        return grad_x, grad_weight, grad_bias, None, None, None
