"""What a run records of its network and its data."""

from typing import Any

from data_prep.ratings.interactions import PreparedData
from ncf_ppt.networks import NetworkConfig
from ppt_core.identity import data_record


def settings_of(data: PreparedData, model_config: NetworkConfig) -> dict[str, Any]:
    """The groups of ``config.json`` that a resumed training must share."""
    return {
        "kind": "ncf",
        "model": model_config.to_dict(),
        "data": {**data_record(data), "protocol": data.protocol_label},
        "n_users": data.n_users,
        "n_items": data.n_items,
    }


def result_of(data: PreparedData, arithmetic: str, measured: dict[str, float] | None = None) -> dict[str, Any]:
    """The keys of a run's result that do not depend on how the training went, as JSON values.

    ``measured`` is what the choice of ``arithmetic`` was based on, if there was one.
    """
    return {
        "n_users": data.n_users,
        "n_negatives": data.n_negatives,
        "ranking": "sampled",
        "protocol": data.protocol_label,
        "engine": "torch",
        "precision": arithmetic,
        **({"precision_measured": measured} if measured else {}),
    }
