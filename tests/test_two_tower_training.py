"""Training a two-tower network into a run folder, and what can be done with the run."""

from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from data_prep.ratings.interactions import PreparedData
from ncf_ppt.export.embeddings import export_embeddings
from ncf_ppt.model import NCFConfig
from ncf_ppt.ranking import rank_test_items
from ncf_ppt.recommendation import recommend
from ncf_ppt.scoring import NetworkScorer, scorer
from ncf_ppt.serving import served
from ncf_ppt.training import fit_steps, load_model
from ncf_ppt.two_tower import TwoTower, TwoTowerConfig
from ncf_ppt.two_tower_training import TwoTowerTrainingConfig
from ncf_ppt.warm_start import ALSStart
from ppt_core.errors import DataError
from ppt_core.runs.run import Run

SMALL = TwoTowerConfig(factors=6, layers=(8, 8, 7), n_recent=4)


@pytest.fixture(scope="module")
def data(tiny_data: PreparedData) -> PreparedData:
    return tiny_data


def config(**changes: Any) -> TwoTowerTrainingConfig:
    start = ALSStart(iterations=3)
    return TwoTowerTrainingConfig(**{"epochs": 2, "batch_size": 128, "n_negatives": 16, "warm_start": start, **changes})


def train(data: PreparedData, path: Path, settings: TwoTowerTrainingConfig, **options: Any) -> bytes:
    for _ in fit_steps(data, path, options.pop("model", SMALL), settings, **options):
        pass
    return (path / "model.safetensors").read_bytes()


@pytest.mark.parametrize("split", [1.0, 0.5, 0.0])
def test_is_read_back_as_it_was_measured(data: PreparedData, tmp_path: Path, split: float) -> None:
    train(data, tmp_path / "run", config(split=split))
    run = Run.open(tmp_path / "run")
    result, model = run.result().to_dict(), load_model(run)
    assert isinstance(model, TwoTower)
    ranks = rank_test_items(scorer(model), data)
    assert ranks.metrics() == {key: result[key] for key in ranks.metrics()}
    phases = [phase["precision"] for phase in result["phases"]]
    assert phases == ["als", *{1.0: ["full"], 0.5: ["full", "low"], 0.0: ["low"]}[split]]


def test_training_lessens_the_loss_from_a_cold_start(data: PreparedData, tmp_path: Path) -> None:
    settings = config(epochs=8, eval_every=1, warm_start=None, regularization=0.0, split=1)
    train(data, tmp_path / "run", settings)
    losses = [line["loss"] for line in Run.open(tmp_path / "run").metrics()]
    assert np.mean(losses[-2:]) < 0.95 * np.log(1 + settings.n_negatives)  # that of scores that are all the same


@pytest.mark.parametrize("stop", [1, 9, 10, 15])
def test_resumes_bit_for_bit(data: PreparedData, tmp_path: Path, stop: int) -> None:
    settings = config(iterations=20, split=0.5, eval_every=0.1)
    whole = train(data, tmp_path / "whole", settings)
    for progress in fit_steps(data, tmp_path / "part", SMALL, settings, checkpoint_seconds=0):
        if progress.iteration == stop:
            break
    assert train(data, tmp_path / "part", settings, resume=True) == whole


def test_does_not_depend_on_threads(data: PreparedData, tmp_path: Path, one_and_two_threads: Iterable[int]) -> None:
    models = {train(data, tmp_path / str(threads), config()) for threads in one_and_two_threads}
    assert len(models) == 1


@pytest.fixture(scope="module")
def run(data: PreparedData, tmp_path_factory: pytest.TempPathFactory) -> Run:
    path = tmp_path_factory.mktemp("two-tower") / "run"
    train(data, path, config())
    return Run.open(path)


def test_serves_as_a_product_of_vectors(data: PreparedData, run: Run) -> None:
    """`NetworkScorer` takes the network as the GMF that it serves as: an independent way to the same scores."""
    model = load_model(run)
    users, items = np.arange(data.n_users), np.tile(np.arange(30, dtype=np.int32), (data.n_users, 1))
    as_gmf = NetworkScorer(served(model))(users, items)
    assert np.abs(as_gmf - scorer(model)(users, items)).max() < 1e-5


def test_recommends_and_exports(data: PreparedData, run: Run, tmp_path: Path) -> None:
    model = load_model(run)
    everybody = recommend(scorer(model), data, k=5)
    one = recommend(scorer(model), data, data.user_ids[3:4], k=5)
    assert one.to_dicts() == everybody.to_dicts()[3:4]
    manifest = export_embeddings(model, data, tmp_path / "vectors")
    assert sorted(manifest["tables"]) == ["gmf_items", "gmf_users"]


def test_what_cannot_be_trained(data: PreparedData, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="a tower of 1 hidden layers has none to binarize"):
        train(data, tmp_path / "a", config(), model=replace(SMALL, layers=(8,)))
    with pytest.raises(DataError, match="do not hold the order of each user's items in time"):
        train(replace(data, history=None), tmp_path / "b", config())
    with pytest.raises(ValueError, match="a TwoTowerTrainingConfig does not train a network of NCFConfig"):
        train(data, tmp_path / "c", config(), model=NCFConfig())
    assert not list(tmp_path.iterdir())
