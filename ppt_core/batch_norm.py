"""BatchNorm and the activation behind it as one module: a pass over memory instead of four."""

from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ppt_core import _kernels
from ppt_core.binarize import binarize_activation
from ppt_core.device import has_kernels


class BatchNormReLU(nn.BatchNorm1d):
    """`nn.BatchNorm1d` followed by ReLU, for inputs of shape (batch, channels).

    In float32 on a CPU one kernel does both, forward and backward, and its result is the same bit for bit on any
    number of threads; elsewhere PyTorch's own operations do. Parameters, buffers and the update of the running
    statistics are those of `nn.BatchNorm1d`.

    Source of the formulas: Ioffe and Szegedy 2015, algorithm 1 and section 3.
    """

    def forward(self, input: Tensor) -> Tensor:
        """Normalize with the batch's statistics in training and the running ones in evaluation, then activate.

        Raises ValueError for another shape and for a training batch of one row, which has no variance.
        """
        if input.dim() != 2 or input.shape[1] != self.num_features:
            raise ValueError(f"the input has shape {tuple(input.shape)}; it must be (batch, {self.num_features})")
        if self.training and len(input) < 2:
            raise ValueError("BatchNorm in training needs a batch of at least 2 rows")
        alpha = self._clipping_level()
        if input.dtype == torch.bfloat16 and not (alpha is None and input.is_cuda):
            # Under autocast. Statistics and bits need the precision; of ReLU's input a GPU takes statistics in float32,
            # and what it gives would be rounded by the next layer.
            input = input.float()
        if not has_kernels(input):
            normalized = super().forward(input)
            return F.relu(normalized) if alpha is None else binarize_activation(normalized, alpha)
        if not self.training:
            factor, shift = self.folded()
            if torch.is_grad_enabled() and (input.requires_grad or factor.requires_grad):
                normalized = input * factor + shift  # rounded twice, as in the kernel: the same decisions
                return F.relu(normalized) if alpha is None else binarize_activation(normalized, alpha)
            input = input.contiguous()
            return _activate(input, factor, shift, alpha, torch.empty_like(input))
        output, mean, variance = _NormalizeAndActivate.apply(input, self.weight, self.bias, alpha, self.eps)  # type: ignore[no-untyped-call]
        self._update_running_statistics(mean, variance, len(input))
        result: Tensor = output
        return result

    def evaluate_in_place(self, input: Tensor) -> Tensor:
        """Do what `forward` does in evaluation, without gradients, and leave the result in ``input``.

        ``input`` is contiguous, float32 and on a CPU. New memory for every result would cost a quarter of the pass.
        """
        return _activate(input, *self.folded(), self._clipping_level(), input)

    def _clipping_level(self) -> Tensor | None:
        """Alpha of the one-bit activation, or None for ReLU."""
        return None

    def folded(self) -> tuple[Tensor, Tensor]:
        """Return ``factor`` and ``shift`` (channels,): in evaluation, ``input * factor + shift`` is activated."""
        assert self.running_mean is not None
        assert self.running_var is not None
        factor = self.weight * (self.running_var + self.eps).rsqrt()
        return factor, self.bias - self.running_mean * factor

    @torch.no_grad()
    def _update_running_statistics(self, mean: Tensor, variance: Tensor, n_rows: int) -> None:
        assert self.running_mean is not None
        assert self.running_var is not None
        assert self.num_batches_tracked is not None
        assert self.momentum is not None
        self.num_batches_tracked.add_(1)
        self.running_mean.lerp_(mean, self.momentum)
        self.running_var.lerp_(variance * (n_rows / (n_rows - 1)), self.momentum)


def _activate(input: Tensor, factor: Tensor, shift: Tensor, alpha: Tensor | None, output: Tensor) -> Tensor:
    level = np.float32(0 if alpha is None else alpha.item())
    arrays = (tensor.detach().numpy() for tensor in (input, factor, shift))
    _kernels.scale_and_activate(*arrays, level, alpha is not None, output.numpy())
    return output


class _NormalizeAndActivate(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, x: Tensor, weight: Tensor, bias: Tensor, alpha: Tensor | None, eps: float
    ) -> tuple[Tensor, Tensor, Tensor]:
        x = x.contiguous()
        n_blocks = -(-len(x) // _kernels.BLOCK_ROWS)
        mean, variance = torch.empty_like(bias), torch.empty_like(bias)
        scratch = np.empty((2, n_blocks, x.shape[1]), np.float32)
        _kernels.batch_moments(x.numpy(), scratch[0], scratch[1], mean.numpy(), variance.numpy())
        inverse_deviation = (variance + eps).rsqrt()
        factor = weight * inverse_deviation
        shift = bias - mean * factor
        output = _activate(x, factor, shift, alpha, torch.empty_like(x))
        ctx.save_for_backward(x, mean, inverse_deviation, factor, shift, alpha)
        ctx.mark_non_differentiable(mean, variance)
        return output, mean, variance

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        x, mean, inverse_deviation, factor, shift, alpha = ctx.saved_tensors
        grad = grads[0].contiguous()
        grad_x, grad_weight, grad_bias = torch.empty_like(x), torch.empty_like(mean), torch.empty_like(mean)
        grad_alpha = torch.empty(1)
        n_blocks = -(-len(x) // _kernels.BLOCK_ROWS)
        _kernels.scale_and_activate_backward(
            grad.numpy(), x.numpy(), mean.numpy(), inverse_deviation.numpy(), factor.numpy(), shift.numpy(),
            np.float32(0 if alpha is None else alpha.item()), alpha is not None,
            np.empty((n_blocks, 3, x.shape[1]), np.float32),
            grad_x.numpy(), grad_weight.numpy(), grad_bias.numpy(), grad_alpha.numpy(),
        )  # fmt: skip
        return grad_x, grad_weight, grad_bias, None if alpha is None else grad_alpha.reshape(()), None
