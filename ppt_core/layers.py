"""Ordinary layers with a second precision: a phase is a switch on one model, never a second model."""

import math
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ppt_core.batch_norm import BatchNormReLU
from ppt_core.binarize import binarize_activation, binarize_and_rectify, binarize_rows, sum_in_one_order
from ppt_core.bits.conv import binary_conv2d
from ppt_core.bits.linear import binary_linear
from ppt_core.schedule import Precision

ShortcutActivation = Literal["real", "binary"]

INITIAL_ALPHA = 3.0
ALPHA_PENALTY = 2e-4
MIN_ALPHA = 1e-3  # at or below 0 the threshold alpha / 2 would leave the range it divides


class BinaryActivation(nn.Module):
    """What one-bit activations have; each stands in the place of a ReLU.

    Attributes:
        alpha: the trainable clipping level, shape ``()``, initially 3. Unused (no gradient) in full precision.
        precision: ``full`` or ``low``.
        gives_real: whether its output is real in low precision, too, because something else than 1-bit layers reads
            it, a shortcut say. The 1-bit layers then take the bits of it themselves.
    """

    alpha: nn.Parameter
    precision: Precision
    gives_real: bool = False


class BinaryReLU(BinaryActivation, nn.ReLU):
    """ReLU in full precision, one-bit PACT in low precision."""

    def forward(self, input: Tensor) -> Tensor:
        """Return ``max(input, 0)``, or 0 and alpha by `ppt_core.binarize.binarize_activation`."""
        if self.precision == "full" or self.gives_real:
            return super().forward(input)
        return binarize_activation(input, self.alpha)


class ForkedReLU(nn.Module):
    """The ReLU of a sum in a residual network, read by the next branch and by the shortcut beside it.

    Binarized (`BinaryForkedReLU`), it gives bits to the branch, and to the shortcut real numbers or the same bits.

    Args:
        shortcut_activation: what the shortcut reads in low precision: ``real``, max(input, 0); ``binary``, 0 or alpha.
    """

    def __init__(self, shortcut_activation: ShortcutActivation = "real") -> None:
        super().__init__()
        self.shortcut_activation = shortcut_activation

    def forward(self, input: Tensor) -> tuple[Tensor, Tensor]:
        """Return ``max(input, 0)`` for the branch and for the shortcut."""
        real = F.relu(input)
        return real, real


class BinaryForkedReLU(BinaryActivation, ForkedReLU):
    """`ForkedReLU` in full precision; in low precision one-bit PACT for the branch, and for the shortcut as it says."""

    def forward(self, input: Tensor) -> tuple[Tensor, Tensor]:
        """Return what the branch and what the shortcut reads."""
        if self.precision == "full" or self.gives_real:
            return super().forward(input)
        if self.shortcut_activation == "binary":
            binary = binarize_activation(input, self.alpha)
            return binary, binary
        return binarize_and_rectify(input, self.alpha)


class BinaryBatchNormReLU(BinaryActivation, BatchNormReLU):
    """BatchNorm, then ReLU in full precision and one-bit PACT in low precision."""

    def _clipping_level(self) -> Tensor | None:
        return None if self.precision == "full" or self.gives_real else self.alpha


class _BinaryWeights:
    """What `BinaryLinear` and `BinaryConv2d` share.

    Their operands are {0, 1} and {-1, +1}, so the product is an exact integer in any order of summation; scales
    come after it.

    Attributes:
        scale: static weight scale, a buffer of shape ``()``: mean |w| at insertion, or 1.
        input_activation: the `BinaryActivation` whose 0-or-alpha outputs this layer multiplies. It is not a
            submodule here: its parameters belong to the place in the model where it stands.
    """

    weight: Tensor
    scale: Tensor
    precision: Precision
    _input_activation: tuple[BinaryActivation]

    @property
    def input_activation(self) -> BinaryActivation:
        return self._input_activation[0]

    def _bits(self, input: Tensor) -> Tensor:
        """What to multiply in low precision: 0 or alpha."""
        activation = self.input_activation
        return binarize_activation(input, activation.alpha) if activation.gives_real else input


class BinaryLinear(_BinaryWeights, nn.Linear):
    """`nn.Linear` in full precision; in low precision ``alpha * scale * ({0, 1} @ {-1, +1}) + bias``."""

    def forward(self, input: Tensor) -> Tensor:
        """Map (..., in_features) to (..., out_features)."""
        if self.precision == "full":
            return F.linear(input, self.weight, self.bias)
        rows = self._bits(input).reshape(-1, self.in_features)
        alpha = self.input_activation.alpha.detach()
        output = binary_linear(rows, self.weight, self.bias, alpha=alpha, scale=self.scale)
        return output.reshape(*input.shape[:-1], self.out_features)


class BinaryConv2d(_BinaryWeights, nn.Conv2d):
    """`nn.Conv2d` in full precision; in low precision a convolution of {0, 1} with {-1, +1}, then scaled.

    Zero padding is the bit 0: exact.
    """

    def forward(self, input: Tensor) -> Tensor:
        """Map (batch, in_channels, height, width) to (batch, out_channels, height', width')."""
        if self.precision == "full":
            return super().forward(input)
        input = self._bits(input)
        padding: tuple[int, ...] = (0, 0)
        if isinstance(self.padding, str) or self.padding_mode != "zeros":
            mode = "constant" if self.padding_mode == "zeros" else self.padding_mode
            input = F.pad(input, self._reversed_padding_repeated_twice, mode=mode)
        else:
            padding = self.padding
        return binary_conv2d(
            input,
            self.weight,
            self.bias,
            alpha=self.input_activation.alpha.detach(),
            scale=self.scale,
            stride=self.stride,
            padding=padding,
            dilation=self.dilation,
            groups=self.groups,
        )


class BinaryEmbedding(nn.Embedding):
    """`nn.Embedding` in full precision; in low precision its rows by `ppt_core.binarize.binarize_rows`."""

    precision: Precision = "full"

    def forward(self, input: Tensor) -> Tensor:
        """Return the rows ``input`` (...,), float (..., embedding_dim)."""
        rows = super().forward(input)
        return rows if self.precision == "full" else binarize_rows(rows)


def set_precision(model: nn.Module, precision: Precision, *, scale: Literal["static", "none"] = "static") -> None:
    """Switch every converted layer of ``model`` in place; parameters and state_dict keys stay as they are.

    Entering low precision is the projection of partial pre-training: it freezes each weight scale at the present
    mean |w| (``scale="static"``) or at 1 (``"none"``), and starts each alpha at 3. Going back restores the
    full-precision network with its latent weights.

    Raises ValueError if a model that was not converted is to enter low precision (it is in full precision already),
    or a weight to binarize is not finite.
    """
    if precision not in ("full", "low"):
        raise ValueError(f"precision is {precision!r}; it must be 'full' or 'low'")
    if scale not in ("static", "none"):
        raise ValueError(f"scale is {scale!r}; it must be 'static' or 'none'")
    layers = [m for m in model.modules() if isinstance(m, (BinaryActivation, _BinaryWeights, BinaryEmbedding))]
    if precision == "low" and not layers:
        raise ValueError("the model holds no binarizable layer; convert it first with ppt_core.plan.convert")
    if precision == "low":
        check_finite(model)
    for layer in layers:
        if precision == "low" and layer.precision == "full":
            with torch.no_grad():
                if isinstance(layer, BinaryActivation):
                    layer.alpha.fill_(INITIAL_ALPHA)
                elif isinstance(layer, _BinaryWeights):
                    layer.scale.fill_(_mean_magnitude(layer.weight) if scale == "static" else 1.0)
        layer.precision = precision


def _mean_magnitude(weight: Tensor) -> float:
    """Mean |w|, the same bit for bit on any number of threads."""
    return sum_in_one_order(weight.abs()).item() / weight.numel()


def check_finite(model: nn.Module) -> None:
    """Raise ValueError naming the first parameter that holds NaN or infinity."""
    for name, parameter in model.named_parameters():
        if not _is_finite(parameter):
            raise ValueError(
                f"parameter {name} holds values that are not finite, so it cannot be binarized; "
                "training has diverged: lower the learning rate"
            )


def find_not_finite(model: nn.Module) -> str | None:
    """Name the first parameter or buffer that holds NaN or infinity, as ``parameter NAME`` or ``buffer NAME``.

    In low precision neither a loss nor a score may show them, since a one-bit activation makes 0 of NaN. A pass over
    memory: 5 ms for 31.8 M parameters.
    """
    kinds = {"parameter": model.named_parameters(), "buffer": model.named_buffers()}
    found = (f"{kind} {name}" for kind, named in kinds.items() for name, tensor in named if not _is_finite(tensor))
    return next(found, None)


def _is_finite(tensor: Tensor) -> bool:
    if not tensor.is_floating_point() or not tensor.numel():
        return True
    return all(math.isfinite(end.item()) for end in torch.aminmax(tensor.detach()))  # no copy, as isfinite would make


def alpha_penalty(model: nn.Module) -> Tensor | float:
    """The loss term ``0.0002 * sum(alpha**2)`` over activations in low precision; 0.0 in full precision."""
    alphas: list[Tensor] = [
        m.alpha for m in model.modules() if isinstance(m, BinaryActivation) and m.precision == "low"
    ]
    return ALPHA_PENALTY * torch.stack(alphas).square().sum() if alphas else 0.0


def clamp_alphas(model: nn.Module) -> None:
    """Keep every alpha at 0.001 or above, after an optimizer step.

    A decision of ours: Adam's step does not shrink with the penalty, so an unused alpha would drift below 0,
    where the two values change places.
    """
    with torch.no_grad():
        for module in model.modules():
            if isinstance(module, BinaryActivation):
                module.alpha.clamp_(min=MIN_ALPHA)
