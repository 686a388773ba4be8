"""Recipes by name: a network and how it is trained, from which every setting may depart."""

from dataclasses import dataclass
from typing import Any

from ncf_ppt.model import NCFConfig
from ncf_ppt.networks import NetworkConfig
from ncf_ppt.training_config import NCFTrainingConfig
from ncf_ppt.two_tower import TwoTowerConfig
from ncf_ppt.two_tower_training import TwoTowerTrainingConfig
from ncf_ppt.warm_start import ALSStart
from ppt_core.runs.settings import with_settings


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """A network and how it is trained.

    Attributes:
        network: what is trained.
        training: how.
    """

    network: NetworkConfig
    training: NCFTrainingConfig | TwoTowerTrainingConfig

    def with_settings(self, **settings: Any) -> "Recipe":
        """Return the recipe with some settings changed, each by the name of its field in one of the two configs.

        ``warm_start`` may be ``als``, which is `ALSStart()`.

        Raises TypeError for a setting that this recipe does not have, and ValueError for a value out of its range.
        """
        if "layers" in settings:
            settings["layers"] = tuple(settings["layers"])
        if settings.get("warm_start") == "als":
            settings["warm_start"] = ALSStart()
        network, training = with_settings(
            self.network, self.training, settings, owner=f"a {self.network.model} network"
        )
        return Recipe(network=network, training=training)


_MLPERF = Recipe(network=NCFConfig(batch_norm=False), training=NCFTrainingConfig(split=1.0, epochs=20, threshold=0.635))

RECIPES: dict[str, Recipe] = {
    "paper": Recipe(network=NCFConfig(), training=NCFTrainingConfig()),
    "mlperf": _MLPERF,
    "mlperf-intel": _MLPERF.with_settings(
        batch_size=98_304, learning_rate=3.821e-3, beta1=0.783529, beta2=0.909003, eps=1.45439e-7
    ),
    "mlperf-nvidia": _MLPERF.with_settings(batch_size=1_048_576, learning_rate=4.5e-3, beta1=0.25, beta2=0.5),
    "published": Recipe(
        network=NCFConfig(factors=8, layers=(64, 32, 16, 8), batch_norm=False),
        training=NCFTrainingConfig(split=1.0, epochs=20, batch_size=256, learning_rate=1e-3),
    ),
    "warm": Recipe(network=TwoTowerConfig(), training=TwoTowerTrainingConfig()),
}
"""``paper``: NeuMF as Renda and Fromm (2020) binarized it, MLPerf v0.5's with BatchNorm, at split 0.5; 8 epochs are
ours. ``mlperf``: the reference of MLPerf v0.5 itself (mlcommons/training, commit fe17e837, recommendation/pytorch): no
BatchNorm, full precision, up to 20 epochs, until HR@10 is .635 among 999 negatives; other settings as in ``paper``.
``mlperf-intel`` and ``mlperf-nvidia``: the batches and Adam that these submitted to that round
(mlcommons/training_results_v0.5); they trained in 28 replicas and in fp16, which is not repeated here. ``published``:
NeuMF with 8 factors as its authors trained it (He et al. 2017). ``warm``: two towers that start from ALS and read what
a user did last, the best for recommendations."""


def recipe(name: str) -> Recipe:
    """Return a recipe by its name. Raises ValueError for an unknown one."""
    if name not in RECIPES:
        raise ValueError(f"recipe is {name!r}; choose one of {', '.join(RECIPES)}")
    return RECIPES[name]
