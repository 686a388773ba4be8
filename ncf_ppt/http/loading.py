"""The process that loads a model for the workers: verifies it, prepares it, hands it over, and ends.

So a bad model meets no worker, what loading takes of memory is given back, and a model is prepared once however many
workers there are.
"""

import hashlib
import os
import socket
import sys
import warnings
from dataclasses import replace
from pathlib import Path
from typing import Any

from ppt_core.environment import set_environment
from ppt_core.errors import DataError
from ppt_core.threads import set_threads


def main() -> None:
    """Serve the one message of the supervisor."""
    from ncf_ppt.http.channel import Channel

    channel = Channel(socket.socket(fileno=int(sys.argv[1])))
    message, (number,) = channel.wait()
    try:
        notices = load_into(number, message["settings"])
    except (DataError, ValueError, OSError) as error:
        channel.send({"event": "refused", "detail": " ".join(str(error).split())})
    except MemoryError:
        channel.send({"event": "refused", "detail": "there is not enough memory for it"})
    else:
        channel.send({"event": "loaded", "notices": notices})


def load_into(number: int, values: dict[str, Any]) -> list[str]:
    """Load what the settings ``values`` name into an open file; return what the user may want to know of it."""
    import numpy as np

    from ncf_ppt.candidates import Reranker
    from ncf_ppt.http.engine import Engine
    from ncf_ppt.http.handover import write_handover
    from ncf_ppt.http.known_ids import KnownIds, Texts
    from ncf_ppt.http.settings import Settings
    from ncf_ppt.side_files import read_titles
    from ncf_ppt.similar_items import ItemsAlike, item_vectors
    from ncf_ppt.trained import load
    from ncf_ppt.two_stages import Candidates

    settings = Settings.from_dict(values)
    identity = identity_of(settings.model)  # empty without a model: `load` says that better
    trained = load(settings.model, data=settings.data)
    has_data = settings.data is not None or not trained.is_packed
    candidates = Candidates(settings.candidates, settings.n_candidates, settings.recall)
    if candidates.source is not None and not has_data:
        raise DataError(f"candidates= are chosen by what users had; name the data of {settings.model} with data=")
    packed: Any = trained.scorer("packed")
    score, first_stage = packed, None
    if candidates.source is not None:
        score, first_stage = candidates.before(packed, packed, trained.data, k=settings.limits.k)
    two_stages = score if isinstance(score, Reranker) else None
    nobody = np.empty(0, np.int64)
    bare = replace(packed, user_ids=nobody, item_ids=nobody)
    bare.__dict__.update({name: value for name, value in packed.__dict__.items() if name not in bare.__dict__})
    titles = None if settings.titles is None else read_titles(settings.titles)
    engine = Engine(
        name=trained.name,
        identity=identity,
        network=bare,
        users=KnownIds.of("user", packed.user_ids),
        items=KnownIds.of("item", packed.item_ids),
        alike=ItemsAlike.of(item_vectors(bare)),
        seen=two_stages.seen if two_stages is not None else trained.data.known() if has_data else None,
        titles=None if titles is None else Texts.of([titles.get(str(item), "") for item in packed.item_ids.tolist()]),
        two_stages=None if two_stages is None else replace(two_stages, score=bare),
        fold_in=_fold_in(bare, trained.data) if has_data else None,
        longest=settings.limits.k,
    )
    engine.warm_up()
    if identity_of(settings.model) != identity:
        raise DataError(f"{settings.model} changed while it was read; put a new model in its place by renaming")
    with os.fdopen(number, "wb", closefd=False) as file:
        write_handover(engine, file)
    notices = [] if first_stage is None else [str(first_stage)]
    if not has_data:
        notices.append("without data= nobody knows what users had: lists hold that, too")
    return notices


def _fold_in(packed: Any, data: Any) -> Any:
    """What makes rows of histories; None for a network that needs none, or cannot have any."""
    from ncf_ppt.fold_in import PackedFoldIn
    from ncf_ppt.packed.tower import PackedTwoTower

    reads_them_itself = isinstance(packed, PackedTwoTower) or packed.provenance.get("model", {}).get("n_recent")
    return None if reads_them_itself else PackedFoldIn.of(packed, data)


def identity_of(model: Path) -> str:
    """The first 12 digits of the SHA-256 of a packed file, or of a run's weights; empty if there is no such file."""
    path, digest = model / "model.safetensors" if model.is_dir() else model, hashlib.sha256()
    if not path.is_file():
        return ""
    with path.open("rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()[:12]


if __name__ == "__main__":
    set_environment()
    warnings.simplefilter("ignore")
    set_threads()
    main()
