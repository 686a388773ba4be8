"""The training loop: one for every model, precision and split."""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal

import torch
from torch import Tensor, nn

from ppt_core import step_graph
from ppt_core.device import repeatable_convolutions
from ppt_core.distributed import World
from ppt_core.layers import clamp_alphas, set_precision
from ppt_core.schedule import PhaseSchedule, Precision

Scale = Literal["static", "none"]
AtSwitch = Literal["reset", "keep"]


@dataclass(frozen=True)
class TrainStep:
    """What one optimizer step leaves: its number (from 0), the number of its phase, and the loss on its batch."""

    iteration: int
    phase: int
    loss: Tensor
    optimizer: torch.optim.Optimizer


def train_steps(
    model: nn.Module,
    batches: Iterable[Any],
    loss_fn: Callable[[nn.Module, Any], Tensor],
    schedule: PhaseSchedule,
    make_optimizer: Callable[[nn.Module], torch.optim.Optimizer],
    *,
    start: int = 0,
    optimizer: torch.optim.Optimizer | None = None,
    at_switch: AtSwitch = "reset",
    scale: Scale = "static",
    project: Callable[[], None] | None = None,
    world: World = World(),  # noqa: B008 (frozen)
    record: bool = False,
) -> Iterator[TrainStep]:
    """Train ``model`` through ``schedule``, yielding after each optimizer step.

    Logging, evaluation and checkpoints belong to the caller, between two steps; abandoning the iterator ends
    training. The model must have been converted (`ppt_core.plan.convert`) if a phase is of low precision.

    Args:
        model: trained in place, in train mode at every step, whatever the caller did between two.
        batches: one for each iteration from ``start`` on.
        loss_fn: scalar loss of (model, batch), the alpha penalty included.
        schedule: precisions and learning rates.
        make_optimizer: builds the optimizer of a phase over all parameters.
        start: first iteration. Past 0, the model must hold the state and precision of that moment, and
            ``optimizer`` the state after iteration ``start - 1``.
        optimizer: continues with this one in the phase of ``start``; by default a fresh one.
        at_switch: ``reset`` gives each phase a fresh optimizer, since moments gathered at one precision describe
            another loss surface; ``keep`` carries it over. The source is silent; a decision of ours.
        scale: weight scale at insertion, see `ppt_core.layers.set_precision`.
        project: makes the model ready for low precision, just before it is switched; called in the first process,
            whose weights all others then take.
        world: the processes that train together. Each gives its share of every batch, a tuple that ends with a
            tensor of one row for each sample; ``loss_fn`` is a mean over samples.
        record: let a GPU repeat a recorded step (`ppt_core.step_graph`) where process and optimizer allow it.
            ``loss_fn`` must then never wait for the GPU, as ``item`` does, nor do another thing in the next step.

    Raises ValueError if ``batches`` end before the schedule does.
    """
    if at_switch not in ("reset", "keep"):
        raise ValueError(f"at_switch is {at_switch!r}; it must be 'reset' or 'keep'")
    stream = iter(batches)
    take_step: Callable[[Any], Tensor] | None = None
    phase = schedule.at(start - 1)[0] if start else -1
    for iteration in range(start, schedule.iterations):
        number, learning_rate = schedule.at(iteration)
        switches = number != phase
        if switches:
            take_step = None
            if phase >= 0 and at_switch == "reset":
                optimizer = None
        if optimizer is None:  # before `project`: it may bring rows up to date that the last one had left behind
            optimizer = make_optimizer(model)
        if switches:
            if project is not None and schedule.phases[number].precision == "low":
                world.agree(project)
                world.copy_from_first(model.parameters())
            world.check(partial(set_precision, model, schedule.phases[number].precision, scale=scale))
            phase = number
        if take_step is None:
            precision = schedule.phases[number].precision
            take_step = _step_function(model, loss_fn, optimizer, precision, world, record=record)
        try:
            batch = next(stream)
        except StopIteration:
            raise ValueError(
                f"batches ran out at iteration {iteration} of {schedule.iterations}; give a batch for each iteration"
            ) from None

        model.train()
        for group in optimizer.param_groups:
            if isinstance(group["lr"], Tensor):
                group["lr"].fill_(learning_rate)
            else:
                group["lr"] = learning_rate
        yield TrainStep(iteration, number, take_step(batch), optimizer)


def _step_function(
    model: nn.Module,
    loss_fn: Callable[[nn.Module, Any], Tensor],
    optimizer: torch.optim.Optimizer,
    precision: Precision,
    world: World,
    *,
    record: bool,
) -> Callable[[Any], Tensor]:
    """What takes a step on a batch and returns its loss, detached; for one precision and one optimizer."""

    def take_step(batch: Any) -> Tensor:
        optimizer.zero_grad(set_to_none=True)
        with repeatable_convolutions():
            loss = _compute_gradients(model, batch, loss_fn, world)
        optimizer.step()
        if precision == "low":
            clamp_alphas(model)
        return loss

    if not record or world.size > 1 or not step_graph.can_record(optimizer):
        return take_step
    step_graph.prepare(optimizer)
    return step_graph.StepGraph(take_step, optimizer.param_groups[0]["params"][0].device)


def _compute_gradients(
    model: nn.Module, batch: Any, loss_fn: Callable[[nn.Module, Any], Tensor], world: World
) -> Tensor:
    """Set the gradients of the batch, all processes' shares together, and return its loss, detached."""
    n_samples = len(batch[-1]) if world.size > 1 else None
    loss = torch.zeros((), device=world.device)
    if n_samples != 0:
        loss = loss_fn(model, batch)
        loss.backward()  # type: ignore[no-untyped-call]
    return loss.detach() if n_samples is None else world.average_gradients(model.parameters(), loss, n_samples)
