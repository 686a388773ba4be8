"""The number format of products, chosen by what one of them takes."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from data_prep.ratings.interactions import PreparedData
from ncf_ppt import training
from ncf_ppt.model import NCFConfig
from ncf_ppt.study import train
from ncf_ppt.training import fit_steps
from ncf_ppt.training_config import NCFTrainingConfig
from ppt_core.distributed import World
from ppt_core.errors import DataError
from ppt_core.plan import convert
from ppt_core.runs.arithmetic import (
    ArithmeticChoice,
    choose_arithmetic,
    convolution_product,
    linear_product,
    settle_arithmetic,
)
from ppt_core.runs.run import Run

SMALL = NCFConfig(factors=4, layers=(8, 8, 8, 4))


def timed(fp32: float, bf16: float, outliers: float = 0.0) -> tuple[Callable[[], Tensor], Callable[[], float]]:
    """A product, and a clock on which it takes these seconds; every third time ``outliers`` more."""
    now, calls = 0.0, 0

    def product() -> Tensor:
        nonlocal now, calls
        calls += 1
        now += (bf16 if torch.is_autocast_enabled("cpu") else fp32) + (outliers if calls % 3 == 0 else 0)
        return torch.empty(0)

    return product, lambda: now


@pytest.mark.parametrize(
    ("fp32", "bf16", "expected"),
    [(0.002, 0.001, "bf16"), (0.001, 0.002, "fp32"), (0.001, 0.001, "fp32"), (0.001, 0.00095, "fp32")],
)
@pytest.mark.parametrize("outliers", [0.0, 0.5])
def test_the_faster_one_is_chosen_and_fp32_if_it_hardly_matters(
    fp32: float, bf16: float, expected: str, outliers: float
) -> None:
    choice = choose_arithmetic("auto", "cpu", *timed(fp32, bf16, outliers))
    assert choice.arithmetic == expected
    assert choice.record == {
        "precision_measured": {"fp32_us": pytest.approx(1e6 * fp32), "bf16_us": pytest.approx(1e6 * bf16)}
    }


@pytest.mark.parametrize("wanted", ["fp32", "bf16"])
def test_what_the_user_asks_for_is_not_measured(wanted: Any) -> None:
    def never() -> Tensor:
        raise AssertionError

    choice = choose_arithmetic(wanted, "cpu", never)
    assert choice == ArithmeticChoice(wanted, {})
    assert choice.record == {}


def test_products_have_the_shapes_of_the_network() -> None:
    assert linear_product(5, 3, 2, "cpu")().shape == (5, 2)
    network = nn.Sequential(
        nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Conv2d(4, 8, 3), nn.ReLU(), nn.Conv2d(8, 2, 1), nn.Flatten()
    )
    network.append(nn.Linear(2 * 5 * 5, 2))
    convert(network)
    network.train()
    assert convolution_product(network, torch.zeros(5, 3, 9, 9))().shape == (5, 8, 5, 5)
    assert all(layer.training for layer in network.modules())
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert convolution_product(network, torch.zeros(5, 3, 9, 9))().dtype == torch.bfloat16


@pytest.fixture
def choices(monkeypatch: pytest.MonkeyPatch) -> list[ArithmeticChoice]:
    """What measurements will find, the next one first."""
    found = [ArithmeticChoice("bf16", {"fp32_us": 2.0, "bf16_us": 1.0})]
    monkeypatch.setattr(training, "choose_arithmetic", lambda *_: found.pop(0))
    return found


def test_a_run_records_what_was_measured_and_a_resumed_one_keeps_the_choice(
    tiny_data: PreparedData, tmp_path: Path, choices: list[ArithmeticChoice]
) -> None:
    config = NCFTrainingConfig(iterations=4, batch_size=256, arithmetic="auto")
    steps = fit_steps(tiny_data, tmp_path / "run", SMALL, config, checkpoint_seconds=0)
    next(steps)
    del steps
    assert choices == []  # so that another measurement would fail
    recorded = Run.open(tmp_path / "run").config
    assert recorded.training["arithmetic"] == "bf16"
    assert recorded.groups["precision_measured"] == {"fp32_us": 2.0, "bf16_us": 1.0}
    for _ in fit_steps(tiny_data, tmp_path / "run", SMALL, config, resume=True):
        pass
    result = Run.open(tmp_path / "run").result().to_dict()
    assert (result["precision"], result["precision_measured"]) == ("bf16", {"fp32_us": 2.0, "bf16_us": 1.0})

    for _ in fit_steps(tiny_data, tmp_path / "asked", SMALL, replace(config, arithmetic="bf16")):
        pass
    models = [(tmp_path / name / "model.safetensors").read_bytes() for name in ("run", "asked")]
    assert models[0] == models[1]
    assert "precision_measured" not in Run.open(tmp_path / "asked").result().metrics
    with pytest.raises(DataError, match="arithmetic"):
        next(fit_steps(tiny_data, tmp_path / "run", SMALL, replace(config, arithmetic="fp32"), resume=True))


def test_a_run_without_the_choice_is_of_another_kind(tmp_path: Path) -> None:
    """Two towers have none; what differs is said later."""
    Run.create(tmp_path / "run", {"training": {"learning_rate": 1}})
    choice = settle_arithmetic("auto", tmp_path / "run", World(), lambda: ArithmeticChoice("bf16", {}), resume=True)
    assert choice == ArithmeticChoice("fp32", {})


def test_a_run_that_was_told_keeps_that_too(tmp_path: Path) -> None:
    Run.create(tmp_path / "run", {"training": {"arithmetic": "bf16"}})
    choice = settle_arithmetic("auto", tmp_path / "run", World(), lambda: ArithmeticChoice("fp32", {}), resume=True)
    assert choice == ArithmeticChoice("bf16", {})


@pytest.mark.parametrize("model", ["neumf", "gmf"])
def test_every_network_has_a_product(tiny_data: PreparedData, tmp_path: Path, model: Any) -> None:
    config = NCFTrainingConfig(iterations=2, batch_size=256, split=1, arithmetic="auto")
    for _ in fit_steps(tiny_data, tmp_path / "run", replace(SMALL, model=model), config):
        pass
    measured = Run.open(tmp_path / "run").result().metrics["precision_measured"]
    assert measured["fp32_us"] > 0
    assert measured["bf16_us"] > 0


def test_trials_of_a_study_never_choose(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"arithmetic is 'auto', .* choose fp32 or bf16"):
        next(train(tmp_path, SMALL, "cpu", NCFTrainingConfig(arithmetic="auto"), tmp_path / "run"))


def test_a_large_batch_is_not_timed_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    """A product of a million rows takes gigabytes and tells no more."""
    asked: list[int] = []
    monkeypatch.setattr(training, "linear_product", lambda n_rows, *_: asked.append(n_rows))
    monkeypatch.setattr(training, "choose_arithmetic", lambda *_: ArithmeticChoice("fp32", {}))
    for batch_size in (512, 1 << 20):
        training.faster_arithmetic(SMALL, NCFTrainingConfig(batch_size=batch_size, arithmetic="auto"), "cpu")
    assert asked == [512, 1 << 14]
