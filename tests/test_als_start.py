"""A start from ALS: what it sets, that it repeats, and that a training counts it."""

import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import ncf_ppt
from data_prep.ratings.interactions import PreparedData
from data_prep.ratings.sampling import Sampler
from ncf_ppt.als_start import logistic_fit, start_from_als
from ncf_ppt.baselines import ALSConfig, fit_baseline
from ncf_ppt.binary_tables import rotate_tables
from ncf_ppt.model import NCF, NCFConfig
from ncf_ppt.ranking import rank_test_items
from ncf_ppt.recipes import recipe
from ncf_ppt.scoring import scorer
from ncf_ppt.training import fit_steps, load_model
from ncf_ppt.training_config import NCFTrainingConfig
from ncf_ppt.warm_start import ALSStart, balanced_factors
from ppt_core.runs.run import Run

SHAPE: dict[str, Any] = {"factors": 8, "layers": (8, 12, 10, 4)}
START = ALSStart(regularization=2.0, alpha=3.0, iterations=4)


def started(data: PreparedData, **config: Any) -> NCF:
    model = NCF(data.n_users, data.n_items, NCFConfig(**SHAPE, **config), seed=1)
    sampler = Sampler(interactions=data.train, seed=1)
    start_from_als(model, data, sampler, START, seed=1)
    return model.eval()


class TestLogisticFit:
    def test_finds_the_line_the_labels_were_drawn_from(self) -> None:
        rng = np.random.default_rng(0)
        scores = rng.normal(size=200_000)
        labels = (rng.random(200_000) < 1 / (1 + np.exp(-(7.5 * scores - 4.0)))).astype(np.float64)
        np.testing.assert_allclose(logistic_fit(scores, labels), (7.5, -4.0), rtol=0.03)

    def test_is_where_the_gradient_is_0(self) -> None:
        rng = np.random.default_rng(1)
        scores, labels = rng.normal(3, 0.1, 500), (rng.random(500) < 0.2).astype(np.float64)
        slope, bias = logistic_fit(scores, labels)
        errors = 1 / (1 + np.exp(-(slope * scores + bias))) - labels
        np.testing.assert_allclose([errors.mean(), (errors * scores).mean()], 0, atol=1e-9)

    @pytest.mark.parametrize(
        ("scores", "labels"),
        [([0.0, 0, 0, 0], [1, 0, 0, 0]), ([1.0, 2, 3, 4], [1, 1, 1, 1]), ([1.0, 2, 3, 4], [0, 0, 1, 1])],
    )
    def test_is_finite_where_there_is_no_best_one(self, scores: list[float], labels: list[int]) -> None:
        slope, bias = logistic_fit(np.array(scores), np.array(labels, np.float64))
        assert math.isfinite(slope)
        assert math.isfinite(bias)
        assert slope >= 0


@pytest.mark.parametrize("config", [{"model": "neumf"}, {"model": "gmf"}, {"model": "neumf", "n_recent": 3}])
def test_the_first_scores_rank_as_als_does(tiny_data: PreparedData, config: dict[str, Any]) -> None:
    model = started(tiny_data, **config)
    if "n_recent" in config:
        np.testing.assert_array_equal(model.recent.weight.detach().numpy(), model.gmf_item.weight.detach().numpy())
        model.next_item.weight.detach().zero_()
    als = fit_baseline(ALSConfig(factors=8, regularization=2.0, alpha=3.0, iterations=4), tiny_data, seed=1)
    users, items = np.arange(120), tiny_data.test_negatives
    products, logits = als(users, items), scorer(model)(users, items)
    slope, bias = model.last.weight[0, 0].item(), model.last.bias.item()
    assert slope > 0
    np.testing.assert_allclose(logits, slope * products + bias, rtol=1e-4, atol=1e-4)
    lengths = [table.weight.square().sum(1).mean().item() for table in (model.gmf_user, model.gmf_item)]
    assert lengths[0] == pytest.approx(lengths[1], rel=1e-4)


def settings(**changes: Any) -> NCFTrainingConfig:
    defaults = {"split": 0.5, "epochs": 1, "batch_size": 512, "n_negatives": 2, "warm_start": START}
    return NCFTrainingConfig(**{**defaults, **changes})


def train(data: PreparedData, path: Path, config: NCFTrainingConfig, *, steps: int | None = None, **kwargs: Any) -> Run:
    progress = fit_steps(data, path, NCFConfig(**SHAPE, n_recent=2), config, **kwargs)
    for step in progress:
        if step.iteration == steps:
            progress.close()  # type: ignore[attr-defined]
            break
    return Run.open(path)


def test_a_training_counts_its_start_and_resumes_behind_it(tiny_data: PreparedData, tmp_path: Path) -> None:
    whole = train(tiny_data, tmp_path / "whole", settings())
    train(tiny_data, tmp_path / "parts", settings(), steps=9, checkpoint_seconds=0)
    parts = train(tiny_data, tmp_path / "parts", settings(), resume=True)
    assert whole.model_path.read_bytes() == parts.model_path.read_bytes()
    for run in (whole, parts):
        result = run.result().to_dict()
        start, full, low = result["phases"]
        assert (start["precision"], start["iterations"], full["precision"]) == ("als", 0, "full")
        assert start["seconds"] > 0
        assert result["seconds"] == pytest.approx(sum(phase["seconds"] for phase in (start, full, low)))
        assert result["iterations"] == full["iterations"] + low["iterations"]
        assert run.config.training["warm_start"] == {"regularization": 2.0, "alpha": 3.0, "iterations": 4}
    assert rank_test_items(scorer(load_model(whole)), tiny_data).hit_ratio() == whole.result().metrics["hit_ratio"]


def test_threads_change_nothing(tiny_data: PreparedData) -> None:
    threads = torch.get_num_threads()
    try:
        states = []
        for n in (1, 2):
            torch.set_num_threads(n)
            states.append(started(tiny_data, n_recent=2).state_dict())
    finally:
        torch.set_num_threads(threads)
    for name, values in states[0].items():
        assert torch.equal(values, states[1][name]), name


def test_settings_without_a_start_are_what_they_were() -> None:
    assert "warm_start" not in settings(warm_start=None).to_dict()


def test_an_mlp_has_no_factors(tiny_data: PreparedData, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="cannot start from ALS; choose neumf or gmf"):
        list(fit_steps(tiny_data, tmp_path / "run", NCFConfig(model="mlp", layers=(8, 4, 4)), settings()))
    assert not (tmp_path / "run").exists()


def test_fewer_factors_of_als_are_the_first_ones_and_become_more_bits(tiny_data: PreparedData, tmp_path: Path) -> None:
    few = balanced_factors(replace(START, factors=3), tiny_data, 8, seed=1)
    alone = balanced_factors(START, tiny_data, 3, seed=1)
    np.testing.assert_array_equal(few.item_vectors[:, :3], alone.item_vectors)
    assert few.user_vectors.shape[1] == 8
    assert not few.user_vectors[:, 3:].any()
    model = NCF(tiny_data.n_users, tiny_data.n_items, NCFConfig(model="gmf", factors=8), seed=1)
    start_from_als(model, tiny_data, Sampler(interactions=tiny_data.train, seed=1), replace(START, factors=3), seed=1)
    before = model(torch.arange(9), torch.arange(9))
    rotate_tables(model)
    assert model.gmf_item.weight.all()
    torch.testing.assert_close(model(torch.arange(9), torch.arange(9)), before, rtol=1e-4, atol=1e-5)
    with pytest.raises(ValueError, match="ALS is to start with 9 factors, and the network has 8; give ALS no more"):
        balanced_factors(replace(START, factors=9), tiny_data, 8, seed=1)
    for name in ("paper", "warm"):
        with pytest.raises(ValueError, match="ALS is to start with 9 factors, and the network has 8"):
            ncf_ppt.fit(tiny_data, out=tmp_path / "run", recipe=name, factors=8, warm_start=ALSStart(factors=9))
        assert list(tmp_path.iterdir()) == []
    assert ALSStart(**replace(START, factors=3).to_dict()) == replace(START, factors=3)
    assert "factors" not in START.to_dict()


@pytest.mark.parametrize("name", ["paper", "warm"])
def test_a_start_by_its_name(name: str) -> None:
    start = recipe(name).with_settings(warm_start="als").training.warm_start
    assert start == ALSStart()
    assert recipe(name).with_settings(warm_start=None).training.warm_start is None
    with pytest.raises(ValueError, match=r"warm_start is sgd; it must be an ALSStart \(als in a recipe\), or None"):
        recipe(name).with_settings(warm_start="sgd")
