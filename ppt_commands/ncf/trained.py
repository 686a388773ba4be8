"""A run folder or a packed file as a command gets it: what scores, and on which data."""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ppt_commands.ncf.data import data_of, open_data, scorer_of
from ppt_core.identity import copied_record, data_record, same_data

if TYPE_CHECKING:
    from data_prep.ratings.interactions import PreparedData
    from ncf_ppt.packed.network import PackedNCF
    from ncf_ppt.ranking import Scorer
    from ppt_core.runs.run import Run

_FROM_RUN = ("iterations", "epochs", "seconds", "split", "phases", "seed")
_FROM_FILE = ("iterations", "epochs", "split", "seed")


@dataclass(frozen=True, kw_only=True)
class Trained:
    """A network that scores, the data it was trained on, the engine's name, and how it was trained."""

    score: "Scorer"
    data: "PreparedData"
    engine: str
    training: dict[str, Any]


def open_trained(path: Path, data: Path | None, *, engine: str | None, device: str) -> Trained:
    """Open a run folder, or a packed file, which knows one engine and needs its data named."""
    from ncf_ppt.packed.file import load_packed
    from ncf_ppt.training import load_model
    from ppt_core.runs.run import Run

    if not path.is_file():
        run = Run.open(path)
        network = load_model(run, device=device)
        prepared = data_of(run, data)
        engine = engine or "torch"
        training = {key: run.result()[key] for key in _FROM_RUN}
        return Trained(score=scorer_of(network, prepared, engine), data=prepared, engine=engine, training=training)
    packed = load_packed(path)
    if engine == "torch" or device != "cpu":
        raise ValueError(f"{path} is a packed network, which is for --engine packed on a CPU; for others name the run")
    prepared = data_of_packed(packed, path, data)
    return Trained(score=packed, data=prepared, engine="packed", training=packed.provenance.get("result", {}))


def data_of_packed(packed: "PackedNCF", path: Path, data: Path | None) -> "PreparedData":
    """Open the data of a packed file, which holds ids but no interactions: neither what was seen nor held out."""
    import numpy as np

    from ppt_core.errors import DataError

    recorded = packed.provenance.get("data", {})
    if data is None and not recorded.get("is_sample"):
        raise DataError(f"{path} holds no interactions, so name the prepared data that it was trained on with --data")
    prepared = open_data(data)
    same_ids = np.array_equal(prepared.user_ids, packed.user_ids) and np.array_equal(prepared.item_ids, packed.item_ids)
    if not same_ids or ("sha256" in recorded and not same_data(recorded, data_record(prepared))):
        raise DataError(f"{data} is not the data that {path} was trained on (other ids or another content)")
    return prepared


def provenance(run: "Run") -> dict[str, Any]:
    """What a packed file keeps of the run it was made from: no place of this machine, no timing."""
    data = {**copied_record(run.config["data"]), "is_sample": run.config["data"].get("path", "") is None}
    result = {key: run.result()[key] for key in _FROM_FILE}
    return {"model": run.config["model"], "training": run.config["training"], "data": data, "result": result}
