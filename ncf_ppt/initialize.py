"""Initial weights of networks over users and items, a function of a seed."""

from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor, nn

from ncf_ppt.row_adam import RowEmbedding

_DEVIATION = 0.01


@torch.no_grad()
def initialize(model: nn.Module, *, seed: int, draw_linear: Callable[[nn.Linear, torch.Generator], None]) -> None:
    """Give a model built on the meta device its memory on the CPU and its initial weights.

    ===========  ================================================================
    Embedding    normal, deviation 0.01; the same where its rows are dealt out
    BatchNorm1d  weight 1, bias 0, running mean 0 and variance 1
    Linear       what ``draw_linear(layer, generator)`` does; it is asked in the
                 order of modules, since the draws follow one another
    ===========  ================================================================
    """
    model.to_empty(device="cpu")
    generator = torch.Generator().manual_seed(seed)
    for module in model.modules():
        if isinstance(module, RowEmbedding) and module.shards is not None:
            module.shards.keep_own(partial(_draw_rows, module.embedding_dim, generator), module.weight)
        elif isinstance(module, nn.Embedding):
            nn.init.normal_(module.weight, std=_DEVIATION, generator=generator)
        elif isinstance(module, nn.BatchNorm1d):
            module.reset_parameters()
        elif isinstance(module, nn.Linear):
            draw_linear(module, generator)


def _draw_rows(size: int, generator: torch.Generator, start: int, stop: int) -> Tensor:
    """The next rows of a table: drawn in pieces of 16 numbers or more, normal numbers are those of the whole."""
    return nn.init.normal_(torch.empty(stop - start, size), std=_DEVIATION, generator=generator)
