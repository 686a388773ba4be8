"""Adam for a network of large tables, dense or at the cost of the rows that a batch touches."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import nn

from ncf_ppt.model import NCF
from ncf_ppt.row_adam import LARGEST_BETA2, RowAdam, RowEmbedding
from ppt_core.distributed import World

Optimizer = Literal["row-adam", "adam"]


@dataclass(frozen=True, kw_only=True)
class AdamSettings:
    """The settings of Adam (Kingma and Ba 2015, algorithm 1), the same for both optimizers.

    Attributes:
        learning_rate: constant.
        betas: decay rates of the two moments.
        eps: added to the square root of the second.
    """

    learning_rate: float
    betas: tuple[float, float] = (0.9, 0.999)
    eps: float = 1e-8


def usual_optimizer(device: str) -> Optimizer:
    """The faster one on a device."""
    return "row-adam" if torch.device(device).type == "cpu" else "adam"


def optimizer_factory(
    optimizer: Optimizer | None,
    settings: AdamSettings,
    device: str,
    *,
    world: World = World(),  # noqa: B008 (frozen)
) -> Callable[[nn.Module], torch.optim.Optimizer]:
    """What builds the optimizer of a phase from the model; None takes the usual one of the device.

    Raises ValueError for settings that ``row-adam`` cannot have.
    """
    name = optimizer or usual_optimizer(device)
    if name == "row-adam" and not RowAdam.takes(settings.betas, settings.eps):
        raise ValueError(
            f"beta1 is {settings.betas[0]} and beta2 is {settings.betas[1]}; the optimizer row-adam needs "
            f"0 < beta1 < beta2**1.5 and beta2 <= {LARGEST_BETA2}, so choose the optimizer adam"
        )
    adam: dict[str, Any] = {"lr": settings.learning_rate, "betas": settings.betas, "eps": settings.eps}

    def make_optimizer(model: nn.Module) -> torch.optim.Optimizer:
        if name == "adam":
            return torch.optim.Adam(model.parameters(), **adam, fused=True)
        assert isinstance(model, NCF)
        tables = model.tables()
        weights = {table.weight for table in tables}
        others = [parameter for parameter in model.parameters() if parameter not in weights]
        row_adam = RowAdam(tables, others, **adam)
        if world.size > 1:
            row_adam.register_step_pre_hook(lambda *_: _catch_up_gradient_rows(tables))
        return row_adam

    return make_optimizer


def _catch_up_gradient_rows(tables: list[RowEmbedding]) -> None:
    """Bring the rows that only other processes have read up to date, before the step that moves them."""
    for table in tables:
        if table.weight.grad is not None:
            table.catch_up(table.weight.grad._indices()[0])
