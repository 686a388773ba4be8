"""The prepared set that a command works on, and how its metrics are labelled."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

from ppt_commands.recorded_data import recorded_data

if TYPE_CHECKING:
    from data_prep.ratings.interactions import PreparedData
    from ncf_ppt.networks import Network
    from ncf_ppt.ranking import Scorer
    from ppt_core.runs.run import Run


def open_data(path: Path | None) -> "PreparedData":
    """Open the prepared set at ``path``, or the built-in sample."""
    from data_prep.ratings.interactions import PreparedData

    if path is not None:
        return PreparedData.load(path)
    from data_prep.ratings.prepare import sample  # and pandas, which takes half a second

    return sample()


def data_of(run: "Run", path: Path | None) -> "PreparedData":
    """Open the data that a run was trained on, or its copy at ``path``."""
    return recorded_data(run, path, open_data)


def scorer_of(network: "Network", data: "PreparedData", engine: str) -> "Scorer":
    """Wrap a network for evaluation by ``engine``."""
    from ncf_ppt.packed.packing import pack
    from ncf_ppt.scoring import scorer

    if engine == "torch":
        return scorer(network)
    return pack(network, user_ids=data.user_ids, item_ids=data.item_ids, protocol=data.protocol_label)


def description(data: "PreparedData", ranking: str, engine: str) -> dict[str, Any]:
    """Keys that say what a metric means."""
    full = ranking == "full"
    return {
        "n_users": data.n_users,
        "n_negatives": None if full else data.n_negatives,
        "ranking": ranking,
        "engine": engine,
        "protocol": f"{data.split_label}, whole catalogue without train items" if full else data.protocol_label,
    }
