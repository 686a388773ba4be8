"""Neural collaborative filtering with partially pre-trained binarized networks.

::

    import ncf_ppt

    data = ncf_ppt.prepare("ratings.csv")
    model = ncf_ppt.fit(data, split=0.5, epochs=8)
    print(model.evaluate().hit_ratio(10))
    print(model.recommend([1, 42], k=10).to_pandas())

PyTorch and Numba load with the first name that needs them, not with the package.
"""

from typing import TYPE_CHECKING

from ppt_core.lazy_names import lazy_names

if TYPE_CHECKING:
    from data_prep.ratings.any_source import load_data as load_data
    from data_prep.ratings.any_source import prepare_source as prepare
    from data_prep.ratings.interactions import PreparedData as PreparedData
    from ncf_ppt.baselines import ALSConfig as ALSConfig
    from ncf_ppt.baselines import BPRConfig as BPRConfig
    from ncf_ppt.baselines import PopularConfig as PopularConfig
    from ncf_ppt.baselines import fit_baseline as fit_baseline
    from ncf_ppt.evaluation import Evaluation as Evaluation
    from ncf_ppt.evaluation import evaluate as evaluate
    from ncf_ppt.fitting import fit as fit
    from ncf_ppt.item_knn import ItemKNNConfig as ItemKNNConfig
    from ncf_ppt.item_lists import Recommendations as Recommendations
    from ncf_ppt.model import NCFConfig as NCFConfig
    from ncf_ppt.pair_scores import PairScores as PairScores
    from ncf_ppt.recipes import RECIPES as RECIPES
    from ncf_ppt.recipes import Recipe as Recipe
    from ncf_ppt.recommendation import recommend as recommend
    from ncf_ppt.sequence_baselines import MarkovConfig as MarkovConfig
    from ncf_ppt.sequence_baselines import RecentItemKNNConfig as RecentItemKNNConfig
    from ncf_ppt.similar_items import SimilarItems as SimilarItems
    from ncf_ppt.trained import TrainedNCF as TrainedNCF
    from ncf_ppt.trained import load as load
    from ncf_ppt.training import fit_steps as fit_steps
    from ncf_ppt.training_config import NCFTrainingConfig as NCFTrainingConfig
    from ncf_ppt.two_tower import TwoTowerConfig as TwoTowerConfig
    from ncf_ppt.two_tower_training import TwoTowerTrainingConfig as TwoTowerTrainingConfig
    from ncf_ppt.warm_start import ALSStart as ALSStart
    from ppt_core.environment import set_environment as set_environment
    from ppt_core.errors import DataError as DataError

_HOMES = {
    "ALSConfig": "ncf_ppt.baselines",
    "BPRConfig": "ncf_ppt.baselines",
    "DataError": "ppt_core.errors",
    "Evaluation": "ncf_ppt.evaluation",
    "ALSStart": "ncf_ppt.warm_start",
    "ItemKNNConfig": "ncf_ppt.item_knn",
    "MarkovConfig": "ncf_ppt.sequence_baselines",
    "RecentItemKNNConfig": "ncf_ppt.sequence_baselines",
    "NCFConfig": "ncf_ppt.model",
    "NCFTrainingConfig": "ncf_ppt.training_config",
    "PopularConfig": "ncf_ppt.baselines",
    "PreparedData": "data_prep.ratings.interactions",
    "PairScores": "ncf_ppt.pair_scores",
    "Recommendations": "ncf_ppt.item_lists",
    "SimilarItems": "ncf_ppt.similar_items",
    "TrainedNCF": "ncf_ppt.trained",
    "evaluate": "ncf_ppt.evaluation",
    "fit": "ncf_ppt.fitting",
    "RECIPES": "ncf_ppt.recipes",
    "Recipe": "ncf_ppt.recipes",
    "TwoTowerConfig": "ncf_ppt.two_tower",
    "TwoTowerTrainingConfig": "ncf_ppt.two_tower_training",
    "fit_baseline": "ncf_ppt.baselines",
    "fit_steps": "ncf_ppt.training",
    "load": "ncf_ppt.trained",
    "load_data": "data_prep.ratings.any_source",
    "prepare": "data_prep.ratings.any_source:prepare_source",
    "recommend": "ncf_ppt.recommendation",
    "set_environment": "ppt_core.environment",
}

__all__ = [
    "RECIPES",
    "ALSConfig",
    "ALSStart",
    "BPRConfig",
    "DataError",
    "Evaluation",
    "ItemKNNConfig",
    "MarkovConfig",
    "NCFConfig",
    "NCFTrainingConfig",
    "PairScores",
    "PopularConfig",
    "PreparedData",
    "RecentItemKNNConfig",
    "Recipe",
    "Recommendations",
    "SimilarItems",
    "TrainedNCF",
    "TwoTowerConfig",
    "TwoTowerTrainingConfig",
    "__version__",
    "evaluate",
    "fit",
    "fit_baseline",
    "fit_steps",
    "load",
    "load_data",
    "prepare",
    "recommend",
    "set_environment",
]


__getattr__ = lazy_names(__name__, _HOMES)


def __dir__() -> list[str]:
    return sorted(__all__)
