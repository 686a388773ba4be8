"""Every command that writes, killed at moments spread over its work, and given again: what is lost, or half.

    python -m benchmarks.kills --kills 1000

Commands run in forks of one process that has loaded everything, so that a kill costs a fraction of a second; the rest
is real: files, signals, and what is left on the disk. Half of a command's kills come before one of its changes to the
file system (Python's audit events count them), the other half after a share of its seconds; each part is spread
evenly, and the seed places a kill within its stretch. ``--fresh N`` of each command's kills hit a process started as a
user starts it. After a kill nothing may stand under the output's name but what was there before or the whole result;
of a folder that grows (a run, a study) each file must be whole, and metrics may end early. Then the same command is
given again, of a run with ``--resume``, until it succeeds: its files must be those of an undisturbed one, byte for
byte but for times and what is derived from them, what is not its own untouched, and no temporary file be left, but for
those that `ppt-ncf doctor --clean` is then to remove.
"""

import os

from ppt_core.environment import ENVIRONMENT

os.environ.update(
    {**ENVIRONMENT, "NUMBA_THREADING_LAYER": "workqueue", "OMP_NUM_THREADS": "1", "NUMBA_NUM_THREADS": "1"}
)

import atexit
import contextlib
import io
import json
import math
import random
import re
import shutil
import signal
import subprocess
import sys
import tarfile
import time
import traceback
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from importlib.metadata import entry_points
from pathlib import Path
from tempfile import mkdtemp
from typing import Any

import click

from benchmarks.provenance import document

ROOT = Path(__file__).parent.parent
PARTIAL = ".partial"
NCF, VISION = "ppt-ncf", "ppt-vision"
SIZES = ("--factors", "4", "--layers", "8,8,8,4", "--batch-size", "256", "--threads", "1")
SMALL_NCF = (*SIZES, "--epochs", "1", "--eval-every", "0.25")
SMALL_VISION = ("--batch-size", "16", "--iterations", "6", "--eval-every", "1", "--threads", "1")
STUDIED = ("--factors", "4", "--layers", "8,8,8,4", "--batch-size", "4096")
STUDY = ("--trials", "1", "--threads", "1", "--workers", "1")

_GROWING = ("config.json", "trial.json", "study.json")  # by which a folder that is not made in one step is known
_TIMES = re.compile(
    r"(seconds|per_second|slowdown|speed|sha256|time|resumed|resumed_by|provenance|phases|load|started|written|memory)"
)
_EVENTS = ("os.mkdir", "os.rename", "os.remove", "os.rmdir", "os.link", "os.truncate", "os.chmod", "shutil.", "fcntl.",
           "tempfile.", "ctypes.dlsym")  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class Case:
    """A command, in a folder of its own beside ``inputs``.

    Attributes:
        name: in the table.
        command: its words.
        output: what it writes.
        before: made in the folder first, by other words; what ``output`` was before.
        copied: inputs that it changes or writes into, and so has a copy of.
        resume: further words once the output is there.
        grows: the output is a folder whose files come one by one.
        weight: of its kills for each of another command: many where it is quick.
    """

    name: str
    command: tuple[str, ...]
    output: str
    copied: tuple[str, ...] = ()
    resume: tuple[str, ...] = ()
    grows: bool = False
    weight: int = 1


def cases() -> list[Case]:
    """All commands that write."""
    run, packed, data = "../inputs/run", "../inputs/network.packed", ("--data", "../inputs/data")
    images, image_run = ("--data", "../inputs/images"), "../inputs/image-run"
    train = (NCF, "train", *data, "--out", "half", *SMALL_NCF)
    return [
        Case(
            name="prepare", weight=10,
            command=(NCF, "prepare", "../inputs/ratings.csv", "--out", "out", "--negatives", "20", "--validation"),
            output="out",
        ),
        Case(
            name="train",
            weight=4,
            command=(NCF, "train", *data, "--out", "half", *SMALL_NCF),
            output="half",
            resume=("--resume",),
            grows=True,
        ),
        Case(name="train --resume",
            weight=4, command=(*train, "--resume"), output="half", copied=("half",), grows=True),
        Case(
            name="train --recipe warm",
            command=(NCF, "train", *data, "--out", "warm", "--recipe", "warm", "--factors", "8", "--iterations", "40",
                     "--layers", "8,8", "--batch-size", "256", "--threads", "1"),
            output="warm",
            resume=("--resume",),
            grows=True,
        ),
        Case(
            name="evaluate --per-user", weight=10,
            command=(NCF, "evaluate", run, "--per-user", "ranks.parquet"),
            output="ranks.parquet",
        ),
        Case(
            name="baseline --per-user", weight=10,
            command=(NCF, "baseline", "item-knn", *data, "--per-user", "ranks.parquet"),
            output="ranks.parquet",
        ),
        Case(name="pack", weight=10, command=(NCF, "pack", run, "--out", "network.packed"), output="network.packed"),
        *(
            Case(
                name=f"recommend --out .{kind}", weight=10,
                command=(NCF, "recommend", packed, *data, "--all", "--out", f"lists.{kind}"),
                output=f"lists.{kind}",
            )
            for kind in ("parquet", "csv")
        ),
        Case(
            name="score --out", weight=10,
            command=(NCF, "score", packed, *data, "--pairs", "../inputs/pairs.csv", "--out", "scores.csv"),
            output="scores.csv",
        ),
        Case(
            name="similar --out", weight=10,
            command=(NCF, "similar", packed, *data, "--all", "--out", "similar.jsonl"),
            output="similar.jsonl",
        ),
        *(
            Case(
                name=f"export-embeddings --format {kind}", weight=10,
                command=(NCF, "export-embeddings", run, "--out", "vectors", "--format", kind),
                output="vectors",
            )
            for kind in ("parquet", "npy", "safetensors")
        ),
        Case(name="export-onnx", command=(NCF, "export-onnx", run, "--out", "network.onnx"), output="network.onnx"),
        Case(name="report", command=(NCF, "report", run, "--out", "page.html"), output="page.html"),
        Case(
            name="study run",
            command=(NCF, "study", "run", *data, "--out", "study", "--budgets", "1", "--splits", "0,0.5", *STUDY,
                     "--", *STUDIED),
            output="study",
            grows=True,
        ),
        Case(
            name="study report, anew",
            command=(NCF, "study", "report", "study"),
            output="study/report",
            copied=("study",),
        ),
        Case(
            name="study target",
            command=(NCF, "study", "target", *data, "--out", "target", "--trials", "2", "--threads", "1", "--",
                     "--epochs", "1", "--threshold", "0.1", *STUDIED),
            output="target",
            grows=True,
        ),
        Case(
            name="vision prepare", weight=10,
            command=(VISION, "prepare", "cifar10", "../inputs/cifar-10-python.tar.gz", "--out", "out"),
            output="out",
        ),
        Case(
            name="vision train",
            command=(VISION, "train", *images, "--out", "run", *SMALL_VISION),
            output="run",
            resume=("--resume",),
            grows=True,
        ),
        Case(
            name="vision pack", weight=10,
            command=(VISION, "pack", image_run, "--out", "network.packed", "--images", "4"),
            output="network.packed",
        ),
    ]  # fmt: skip


def write_inputs(folder: Path, *, users: int = 80, items: int = 120, each: int = 30) -> None:
    """Ratings of ``each`` items by each user, pairs, images."""
    folder.mkdir(exist_ok=True)
    rng = random.Random(0)
    lines = [
        f"{user + 1},{item + 1},{rng.randrange(1, 6)},{10**9 + place}"
        for user in range(users)
        for place, item in enumerate(rng.sample(range(items), each))
    ]
    (folder / "ratings.csv").write_text("\n".join(["userId,movieId,rating,timestamp", *lines]) + "\n")
    pairs = [f"{user + 1},{item + 1}" for user in range(users) for item in range(0, items // 2, 10)]
    (folder / "pairs.csv").write_text("\n".join(["user_id,item_id", *pairs]) + "\n")
    _write_images(folder / "cifar-10-python.tar.gz")


def _write_images(path: Path) -> None:
    """An archive as CIFAR-10's, of few images."""
    import pickle

    import numpy as np

    rng = np.random.default_rng(0)
    names = [f"data_batch_{number}" for number in range(1, 6)] + ["test_batch"]
    members: dict[str, Any] = {
        name: {
            b"labels": rng.integers(0, 10, 12).tolist(),
            b"data": rng.integers(0, 256, (12, 3072), np.uint8),
        }
        for name in names
    }
    classes = [b"class %d" % number for number in range(10)]
    members["batches.meta"] = {b"num_cases_per_batch": 12, b"label_names": classes, b"num_vis": 3072}
    with tarfile.open(path, "w:gz") as archive:
        for name, values in members.items():
            content = pickle.dumps(values)
            info = tarfile.TarInfo(f"cifar-10-batches-py/{name}")
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))


class Wrong(Exception):
    """What must not be after a kill, or after the command that was given again."""


@dataclass
class Child:
    """A command in a process of its own.

    Attributes:
        pid: its number, and that of its group.
        started: when, by the monotonic clock.
        log: what it printed.
    """

    pid: int
    log: Path
    started: float = field(default_factory=time.monotonic)

    def kill(self) -> None:
        """End it, and what it started."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.pid, signal.SIGKILL)

    def wait(self, seconds: float = 120.0) -> int:
        """Its exit status; -9 where it was killed. One that needs longer is killed, and raises `Wrong`."""
        while True:
            found, status = os.waitpid(self.pid, os.WNOHANG)
            if found:
                return os.waitstatus_to_exitcode(status)
            if time.monotonic() - self.started > seconds:
                self.kill()
                os.waitpid(self.pid, 0)
                raise Wrong(f"nothing happened for {seconds:g} seconds")
            time.sleep(0.002)

    def said(self) -> str:
        """What it printed."""
        return self.log.read_text("utf-8", "replace")


def _counts(event: str, arguments: tuple[Any, ...]) -> bool:
    """Whether an audit event is a change of files, or comes right before one."""
    if event == "open":
        return isinstance(arguments[2], int) and bool(arguments[2] & (os.O_WRONLY | os.O_RDWR | os.O_CREAT))
    return event.startswith(_EVENTS)


def beside(folder: Path, suffix: str) -> Path:
    """A file for what is about a folder."""
    return folder.with_name(folder.name + suffix)


def begin(words: Sequence[str], folder: Path, *, kill_at: int | None = None, count_in: Path | None = None) -> Child:
    """Start a command in a fork of this process.

    Args:
        words: the program and its arguments.
        folder: where it works.
        kill_at: the process kills itself before this change of files, counted from 0.
        count_in: a file for the number of changes.
    """
    log = beside(folder, ".log")
    sys.stdout.flush()
    sys.stderr.flush()
    pid = os.fork()
    if pid:
        with contextlib.suppress(OSError):
            os.setpgid(pid, pid)
        return Child(pid, log)
    code = 70
    try:
        os.setpgid(0, 0)
        os.chdir(folder)
        output = os.open(log, os.O_CREAT | os.O_WRONLY | os.O_TRUNC)
        for stream in (1, 2):
            os.dup2(output, stream)
        seen = 0
        watching = False

        def hook(event: str, arguments: tuple[Any, ...]) -> None:
            nonlocal seen
            if watching and _counts(event, arguments):
                if seen == kill_at:
                    os.kill(os.getpid(), signal.SIGKILL)
                seen += 1

        sys.addaudithook(hook)
        watching = True
        code = call(words)
        atexit._run_exitfuncs()
        watching = False
        if count_in is not None:
            count_in.write_text(str(seen))
    except BaseException:
        traceback.print_exc()
    finally:
        with contextlib.suppress(Exception):
            sys.stdout.flush()
            sys.stderr.flush()
        os._exit(code)


def begin_fresh(words: Sequence[str], folder: Path) -> Child:
    """Start a command as a user does."""
    log = beside(folder, ".log")
    start = "from ppt_commands.programs import {} as program; program()".format("main" if words[0] == NCF else "vision")
    with log.open("wb") as output:
        process = subprocess.Popen(
            [sys.executable, "-c", start, *words[1:]],
            cwd=folder,
            stdout=output,
            stderr=output,
            stdin=subprocess.DEVNULL,
            env={**os.environ, "PYTHONPATH": str(ROOT)},
            start_new_session=True,
        )
    process.returncode = 0  # it is waited for by its number
    return Child(process.pid, log)


def call(words: Sequence[str]) -> int:
    """Run a command in this process, and return its exit status."""
    (program,) = entry_points(group="console_scripts", name=words[0])
    try:
        program.load().main(args=list(words[1:]), prog_name=words[0])
    except SystemExit as end:
        return end.code if isinstance(end.code, int) else 1 if end.code else 0
    return 0


def _plain(value: Any) -> Any:
    """JSON values without times."""
    if isinstance(value, dict):
        return {key: _plain(inner) for key, inner in value.items() if not _TIMES.search(key)}
    return [_plain(inner) for inner in value] if isinstance(value, list) else value


def content(path: Path) -> Any:
    """What must be equal in two files of one command: the bytes, of documents all but times."""
    if path.name == "mlperf.log":
        return sorted(set(re.findall(r'"key": "(?:run_stop|run_start)"', path.read_text("utf-8"))))
    if path.name == "checkpoint.safetensors":  # whose header knows seconds
        octets = path.read_bytes()
        return octets[8 + int.from_bytes(octets[:8], "little") :]
    if path.name == "speed.json":  # nothing but speeds
        return None
    if path.name in ("metrics.jsonl", "results.jsonl"):
        return [_plain(json.loads(line)) for line in path.read_bytes().split(b"\n")[:-1]]
    if path.suffix == ".json":
        return _plain(json.loads(path.read_text("utf-8")))
    return path.read_bytes()


def tree(path: Path) -> dict[str, Any]:
    """All files of an output by name; none of what is temporary, or a lock that nobody holds."""
    if path.is_file():
        return {"": content(path)}
    return {
        str(file.relative_to(path)): content(file)
        for file in sorted(path.rglob("*"))
        if file.is_file() and file.name != "lock" and not any(part.endswith(PARTIAL) for part in file.parts)
    }


def differing(found: dict[str, Any], wanted: dict[str, Any]) -> list[str]:
    """The files that are missing, new, or of another content."""
    return sorted(name for name in {*found, *wanted} if found.get(name) != wanted.get(name))


@dataclass
class Tried:
    """What was counted of a command's kills."""

    kills: int = 0
    hit: int = 0
    states: Counter[str] = field(default_factory=Counter)
    left: int = 0
    cleaned: int = 0
    wrong: list[str] = field(default_factory=list)


class Trials:
    """The kills of one command.

    Args:
        case: the command.
        folder: in which ``inputs`` lies.
        seed: of the moments.
    """

    def __init__(self, case: Case, folder: Path, seed: int) -> None:
        self.case, self.folder, self._random = case, folder, random.Random(f"{seed} {case.name}")
        self.tried = Tried()
        self._before = self._new()
        call_folder = self._new()
        here = Path.cwd()
        os.chdir(call_folder)  # once in this process, so that its forks have compiled and loaded what they need
        try:
            with quiet():
                status = call(case.command)
        finally:
            os.chdir(here)
        if status:
            raise click.ClickException(f"{case.name} ends with {status} where nothing was killed")
        shutil.rmtree(call_folder)
        folder = self._new()
        count = beside(folder, ".count")
        child = begin(case.command, folder, count_in=count)
        if child.wait():
            raise click.ClickException(f"{case.name} fails where nothing was killed: {child.said()[-2000:]}")
        self.seconds = time.monotonic() - child.started
        self.changes = int(count.read_text())
        self.whole, self.old = tree(folder / case.output), tree(self._before / case.output)
        self._clear(folder)
        self.fresh_seconds = 0.0

    def _new(self) -> Path:
        """A new folder with what the command needs, and with files that are not its own."""
        number = 0
        while (path := self.folder / f"{self.case.name.replace(' ', '-').replace('/', '-')}-{number}").exists():
            number += 1
        path.mkdir()
        for name in self.case.copied:
            shutil.copytree(self.folder / "inputs" / name, path / name)
        for name in self._foreign():
            (path / name).write_text("of somebody else")
        return path

    def _foreign(self) -> tuple[str, ...]:
        name = Path(self.case.output).parts[0]
        return ("notes.txt", f".{name}.mine", f"{name}.bak")

    def _clear(self, folder: Path) -> None:
        shutil.rmtree(folder)
        for suffix in (".log", ".count"):
            beside(folder, suffix).unlink(missing_ok=True)

    def kill(self, n: int, fresh: int) -> None:
        """Kill the command ``n`` times, ``fresh`` of them as a process of its own."""
        n_events = min(self.changes, (n - fresh) // 2)
        n_times = n - fresh - n_events
        for number in range(n_events):
            moment = (number + self._random.random()) / n_events
            self._trial(partial(begin, self.case.command, kill_at=int(moment * self.changes)))
        for number in range(n_times):
            moment = (number + self._random.random()) / n_times
            self._trial(partial(begin, self.case.command), moment * self.seconds)
        if fresh:
            folder = self._new()
            child = begin_fresh(self.case.command, folder)
            status = child.wait()
            self.fresh_seconds = time.monotonic() - child.started
            if status or (other := differing(tree(folder / self.case.output), self.whole)):
                self.tried.wrong.append(f"a process of its own: status {status}, {other}: {child.said()[-500:]}")
            self._clear(folder)
        for number in range(fresh):
            moment = (number + self._random.random()) / fresh
            self._trial(partial(begin_fresh, self.case.command), moment * self.fresh_seconds)

    def _trial(self, start: Callable[[Path], Child], seconds: float | None = None) -> None:
        folder = self._new()
        self.tried.kills += 1
        try:
            child = start(folder)
            if seconds is not None:
                time.sleep(max(0.0, child.started + seconds - time.monotonic()))
                child.kill()
            status = child.wait()
            if status not in (0, -signal.SIGKILL):
                raise Wrong(f"the status is {status}: {child.said()[-500:]}")
            self.tried.hit += status != 0
            self._check_killed(folder)
            self._check_again(folder)
        except Wrong as error:
            self.tried.wrong.append(str(error))
        self._clear(folder)

    def _check_killed(self, folder: Path) -> None:
        try:
            found = tree(folder / self.case.output)
        except ValueError as error:
            raise Wrong(f"a document is half: {error}") from None
        if found == self.whole:
            return self._count("whole")
        if found == self.old:
            return self._count("old" if self.old else "absent")
        if not self.case.grows:
            raise Wrong(f"the output is half: {differing(found, self.whole)}")
        for name in differing(found, self.whole):
            kind = Path(name).name
            if name not in found or kind in ("mlperf.log", "checkpoint.safetensors"):  # the latter is read again below
                continue
            if kind == "metrics.jsonl" and found[name] == self.whole.get(name, [])[: len(found[name])]:
                continue
            if kind == "results.jsonl":  # lines of the trials that have finished, the short ones first
                continue
            if found[name] != self.old.get(name):
                raise Wrong(f"{name} is half, or another")
        self._count("begun")

    def _count(self, state: str) -> None:
        self.tried.states[state] += 1

    def _check_again(self, folder: Path) -> None:
        left = partials(folder)
        self.tried.left += bool(left)
        for each in left:  # a minute later
            os.utime(each, (0, 0))
        output = folder / self.case.output
        is_whole = tree(output) == self.whole and not self.case.grows and self.whole != self.old
        words = (*self.case.command, *(self.case.resume if output.exists() else ()))
        child = begin(words, folder)
        status = child.wait()
        said = child.said()
        if "Traceback" in said:
            raise Wrong(f"the second time says {said[-500:]}")
        if status and not (is_whole and "already exists" in said):
            raise Wrong(f"the second time ends with {status}: {said[-500:]}")
        if other := differing(tree(output), self.whole):
            raise Wrong(f"the second time makes other files: {other}")
        if any((folder / name).read_text() != "of somebody else" for name in self._foreign()):
            raise Wrong("a file of somebody else is not what it was")
        if partials(folder):
            self.tried.cleaned += 1
            begin((NCF, "doctor", "--clean", "."), folder).wait()
        if left := partials(folder):
            raise Wrong(f"the doctor leaves {left}")
        others = {each.name for each in folder.iterdir()} - {*self._foreign(), *self.case.copied}
        if others != {Path(self.case.output).parts[0]} - {*self.case.copied}:
            raise Wrong(f"there are other files: {sorted(others)}")


def partials(folder: Path) -> list[Path]:
    """What is temporary in a folder, and in those in it."""
    return sorted(each for each in folder.rglob("*") if each.name.endswith(PARTIAL))


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Let standard output and standard error go nowhere."""
    sys.stdout.flush()
    sys.stderr.flush()
    kept = [os.dup(stream) for stream in (1, 2)]
    nowhere = os.open(os.devnull, os.O_WRONLY)
    for stream in (1, 2):
        os.dup2(nowhere, stream)
    try:
        yield
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        for stream, before in zip((1, 2), kept, strict=True):
            os.dup2(before, stream)
            os.close(before)
        os.close(nowhere)


def make_inputs(folder: Path, wanted: Sequence[Case]) -> None:
    """Let commands make the inputs of other commands."""
    inputs = folder / "inputs"
    write_inputs(inputs)
    train = (NCF, "train", "--data", "data", *SMALL_NCF)
    words: list[tuple[str, ...]] = [
        (NCF, "prepare", "ratings.csv", "--out", "data", "--negatives", "20"),
        (*train, "--out", "run"),
        (NCF, "pack", "run", "--out", "network.packed"),
    ]
    if any(case.name.startswith("study report") for case in wanted):
        words += [
            (NCF, "study", "run", "--data", "data", "--out", "study", "--budgets", "1,2", *STUDY, "--", *STUDIED),
            (NCF, "study", "report", "study"),
        ]
    if any(case.name.startswith("vision") for case in wanted):
        words += [
            (VISION, "prepare", "cifar10", "cifar-10-python.tar.gz", "--out", "images"),
            (VISION, "train", "--data", "images", "--out", "image-run", *SMALL_VISION),
        ]
    here = Path.cwd()
    os.chdir(inputs)
    try:
        for each in words:
            with quiet():
                status = call(each)
            if status:
                raise click.ClickException(f"{' '.join(each)} ends with {status}")
    finally:
        os.chdir(here)
    train_half(inputs, train)


def train_half(folder: Path, words: Sequence[str]) -> None:
    """Leave a training in ``folder / "half"`` that was killed in its middle; ``words`` want an ``--out``."""
    count = beside(folder, ".count")
    first = begin((*words, "--out", "first"), folder, count_in=count)
    if first.wait():
        raise click.ClickException(f"the first training fails: {first.said()}")
    n_changes = int(count.read_text())
    for share in (0.5, 0.6, 0.7, 0.8, 0.9):  # until there is a checkpoint
        shutil.rmtree(folder / "half", ignore_errors=True)
        killed = begin((*words, "--out", "half"), folder, kill_at=int(share * n_changes)).wait() == -signal.SIGKILL
        if killed and (folder / "half" / "checkpoint.safetensors").exists():
            break
    else:
        raise click.ClickException("no training was killed behind its first checkpoint")
    for each in (folder / "first", *partials(folder)):
        shutil.rmtree(each) if each.is_dir() else each.unlink()
    (folder / "half" / "lock").unlink(missing_ok=True)


def _row(case: Case, folder: Path, kills: int, fresh: int, seed: int) -> dict[str, Any]:
    """What was counted of a command."""
    start = time.monotonic()
    trials = Trials(case, folder, seed)
    trials.kill(kills, min(fresh, kills))
    tried = trials.tried
    click.echo(f"{case.name}: {tried.kills - len(tried.wrong)} of {tried.kills} survived", err=True)
    for each in tried.wrong:
        click.echo(f"  {each}", err=True)
    return {
        "command": case.name,
        "kills": tried.kills,
        "in_time": tried.hit,
        "fresh": fresh,
        "changes": trials.changes,
        "command_seconds": trials.seconds,
        "states": dict(sorted(tried.states.items())),
        "left": tried.left,
        "left_to_the_doctor": tried.cleaned,
        "survived": tried.kills - len(tried.wrong),
        "wrong": tried.wrong,
        "seconds": time.monotonic() - start,
    }


def in_jobs(work: Callable[[Any], dict[str, Any]], items: Sequence[Any], jobs: int) -> list[dict[str, Any]]:
    """The rows that ``work`` makes of each item, in as many forks at a time, each with every ``jobs``-th item."""
    if jobs == 1:
        return [work(item) for item in items]
    pids = []
    folder = Path(mkdtemp())
    for job in range(jobs):
        pid = os.fork()
        if pid:
            pids.append(pid)
            continue
        code = 1
        try:
            for number in range(job, len(items), jobs):
                (folder / str(number)).write_text(json.dumps(work(items[number])))
            code = 0
        except BaseException:
            traceback.print_exc()
        finally:
            os._exit(code)
    failed = sum(os.waitpid(pid, 0)[1] != 0 for pid in pids)
    if failed:
        raise click.ClickException(f"{failed} of {jobs} jobs failed")
    rows = [json.loads((folder / str(number)).read_text()) for number in range(len(items))]
    shutil.rmtree(folder)
    return rows


@click.command()
@click.option("--kills", default=1000, show_default=True, help="Of all commands together, at least.")
@click.option("--fresh", default=2, show_default=True, help="Those of each command that hit a process of its own.")
@click.option("--only", multiple=True, help="Only commands whose name begins so.")
@click.option("--jobs", default=1, show_default=True, help="Commands at a time.")
@click.option("--seed", default=0, show_default=True)
@click.option("--json", "as_json", is_flag=True)
def main(kills: int, fresh: int, only: tuple[str, ...], jobs: int, seed: int, as_json: bool) -> None:
    """Kill, repeat, compare, and print counts; end with an error where something was lost."""
    import torch

    torch.set_num_threads(1)
    chosen = [case for case in cases() if not only or case.name.startswith(only)]
    folder = Path(mkdtemp())  # no TemporaryDirectory: each fork that ends would remove it
    try:
        (folder / "tmp").mkdir()
        os.environ["TMPDIR"] = str(folder / "tmp")
        make_inputs(folder, chosen)
        share = kills / sum(case.weight for case in chosen)
        rows = in_jobs(lambda case: _row(case, folder, math.ceil(share * case.weight), fresh, seed), chosen, jobs)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    if as_json:
        click.echo(document(rows))
    else:
        for row in rows:
            click.echo(json.dumps(row))
    wrong = [f"{row['command']}: {each}" for row in rows for each in row["wrong"]]
    if wrong:
        raise click.ClickException(f"{len(wrong)} kills did harm, the first: {wrong[0]}")


if __name__ == "__main__":
    main()
