"""The convolution of one-bit activations with one-bit weights, forward and backward."""

from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from ppt_core.binarize import binarize_weight
from ppt_core.bits import _kernels
from ppt_core.bits.pack import Words, pack_images, pack_window_signs
from ppt_core.device import has_kernels, is_simulated_as_usual

Pair = tuple[int, ...]
Geometry = tuple[int, int, int, int, int, int]
"""Height and width of the kernel, of the stride and of the padding."""


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

    On a CPU the product counts bits, without groups and dilation; elsewhere it is summed as floats. Both are exact: in
    float32 always, in bfloat16 up to 256. Under autocast counted products stay float32, and only gradients are products
    of bfloat16: no kernel takes activations in it.

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

    Source: as `ppt_core.bits.linear.binary_linear`.
    """
    of_gradients = x.dtype
    if torch.is_autocast_enabled(x.device.type):
        of_gradients = torch.get_autocast_dtype(x.device.type)
        x = floats if _counts_bits(floats := x.float(), dilation, groups) else x.to(of_gradients)
    if is_simulated_as_usual():
        scaled = (binarize_weight(weight) * scale).to(x.dtype)
        return F.conv2d(x, scaled, None if bias is None else bias.to(x.dtype), stride, padding, dilation, groups)
    geometry = (stride, padding, dilation, False, (0, 0), groups)
    result: Tensor = _BinaryConv2d.apply(  # type: ignore[no-untyped-call]
        x, weight, bias, alpha, scale, geometry, of_gradients
    )
    return result


def _counts_bits(x: Tensor, dilation: Pair, groups: int) -> bool:
    """Whether the product counts bits."""
    return has_kernels(x) and groups == 1 and max(dilation) == 1


class _BinaryConv2d(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        weight: Tensor,
        bias: Tensor | None,
        alpha: Tensor,
        scale: Tensor,
        geometry: Any,
        of_gradients: torch.dtype,
    ) -> Tensor:
        ctx.save_for_backward(x.to(of_gradients), weight, scale)
        ctx.geometry, ctx.has_bias = geometry, bias is not None
        stride, padding, dilation, _, _, groups = geometry
        if _counts_bits(x, dilation, groups):
            windows = (*weight.shape[2:], *stride, *padding)
            signs = pack_window_signs(weight)
            output = multiply_windows(pack_images(x, 0.0), x.shape[1], signs, windows, (alpha * scale).item())
            output = in_layout_of(x, output)
        else:
            bits = x / alpha.to(x.dtype)  # alpha / alpha is exactly 1
            output = torch.ops.aten.convolution(bits, binarize_weight(weight).to(x.dtype), None, *geometry)
            output *= (alpha * scale).to(x.dtype)
        return output if bias is None else output + bias.to(x.dtype)[:, None, None]

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        x, weight, scale = ctx.saved_tensors
        grad = grads[0].to(x.dtype)
        # The scale joins the weights' side, which is small: no pass over the batch.
        scaled_signs = torch.where(weight > 0, scale, -scale).to(x.dtype)
        wanted = [ctx.needs_input_grad[0], ctx.needs_input_grad[1], ctx.has_bias]
        grad_x, grad_weight, grad_bias = torch.ops.aten.convolution_backward(
            grad, x, scaled_signs, [len(weight)] if ctx.has_bias else None, *ctx.geometry, wanted
        )
        if grad_weight is not None:
            grad_weight = grad_weight.to(weight.dtype) * ((weight.abs() <= 1) * scale)
        if grad_bias is not None:
            grad_bias = grad_bias.to(weight.dtype)
        if grad_x is not None:
            grad_x = grad_x.to(grads[0].dtype)
        return grad_x, grad_weight, grad_bias, None, None, None, None


def multiply_windows(bits: Words, in_channels: int, signs: Words, geometry: Geometry, factor: float) -> Tensor:
    """Return ``factor`` times the convolution of packed bits with packed signs, an exact integer.

    Args:
        bits: of images with ``in_channels`` channels, see `pack_images`.
        in_channels: as above.
        signs: see `pack_window_signs`.
        geometry: of the windows.
        factor: taken as float32.

    Returns:
        float32 (n, out_channels, height', width'), channels last in memory.
    """
    n, height, width, _ = bits.shape
    out_channels = signs.shape[2]
    out = torch.empty(n, *new_size((height, width), geometry), -(-out_channels // 16) * 16)
    _kernels.convolve(bits, in_channels, geometry, signs, None, None, np.float32(factor), out.numpy())
    return out[..., :out_channels].contiguous().permute(0, 3, 1, 2)


def is_channels_last(x: Tensor) -> bool:
    """Whether images (n, channels, height, width) lie without gaps, the channels last, and can be read in no other way.

    PyTorch's convolution gives such images back so, and those without gaps that have the channels first so, unless its
    weights have them last. Of images with gaps nothing is said here.
    """
    return not x.is_contiguous() and x.is_contiguous(memory_format=torch.channels_last)


def in_layout_of(x: Tensor, output: Tensor) -> Tensor:
    """Return ``output`` in the layout that PyTorch's own convolution of ``x`` would have: channels last or usual."""
    return output.contiguous(memory_format=torch.channels_last if is_channels_last(x) else torch.contiguous_format)


def new_size(size: tuple[int, int], geometry: Geometry) -> tuple[int, int]:
    """Height and width behind a convolution or pooling. Raises ValueError if the image is smaller than a window."""
    kernel_size, stride, padding = geometry[:2], geometry[2:4], geometry[4:]
    height = (size[0] + 2 * padding[0] - kernel_size[0]) // stride[0] + 1
    width = (size[1] + 2 * padding[1] - kernel_size[1]) // stride[1] + 1
    if height < 1 or width < 1:
        raise ValueError(f"an image of {size[0]} x {size[1]} is smaller than a window of {kernel_size}")
    return height, width
