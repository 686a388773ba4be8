"""Recipes by name: a network and how it is trained, from which every setting may depart."""

from dataclasses import dataclass
from typing import Any

from ncf_ppt.model import NCFConfig
from ncf_ppt.networks import NetworkConfig
from ncf_ppt.training import NCFTrainingConfig
from ncf_ppt.two_tower import TwoTowerConfig
from ncf_ppt.two_tower_training import TwoTowerTrainingConfig
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

        Raises TypeError for a setting that this recipe does not have, and ValueError for a value out of its range.
        """
        if "layers" in settings:
            settings["layers"] = tuple(settings["layers"])
        network, training = with_settings(
            self.network, self.training, settings, owner=f"a {self.network.model} network"
        )
        return Recipe(network=network, training=training)


RECIPES: dict[str, Recipe] = {
    "mlperf": Recipe(network=NCFConfig(), training=NCFTrainingConfig()),
    "published": Recipe(
        network=NCFConfig(factors=8, layers=(64, 32, 16, 8), batch_norm=False),
        training=NCFTrainingConfig(split=1.0, epochs=20, batch_size=256, learning_rate=1e-3),
    ),
    "warm": Recipe(network=TwoTowerConfig(), training=TwoTowerTrainingConfig()),
}
"""``mlperf``: NeuMF as MLPerf v0.5 trained it, with BatchNorm, 8 epochs and split 0.5: the paper's claims are about it.
``published``: NeuMF with 8 factors as its authors trained it (He et al. 2017). ``warm``: two towers that start from ALS
and read what a user did last, the best for recommendations."""


def recipe(name: str) -> Recipe:
    """Return a recipe by its name. Raises ValueError for an unknown one."""
    if name not in RECIPES:
        raise ValueError(f"recipe is {name!r}; choose one of {', '.join(RECIPES)}")
    return RECIPES[name]
