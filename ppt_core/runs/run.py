"""A run folder: the settings of one training, its progress, its last checkpoint and its result.

::

    config.json             format version, every setting, what it was trained on, by what code and where
    metrics.jsonl           one JSON object for each evaluation, the last one with the result
    mlperf.log              ``:::MLLOG`` events (package mlperf-logging)
    checkpoint.safetensors  the last complete training state; ``--resume`` goes on from it
    model.safetensors       the trained model; present once training has finished
    lock                    what keeps a second process from training into it
    tensorboard/, mlflow-run  what the trackers of `train --log` keep
"""

import atexit
import contextlib
import glob
import json
import logging
import os
from pathlib import Path
from typing import Any

from ppt_core.damaged import checked, understanding
from ppt_core.errors import DataError
from ppt_core.identity import differences, in_words
from ppt_core.json_text import json_text
from ppt_core.runs.files import new_directory, read_bytes, read_json, refuse_special, replaced_file, write_json, writing
from ppt_core.runs.partial_files import PARTIAL, held, leftovers, prefix_of, remove_leftovers
from ppt_core.runs.record import RESUMED_BY, RunConfig, RunResult

FORMAT_VERSION = 1
_OF_THE_FILE = ("format_version", "sha256")


class Run:
    """One run folder. `create` makes it, `open` reads it; both give paths and append-only metrics."""

    def __init__(self, path: Path, config: RunConfig) -> None:
        self.path = path
        self.config = config

    @classmethod
    def create(cls, path: Path, config: dict[str, Any]) -> "Run":
        """Make the folder with its ``config.json``. Raises `DataError` if ``path`` exists."""
        with new_directory(path) as folder:
            write_json(folder / "config.json", {"format_version": FORMAT_VERSION, **config})
        return cls.open(path)

    @classmethod
    def open(cls, path: Path | str) -> "Run":
        """Open a run folder. Raises `DataError` if it is none, is damaged or of an unknown format version."""
        path = Path(path)
        if not (path / "config.json").exists():
            raise DataError(f"{path} is not a run folder (it holds no config.json); make one with `train --out {path}`")
        document = read_json(path / "config.json", format_version=FORMAT_VERSION)
        groups = {key: value for key, value in document.items() if key not in _OF_THE_FILE}
        return cls(path, RunConfig(groups, path / "config.json"))

    def refuse_other_kind(self, kind: str) -> None:
        """Raise `DataError` unless this is a run of that kind, see `RunConfig.kind`."""
        found = self.config.kind
        if found != kind:
            raise DataError(f"{self.path} is a run of kind {found}, not {kind}; use the commands of `ppt-{found}`")

    def note_resumed_by(self, provenance: dict[str, Any]) -> None:
        """Keep that the training goes on by other code than it was started by, or elsewhere; once for each in a row."""
        groups = self.config.to_dict()
        before = groups.get(RESUMED_BY, [])
        if before[-1:] != [provenance]:
            groups |= {RESUMED_BY: [*before, provenance]}
            write_json(self.path / "config.json", {"format_version": FORMAT_VERSION, **groups})
            self.config = RunConfig(groups)

    @property
    def checkpoint_path(self) -> Path:
        """The last complete training state."""
        return self.path / "checkpoint.safetensors"

    @property
    def model_path(self) -> Path:
        """The trained model."""
        return self.path / "model.safetensors"

    def refuse_other_settings(self, settings: dict[str, Any]) -> None:
        """Raise `DataError`, naming the first that differs, unless the run was started with these settings and data."""
        for name, old, new in differences({group: self.config.groups.get(group) for group in settings}, settings):
            raise DataError(
                f"{self.path} was started {in_words(name, old, new)}; resume with the same settings and data, or "
                "train into a new folder"
            )

    @property
    def finished(self) -> bool:
        """Whether training has reached its end."""
        return self.model_path.exists()

    def metrics(self) -> list[dict[str, Any]]:
        """The lines of ``metrics.jsonl``; a last line that an interruption cut off is left out."""
        path = self.path / "metrics.jsonl"
        complete = read_bytes(path).split(b"\n")[:-1] if path.exists() else []
        try:
            lines = [json.loads(line) for line in complete]
        except (ValueError, RecursionError) as error:
            raise DataError(f"{path} is damaged ({error}); train again into a new folder") from None
        return [checked(line, {"iterations": int}, f"{path}, line {n},") for n, line in enumerate(lines, 1)]

    def append_metrics(self, line: dict[str, Any]) -> None:
        """Add one line to ``metrics.jsonl``."""
        path, text = self.path / "metrics.jsonl", json_text(line) + "\n"
        with writing(path), path.open("a", encoding="utf-8") as file:
            file.write(text)

    def rewind_metrics(self, iteration: int) -> None:
        """Drop the lines written after ``iteration``: the training that goes on from there writes them again."""
        kept = [line for line in self.metrics() if line["iterations"] <= iteration]
        with replaced_file(self.path / "metrics.jsonl") as partial:
            partial.write_text("".join(json_text(line) + "\n" for line in kept), encoding="utf-8")

    def result(self) -> RunResult:
        """The last line of the metrics of a finished run. Raises `DataError` if it has not finished or is damaged."""
        metrics = self.metrics()
        if not self.finished or not metrics:
            raise DataError(f"{self.path} has not finished training; go on with `train --out {self.path} --resume`")
        with understanding(f"the last line of {self.path / 'metrics.jsonl'}"):
            return RunResult.from_dict(metrics[-1])

    def __repr__(self) -> str:
        return f"Run({self.path}, {self.config.kind}, {'finished' if self.finished else 'not finished'})"


def next_free(folder: Path) -> Path:
    """Return ``folder/N`` with the lowest N from 1 that does not exist yet, nor is given to a living process."""
    with writing(folder):
        folder.mkdir(parents=True, exist_ok=True)
        number = 1
        while (path := folder / str(number)).exists() or not _claim(path):
            number += 1
        return path


def _claim(path: Path) -> bool:
    """Keep a name for this process as long as it lives; False if another has it."""
    claim = path.with_name(f"{prefix_of(path)}claim{PARTIAL}")
    remove_leftovers(leftovers(path.parent, glob.escape(claim.name.removesuffix(PARTIAL))))
    try:
        os.close(os.open(claim, os.O_CREAT | os.O_EXCL))
    except FileExistsError:
        return False
    until_exit = contextlib.ExitStack()
    until_exit.enter_context(held(claim))
    until_exit.callback(claim.unlink, missing_ok=True)
    atexit.register(until_exit.close)
    return not path.exists()


class _LogFile(logging.FileHandler):
    """A file of log lines; one that cannot be written ends the program as any other file does, by its error."""

    def __init__(self, path: Path) -> None:
        super().__init__(path, encoding="utf-8")
        self._path = path

    def emit(self, record: logging.LogRecord) -> None:
        with writing(self._path):
            super().emit(record)

    def handleError(self, record: logging.LogRecord) -> None:
        raise  # logging would print the error that is being handled, and go on


class EventLog:
    """MLPerf log lines appended to a file, and nothing printed.

    Raises `DataError` where the file cannot be written, then or in a call.

    Args:
        path: the file; None writes nothing.
        keep: bytes of an existing file that stay: what an interrupted training wrote behind them it will write again.
    """

    def __init__(self, path: Path | None, *, keep: int = 0) -> None:
        from mlperf_logging.mllog.mllog import MLLogger

        logger = logging.Logger("mlperf")  # a logger of its own: nothing propagates, nothing is global
        self._path = path
        self._handler: logging.Handler = logging.NullHandler()
        if path is not None:
            with writing(path):
                path.touch()
                refuse_special(path)
                os.truncate(path, min(keep, path.stat().st_size))
                self._handler = _LogFile(path)
        logger.addHandler(self._handler)
        events = MLLogger(logger, root_dir=str(Path(__file__).parents[2]))
        self.start, self.end, self.event = events.start, events.end, events.event

    @property
    def size(self) -> int:
        """Bytes written so far."""
        return 0 if self._path is None else self._path.stat().st_size  # a handler of logging flushes each line

    def close(self) -> None:
        """Close the file."""
        self._handler.close()
