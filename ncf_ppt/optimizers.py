"""Adam for a network of large tables, dense or at the cost of the rows that a batch touches."""

from collections.abc import Callable
from typing import Literal

import torch
from torch import nn

from ncf_ppt.model import NCF
from ncf_ppt.row_adam import RowAdam, RowEmbedding
from ppt_core.distributed import World

Optimizer = Literal["row-adam", "adam"]

BETAS = (0.9, 0.999)
EPS = 1e-8


def usual_optimizer(device: str) -> Optimizer:
    """The faster one on a device."""
    return "row-adam" if torch.device(device).type == "cpu" else "adam"


def optimizer_factory(
    optimizer: Optimizer | None,
    learning_rate: float,
    device: str,
    *,
    world: World = World(),  # noqa: B008 (frozen)
) -> Callable[[nn.Module], torch.optim.Optimizer]:
    """What builds the optimizer of a phase from the model; None takes the usual one of the device."""
    name = optimizer or usual_optimizer(device)

    def make_optimizer(model: nn.Module) -> torch.optim.Optimizer:
        if name == "adam":
            return torch.optim.Adam(model.parameters(), lr=learning_rate, betas=BETAS, eps=EPS, fused=True)
        assert isinstance(model, NCF)
        tables = model.tables()
        weights = {table.weight for table in tables}
        others = [parameter for parameter in model.parameters() if parameter not in weights]
        row_adam = RowAdam(tables, others, lr=learning_rate, betas=BETAS, eps=EPS)
        if world.size > 1:
            row_adam.register_step_pre_hook(lambda *_: _catch_up_gradient_rows(tables))
        return row_adam

    return make_optimizer


def _catch_up_gradient_rows(tables: list[RowEmbedding]) -> None:
    """Bring the rows that only other processes have read up to date, before the step that moves them."""
    for table in tables:
        if table.weight.grad is not None:
            table.catch_up(table.weight.grad._indices()[0])
