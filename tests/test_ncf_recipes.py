"""Recipes by name, and what departs from them."""

import numpy as np
import pytest

from data_prep.ratings.interactions import PreparedData
from ncf_ppt.fitting import fit
from ncf_ppt.model import NCFConfig
from ncf_ppt.optimizers import AdamSettings
from ncf_ppt.recipes import RECIPES, recipe
from ncf_ppt.training_config import NCFTrainingConfig
from ncf_ppt.two_tower import TwoTowerConfig


def test_the_default_recipe_is_the_default_of_every_config() -> None:
    assert (RECIPES["paper"].network, RECIPES["paper"].training) == (NCFConfig(), NCFTrainingConfig())


def adam_of(name: str) -> AdamSettings:
    training = RECIPES[name].training
    assert isinstance(training, NCFTrainingConfig)
    return training.adam


def test_mlperf_is_the_reference_of_v0_5() -> None:
    """Values of mlcommons/training, commit fe17e837: recommendation/pytorch, ncf.py, neumf.py and run_and_time.sh."""
    network, training = RECIPES["mlperf"].network, RECIPES["mlperf"].training
    assert network == NCFConfig(model="neumf", factors=64, layers=(256, 256, 128, 64), batch_norm=False)
    assert training == NCFTrainingConfig(
        split=1, epochs=20, threshold=0.635, batch_size=2048, learning_rate=5e-4, n_negatives=4, eval_every=1
    )
    assert adam_of("mlperf") == AdamSettings(learning_rate=5e-4, betas=(0.9, 0.999), eps=1e-8)


@pytest.mark.parametrize(
    ("name", "batch_size", "adam"),
    [
        ("mlperf-intel", 98_304, AdamSettings(learning_rate=3.821e-3, betas=(0.783529, 0.909003), eps=1.45439e-7)),
        ("mlperf-nvidia", 1_048_576, AdamSettings(learning_rate=4.5e-3, betas=(0.25, 0.5), eps=1e-8)),
    ],
)
def test_what_was_submitted_departs_from_it_in_batches_and_adam(name: str, batch_size: int, adam: AdamSettings) -> None:
    assert RECIPES[name].training.batch_size == batch_size
    assert adam_of(name) == adam
    reference = RECIPES["mlperf"].training
    same = {key: getattr(reference, key) for key in ("batch_size", "learning_rate", "beta1", "beta2", "eps")}
    assert RECIPES[name].with_settings(**same) == RECIPES["mlperf"]


def test_settings_go_where_they_belong() -> None:
    changed = recipe("warm").with_settings(factors=16, layers=[8, 8], epochs=2, n_negatives=7)
    assert changed.network == TwoTowerConfig(factors=16, layers=(8, 8))
    assert (changed.training.epochs, changed.training.n_negatives) == (2, 7)
    assert RECIPES["warm"].network == TwoTowerConfig()


def test_what_is_no_recipe_or_setting() -> None:
    with pytest.raises(ValueError, match="recipe is 'fast'; choose one of paper, mlperf, mlperf-intel, mlperf-nvidia,"):
        recipe("fast")
    with pytest.raises(TypeError, match="there is no setting 'optimizer' for a two-tower network; it has at_switch, b"):
        recipe("warm").with_settings(optimizer="adam")
    with pytest.raises(ValueError, match="factors is 0"):
        recipe("published").with_settings(factors=0)


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ({"epochs": "2"}, "epochs is '2', a str; it must be a number"),
        ({"batch_size": 2048.0}, "batch_size is 2048.0, a float; it must be an integer"),
        ({"factors": True}, "factors is True, a bool; it must be an integer"),
        ({"threshold": "high"}, "threshold is 'high', a str; it must be a number"),
    ],
)
def test_a_setting_of_another_type(setting: dict[str, object], message: str) -> None:
    with pytest.raises(TypeError, match=message):
        recipe("mlperf").with_settings(**setting)


def test_numbers_of_numpy_and_none_are_settings() -> None:
    changed = recipe("mlperf").with_settings(epochs=np.float32(2), seed=np.int64(3), threshold=None)
    assert (changed.training.epochs, changed.training.seed, changed.training.threshold) == (2, 3, None)


@pytest.mark.parametrize("name", ["mlperf", "mlperf-intel", "mlperf-nvidia"])
def test_what_was_submitted_trains(name: str, tiny_data: PreparedData) -> None:
    """On data smaller than a batch, an epoch is one step."""
    result = fit(tiny_data, recipe=name, iterations=2, factors=4, layers=(8, 8, 8, 4)).result
    assert result.training.iterations == 2
    assert result.training.epochs == pytest.approx(2 / -(-19_400 // RECIPES[name].training.batch_size), rel=0.06)
    assert result.threshold_reached is False
    assert np.isfinite(result.loss)
