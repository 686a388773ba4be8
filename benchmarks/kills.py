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

import json
import math
import random
import re
import shutil
import signal
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from tempfile import mkdtemp
from typing import Any

import click

from benchmarks.children import NCF, Child, Wrong, begin, begin_fresh, beside, call, in_jobs, quiet
from benchmarks.kill_cases import PARTIAL, Case, cases, make_inputs, partials
from benchmarks.provenance import document

_TIMES = re.compile(
    r"(seconds|per_second|slowdown|speed|sha256|time|resumed|resumed_by|provenance|phases|load|started|written|memory)"
)


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
