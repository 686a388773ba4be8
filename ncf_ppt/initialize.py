"""Initial weights of networks over users and items, a function of a seed."""

from collections.abc import Callable

import torch
from torch import nn


@torch.no_grad()
def initialize(model: nn.Module, *, seed: int, draw_linear: Callable[[nn.Linear, torch.Generator], None]) -> None:
    """Give a model built on the meta device its memory on the CPU and its initial weights.

    ===========  ================================================================
    Embedding    normal, deviation 0.01
    BatchNorm1d  weight 1, bias 0, running mean 0 and variance 1
    Linear       what ``draw_linear(layer, generator)`` does; it is asked in the
                 order of modules, since the draws follow one another
    ===========  ================================================================
    """
    model.to_empty(device="cpu")
    generator = torch.Generator().manual_seed(seed)
    for module in model.modules():
        if isinstance(module, nn.Embedding):
            nn.init.normal_(module.weight, std=0.01, generator=generator)
        elif isinstance(module, nn.BatchNorm1d):
            module.reset_parameters()
        elif isinstance(module, nn.Linear):
            draw_linear(module, generator)
