"""The data that something was trained on, found again and checked."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeVar

from ppt_core.damaged import checked
from ppt_core.errors import DataError
from ppt_core.identity import Prepared, data_record, same_data

Data = TypeVar("Data", bound=Prepared)


def recorded_data(
    record: Mapping[str, Any],
    name: str,
    data: Data | Path | str | None,
    open_data: Callable[[Path | None], Data],
    *,
    missing: str | None = None,
) -> Data:
    """Return the data of a training, or their copy.

    Args:
        record: what the training kept of them (`ppt_core.identity.data_record`), or a packed file of it.
        name: what the record is of, for errors.
        data: the data, or the folder where they are now; None is where the record says.
        open_data: opens a prepared set, for None the built-in sample.
        missing: what is said of a record without a place, if no ``data`` are given; what holds it may be a file that
            never says where.

    Raises `DataError` if they cannot be found, or are others than the record says.
    """
    is_sample = record.get("is_sample", record.get("path", "") is None)
    is_known = "sha256" in record  # packed files made from Python may say nothing
    was_saved = not is_known or record["sha256"] is not None
    if not was_saved and not is_sample and (data is None or isinstance(data, (str, Path))):
        raise DataError(
            f"{name} was trained from Python on data that were never saved; save them, train on what "
            "PreparedData.load makes of the folder, and use that run"
        )
    if data is None and not is_sample and record.get("path") is None:
        raise DataError(missing or f"{name} does not say where its data are; name them with data=")
    if data is None and not is_sample:
        data = Path(checked(record, {"path": str}, f"the record of the data of {name}")["path"])
        if not data.exists():
            raise DataError(f"{data}, the data of {name}, is gone; say where it is now with data=")
    if data is None or isinstance(data, (str, Path)):
        data = open_data(None if data is None else Path(data))
    if is_known and not same_data(record, data_record(data)):
        given = data.path or "what was given"
        raise DataError(f"{given} is not the data that {name} was trained on (another content); name that one")
    return data
