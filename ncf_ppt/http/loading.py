"""The process that loads a model for the workers: verifies it, prepares it, hands it over, and ends.

So a bad model meets no worker, what loading takes of memory is given back, and a model is prepared once however many
workers there are.
"""

import hashlib
import os
import socket
import sys
import warnings
from pathlib import Path

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


def load_into(number: int, values: dict[str, object]) -> list[str]:
    """Load what the settings ``values`` name into an open file; return what the user may want to know of it."""
    from ncf_ppt.http.engine import Engine
    from ncf_ppt.http.handover import write_handover
    from ncf_ppt.http.settings import Settings
    from ncf_ppt.side_files import read_titles
    from ncf_ppt.trained import load
    from ncf_ppt.two_stages import Candidates

    settings = Settings.from_dict(values)
    trained = load(settings.model, data=settings.data)
    has_data = settings.data is not None or not trained.is_packed
    wanted = Candidates(settings.candidates, settings.n_candidates, settings.recall)
    if wanted.source is not None and not has_data:
        raise DataError(f"candidates= are chosen by what users had; name the data of {settings.model} with data=")
    engine = Engine.of(
        trained,
        identity=identity_of(settings.model),
        has_data=has_data,
        titles=None if settings.titles is None else read_titles(settings.titles),
        candidates=wanted,
        k=settings.limits.k,
    )
    with os.fdopen(number, "wb", closefd=False) as file:
        write_handover(engine, file)
    notices = [] if engine.first_stage is None else [str(engine.first_stage)]
    if not has_data:
        notices.append("without data= nobody knows what users had: lists hold that, too")
    return notices


def identity_of(model: Path) -> str:
    """The first 12 digits of the SHA-256 of a packed file, or of a run's weights."""
    digest = hashlib.sha256()
    with (model / "model.safetensors" if model.is_dir() else model).open("rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()[:12]


if __name__ == "__main__":
    set_environment()
    warnings.simplefilter("ignore")
    set_threads()
    main()
