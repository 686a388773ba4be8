"""Initial weights of image networks, a function of a seed."""

import math
from collections.abc import Iterable

import torch
from torch import nn


@torch.no_grad()
def initialize(
    model: nn.Module, *, seed: int, zeroed: Iterable[nn.BatchNorm2d] = (), last_deviation: float | None = None
) -> None:
    """Give a model built on the meta device its memory on the CPU and its initial weights.

    ===========  ===================================================================================
    Conv2d       normal, deviation sqrt(2 / (out_channels * kernel height * kernel width)), so that
                 gradients keep their size through ReLUs (He et al. 2015, equation 14); biases 0
    BatchNorm2d  weight 1, bias 0, running mean 0 and variance 1
    Linear       weight and bias uniform within 1 / sqrt(in_features), as PyTorch's own
    ===========  ===================================================================================

    Args:
        model: on the meta device.
        seed: the weights are a function of it and of the model's shapes.
        zeroed: BatchNorms whose weight starts at 0.
        last_deviation: Linear layers have normal weights of this deviation and biases 0, in place of the above.
    """
    model.to_empty(device="cpu")
    generator = torch.Generator().manual_seed(seed)
    for module in model.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu", generator=generator)
            if module.bias is not None:
                nn.init.zeros_(module.bias)
        elif isinstance(module, nn.BatchNorm2d):
            module.reset_parameters()
        elif isinstance(module, nn.Linear):
            if last_deviation is None:
                bound = 1 / math.sqrt(module.in_features)
                nn.init.uniform_(module.weight, -bound, bound, generator=generator)
                nn.init.uniform_(module.bias, -bound, bound, generator=generator)
            else:
                nn.init.normal_(module.weight, std=last_deviation, generator=generator)
                nn.init.zeros_(module.bias)
    for norm in zeroed:
        nn.init.zeros_(norm.weight)
