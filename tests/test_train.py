import copy
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ppt_core.layers import BinaryActivation, BinaryLinear, alpha_penalty, set_precision
from ppt_core.plan import convert
from ppt_core.runs.checkpoint import open_tensors, restore_training_state, save_tensors, training_state
from ppt_core.schedule import Constant, LearningRate, PhaseSchedule, Step
from ppt_core.train import AtSwitch, TrainStep, train_steps
from tests import reference

Batch = tuple[Tensor, Tensor]
RATE = Constant(0.01)


def new_model() -> nn.Sequential:
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Linear(6, 16), nn.BatchNorm1d(16), nn.ReLU(),
        nn.Linear(16, 16), nn.BatchNorm1d(16), nn.ReLU(),
        nn.Linear(16, 1),
    )  # fmt: skip
    convert(model)
    return model


def batch(iteration: int, n_rows: int = 32) -> Batch:
    """Points on both sides of a plane, and which side it is."""
    x = torch.randn(n_rows, 6, generator=torch.Generator().manual_seed(iteration))
    return x, (x.sum(1) > 0).float()


def batches(start: int = 0, stop: int = 10**9) -> Iterator[Batch]:
    return (batch(iteration) for iteration in range(start, stop))


def loss(model: nn.Module, batch: Batch) -> Tensor:
    x, labels = batch
    return F.binary_cross_entropy_with_logits(model(x).squeeze(1), labels) + alpha_penalty(model)


def adam(model: nn.Module) -> torch.optim.Optimizer:
    return torch.optim.Adam(model.parameters(), lr=123.0)  # the schedule has the say


def split(iterations: int, fraction: float, learning_rate: LearningRate = RATE) -> PhaseSchedule:
    return PhaseSchedule.split(iterations, fraction, learning_rate)


def precisions(model: nn.Module) -> set[str]:
    return {m.precision for m in model.modules() if isinstance(m, (BinaryActivation, BinaryLinear))}


@pytest.mark.parametrize(
    ("iterations", "fraction", "expected"),
    [(6, 0.5, "fffLLL"), (5, 0.4, "ffLLL"), (4, 0, "LLLL"), (4, 1, "ffff"), (3, 0.37, "fLL")],
)
def test_precision_of_every_step(iterations: int, fraction: float, expected: str) -> None:
    model, seen = new_model(), ""

    def watched(model: nn.Module, batch: Batch) -> Tensor:
        nonlocal seen
        (precision,) = precisions(model)
        seen += "f" if precision == "full" else "L"
        return loss(model, batch)

    steps = list(train_steps(model, batches(), watched, split(iterations, fraction), adam))
    assert seen == expected
    assert [step.iteration for step in steps] == list(range(iterations))
    first = expected[0]
    assert [step.phase for step in steps] == [int(precision != first) for precision in expected]
    assert all(step.loss.shape == () and not step.loss.requires_grad for step in steps)


def test_a_model_left_in_low_precision_starts_over_in_full() -> None:
    model = new_model()
    set_precision(model, "low")
    seen = [precisions(model) for _ in train_steps(model, batches(), loss, split(4, 0.5), adam)]
    assert seen == [{"full"}, {"full"}, {"low"}, {"low"}]


def test_full_precision_needs_no_conversion() -> None:
    model = nn.Sequential(nn.Linear(6, 1))
    assert len(list(train_steps(model, batches(), loss, split(3, 1), adam))) == 3
    with pytest.raises(ValueError, match=r"holds no binarizable layer; convert it first with ppt_core\.plan\.convert$"):
        list(train_steps(model, batches(), loss, split(4, 0.5), adam))


@pytest.mark.parametrize(("at_switch", "n_optimizers"), [("reset", 2), ("keep", 1)])
def test_optimizer_at_the_switch(at_switch: AtSwitch, n_optimizers: int) -> None:
    made: list[torch.optim.Optimizer] = []

    def make_optimizer(model: nn.Module) -> torch.optim.Optimizer:
        made.append(adam(model))
        return made[-1]

    counts, used = [], []
    for step in train_steps(new_model(), batches(), loss, split(6, 0.5), make_optimizer, at_switch=at_switch):
        used.append(step.optimizer)
        counts.append(int(next(iter(step.optimizer.state.values()))["step"]))
    assert len(made) == n_optimizers
    assert [made.index(optimizer) for optimizer in used] == [0, 0, 0, *[n_optimizers - 1] * 3]
    assert counts == ([1, 2, 3, 1, 2, 3] if at_switch == "reset" else [1, 2, 3, 4, 5, 6])


def test_optimizer_handed_over_is_used() -> None:
    model = new_model()
    optimizer = adam(model)
    used = [s.optimizer for s in train_steps(model, batches(), loss, split(4, 0.5), adam, optimizer=optimizer)]
    assert [found is optimizer for found in used] == [True, True, False, False]


def test_learning_rates_are_applied() -> None:
    model = nn.Linear(1, 1, bias=False)
    nn.init.ones_(model.weight)
    schedule = split(4, 1, Step(0.5, milestones=(0.5,), factor=0.25))
    weights = [
        model.weight.item()
        for _ in train_steps(
            model,
            range(4),
            lambda model, _: next(model.parameters()).sum(),  # its gradient is 1
            schedule,
            lambda model: torch.optim.SGD(model.parameters(), lr=123.0),
        )
    ]
    assert weights == [0.5, 0, -0.125, -0.25]


def test_each_phase_goes_through_the_learning_rates() -> None:
    schedule = split(8, 0.5, Step(0.01, milestones=(0.5,), factor=0.5))
    steps = train_steps(new_model(), batches(), loss, schedule, adam, at_switch="keep")
    rates = [step.optimizer.param_groups[0]["lr"] for step in steps]
    assert rates == [0.01, 0.01, 0.005, 0.005] * 2


def test_every_step_is_in_train_mode_whatever_the_caller_does() -> None:
    model, modes = new_model(), []

    def watched(model: nn.Module, batch: Batch) -> Tensor:
        modes.append({module.training for module in model.modules()})
        return loss(model, batch)

    for _ in train_steps(model.eval(), batches(), watched, split(4, 0.5), adam):
        model.eval()
    assert modes == [{True}] * 4


def test_alphas_train_in_low_precision_alone_and_stay_positive() -> None:
    model = new_model()
    alphas = [m.alpha for m in model.modules() if isinstance(m, BinaryActivation)]
    assert alphas
    found = []
    for _ in train_steps(model, batches(), loss, split(12, 0.5, Constant(0.7)), adam):
        found.append([alpha.item() for alpha in alphas])
    assert found[:6] == [[3.0] * len(alphas)] * 6
    assert all(now != before for now, before in zip(found[6], found[5], strict=True))
    set_precision(model, "low")
    with torch.no_grad():
        for alpha in alphas:
            alpha.fill_(0.01)
    list(train_steps(model, batches(), lambda m, b: loss(m, b) + 100 * alpha_penalty(m), split(1, 0), adam))
    assert [alpha.item() for alpha in alphas] == pytest.approx([0.001] * len(alphas))


def test_batches_that_run_out() -> None:
    steps = train_steps(new_model(), batches(0, 3), loss, split(8, 0.5), adam)
    for _ in range(3):
        next(steps)
    with pytest.raises(ValueError, match=r"^batches ran out at iteration 3 of 8; give a batch for each iteration$"):
        next(steps)


def test_only_the_batches_that_are_trained_on_are_taken() -> None:
    stream = batches()
    list(train_steps(new_model(), stream, loss, split(4, 0.5), adam))
    assert torch.equal(next(stream)[0], batch(4)[0])


def test_unknown_choices() -> None:
    with pytest.raises(ValueError, match=r"^at_switch is 'drop'; it must be 'reset' or 'keep'$"):
        next(train_steps(new_model(), batches(), loss, split(4, 0.5), adam, at_switch="drop"))  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"^scale is 'mean'; it must be 'static' or 'none'$"):
        next(train_steps(new_model(), batches(), loss, split(4, 0.5), adam, scale="mean"))  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"^iteration 8 is outside 0\.\.3$"):
        next(train_steps(new_model(), batches(), loss, split(4, 0.5), adam, start=9))


def test_diverged_weights_stop_at_the_switch() -> None:
    model = new_model()
    steps = train_steps(model, batches(), loss, split(4, 0.5), adam)
    next(steps)
    next(steps)
    with torch.no_grad():
        model.get_parameter("3.weight")[2, 3] = float("nan")
    with pytest.raises(ValueError, match=r"^parameter 3\.weight holds values that are not finite.*learning rate$"):
        next(steps)


def state(model: nn.Module, step: TrainStep) -> dict[str, Tensor]:
    return {name: tensor.clone() for name, tensor in training_state(model, step.optimizer).items()}


@pytest.mark.parametrize("at_switch", ["reset", "keep"])
@pytest.mark.parametrize("done", range(1, 7))
def test_training_resumed_anywhere_equals_uninterrupted(tmp_path: Path, at_switch: AtSwitch, done: int) -> None:
    """6 iterations with the switch after 3; ``done`` of them before the interruption."""
    schedule = split(6, 0.5, Step(0.05, milestones=(0.5,)))

    def train(model: nn.Module, start: int = 0, optimizer: torch.optim.Optimizer | None = None) -> Iterator[TrainStep]:
        more: dict[str, Any] = {"start": start, "optimizer": optimizer, "at_switch": at_switch}
        return train_steps(model, batches(start), loss, schedule, adam, **more)

    model = new_model()
    expected = [(state(model, step), step.loss.item()) for step in train(model)]

    interrupted = new_model()
    steps = train(interrupted)
    for _ in range(done):
        step = next(steps)
    save_tensors(tmp_path / "checkpoint", training_state(interrupted, step.optimizer), {"iteration": done})

    resumed = new_model()
    with torch.no_grad():
        for parameter in resumed.parameters():
            parameter.fill_(0.5)  # nothing may be left of the initial state
    if done > 3:
        set_precision(resumed, "low")
    optimizer = adam(resumed)
    with open_tensors(tmp_path / "checkpoint") as file:
        restore_training_state(file, resumed, optimizer)
    start = file.metadata["iteration"]
    found = [(state(resumed, step), step.loss.item()) for step in train(resumed, start, optimizer)]
    assert [value for _, value in found] == [value for _, value in expected[done:]]
    for (tensors, _), (expected_tensors, _) in zip(found, expected[done:], strict=True):
        assert tensors.keys() == expected_tensors.keys()
        for name, tensor in expected_tensors.items():
            assert torch.equal(tensors[name], tensor), name
    assert precisions(resumed) == {"low"}


def test_start_within_a_phase_without_an_optimizer_makes_one() -> None:
    steps = list(train_steps(new_model(), batches(2), loss, split(8, 0.5), adam, start=2))
    assert [step.iteration for step in steps] == [2, 3, 4, 5, 6, 7]
    assert len({id(step.optimizer) for step in steps}) == 2


def test_abandoning_the_iterator_leaves_a_usable_model() -> None:
    model = new_model()
    closed = False

    def stream() -> Iterator[Batch]:
        nonlocal closed
        try:
            yield from batches()
        finally:
            closed = True

    for step in train_steps(model, stream(), loss, split(8, 0.5), adam):
        if step.iteration == 5:
            break
    del step
    assert closed
    before = copy.deepcopy(model.state_dict())
    assert precisions(model) == {"low"}
    assert torch.isfinite(model.eval()(batch(0)[0])).all()
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())


@pytest.mark.parametrize("fraction", [0, 0.5, 1])
@pytest.mark.parametrize("scale", ["static", "none"])
def test_learns(fraction: float, scale: Any) -> None:
    model = new_model()
    held_out = batch(10**6, n_rows=1000)

    def measure(function: Callable[[Tensor, Tensor], Tensor]) -> float:
        with torch.no_grad():
            return function(model.eval()(held_out[0]).squeeze(1), held_out[1]).item()

    before = measure(F.binary_cross_entropy_with_logits)
    for _ in train_steps(model, batches(), loss, split(150, fraction), adam, scale=scale):
        pass
    assert measure(F.binary_cross_entropy_with_logits) < before / 2
    hits = measure(lambda logits, labels: ((logits > 0) == labels.bool()).float().sum())
    assert reference.above_chance(hits, 1000, 1 / 2)
