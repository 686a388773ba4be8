"""The data that a run was trained on, found again."""

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from ppt_core.identity import Prepared, data_record, same_data

if TYPE_CHECKING:
    from ppt_core.runs.run import Run

Data = TypeVar("Data", bound=Prepared)


def recorded_data(run: "Run", path: Path | None, open_data: Callable[[Path | None], Data]) -> Data:
    """Open the data that a run was trained on, or its copy at ``path``."""
    from ppt_core.errors import DataError

    recorded = run.config["data"]
    if "path" not in recorded and recorded["sha256"] is None:
        raise DataError(
            f"{run.path} was trained from Python on data that were never saved; save them, train on what "
            "PreparedData.load makes of the folder, and use that run"
        )
    if "path" not in recorded and path is None:
        raise DataError(f"{run.path} does not say where its data are, since Python trained it; name them with --data")
    if path is None and recorded["path"] is not None:
        path = Path(recorded["path"])
        if not path.exists():
            raise DataError(f"{path}, the data of {run.path}, is gone; say where it is now with --data")
    data = open_data(path)
    if not same_data(recorded, data_record(data)):
        raise DataError(f"{path} is not the data that {run.path} was trained on (another content); name that one")
    return data
