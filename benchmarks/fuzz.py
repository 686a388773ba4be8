"""Files of every kind that a command reads, mutated: each must be read, or refused in one line that names it.

    python -m benchmarks.fuzz --inputs 100000 --commands 1000

A file is a valid one with a few mutations: bits, cuts, insertions, copies, other numbers, text that readers stumble
over; in JSON and in headers also values of other types and sizes. Half of the changes to a file that carries a
checksum are sealed anew, so that they reach what stands behind it: an error, or whatever the file then says, computed
with. The other half must be refused. ``--inputs`` go to the library's readers, in processes that are forked for some
hundreds at a time, ``--commands`` to whole commands, each in a process of its own, which is forked from one that has
loaded everything. It is a failure if an exception is neither a DataError nor a ValueError, or does not name the file
or its folder, if a command says anything but one line or ends with another status than 0, 1 or 2, if a process dies,
needs more than 30 seconds for an input or a gigabyte more than before, and if a changed file with a checksum is
accepted.
"""

import os

from ppt_core.environment import ENVIRONMENT

os.environ.update(
    {**ENVIRONMENT, "NUMBA_THREADING_LAYER": "workqueue", "OMP_NUM_THREADS": "1", "NUMBA_NUM_THREADS": "1"}
)

import bz2
import gzip
import json
import lzma
import math
import mmap
import random
import resource
import shutil
import signal
import tarfile
import time
import warnings
import zipfile
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import mkdtemp
from typing import Any

import click

from benchmarks.children import NCF, VISION, begin, call, in_jobs, quiet
from benchmarks.fuzz_kinds import HALF, Kind, kinds
from benchmarks.kill_cases import SIZES, SMALL_VISION, STUDIED, STUDY, train_half, write_inputs
from benchmarks.mutations import array_or_bytes, mutated, seal_folder
from benchmarks.provenance import document
from ppt_core.errors import DataError

_FORMATS = ("npy", "parquet", "safetensors")
SECONDS, MEGABYTES, N_IN_A_FORK = 30.0, 1024, 400


def _is_of_the_content(text: str) -> bool:
    """Whether a message is about a network or ratings as they are, and so not about their file."""
    words = ("diverged", "computes in full precision", "so no negative exists", "left to draw negatives from")
    return any(each in text for each in words)


@dataclass
class Found:
    """What became of the inputs of one kind."""

    n: int = 0
    accepted: int = 0
    refused: int = 0
    failures: list[str] = field(default_factory=list)
    kinds_of_failure: Counter[str] = field(default_factory=Counter)

    def fail(self, what: str, more: str) -> None:
        """Count a failure, and keep the first few of each kind in words."""
        self.kinds_of_failure[what] += 1
        if self.kinds_of_failure[what] <= 2:
            self.failures.append(f"{what}: {more}")


class Fuzzed:
    """One kind of files in a folder of its own.

    Args:
        kind: which.
        inputs: valid files.
        folder: a copy of them for what is mutated.
        seed: of the mutations.
    """

    def __init__(self, kind: Kind, inputs: Path, folder: Path, seed: int) -> None:
        self.kind, self.inputs, self.folder, self.seed = kind, inputs, folder, seed
        self.found = Found()

    def mutation(self, number: int) -> tuple[Path, bool]:
        """Write the input of that number; return the file and whether it must be refused."""
        rng = random.Random(f"{self.seed} {self.kind.name} {number}")
        name = rng.choice(self.kind.files)
        path = self.folder / name
        old = (self.inputs / name).read_bytes()
        reseal = self.kind.sealed is not None and rng.random() < 0.5
        change = self.kind.sealed if reseal and self.kind.sealed is not None else self.kind.mutate
        try:
            new = change(old, rng)
        except (ValueError, KeyError, IndexError, TypeError, AttributeError, OverflowError):  # too small to mutate so
            new = mutated(old, rng)
            reseal = False
        path.write_bytes(new)
        if reseal and change is array_or_bytes:
            seal_folder(path)
        return path, self.kind.sealed is not None and not reseal and new != old

    def restore(self) -> None:
        """Put the valid files back."""
        for name in self.kind.files:
            shutil.copyfile(self.inputs / name, self.folder / name)
            manifest = (self.folder / name).parent / "manifest.json"
            if self.kind.sealed is array_or_bytes:
                shutil.copyfile((self.inputs / name).parent / "manifest.json", manifest)

    def read(self, start: int, stop: int) -> None:
        """Let the reader have the inputs of these numbers, in forks."""
        memory = mmap.mmap(-1, 1 << 16)
        while start < stop:
            memory[:] = bytes(len(memory))
            end = min(stop, start + N_IN_A_FORK)
            pid = os.fork()
            if not pid:
                self._read_in_fork(start, end, memory)
            start = self._watch(pid, start, end, memory)

    def _watch(self, pid: int, start: int, end: int, memory: mmap.mmap) -> int:
        """Wait for a fork, count what it found, and return the number of the next input."""
        at, since, is_late = -1, time.monotonic(), False
        while True:
            done, status = os.waitpid(pid, os.WNOHANG)
            number = int.from_bytes(memory[:8], "little")
            if number != at:
                at, since = number, time.monotonic()
            if done:
                break
            if time.monotonic() - since > SECONDS:
                os.kill(pid, signal.SIGKILL)
                _, status = os.waitpid(pid, 0)
                is_late = True
                break
            time.sleep(0.005)
        accepted, refused, size = (int.from_bytes(memory[8 * n : 8 * n + 8], "little") for n in (1, 2, 3))
        self.found.accepted += accepted
        self.found.refused += refused
        for what, more in json.loads(memory[32 : 32 + size] or b"[]"):
            self.found.fail(what, more)
        if status == 0:
            self.found.n += end - start
            return end
        self.found.n += number - start + 1
        how = f"more than {SECONDS:g} s" if is_late else f"signal {os.waitstatus_to_exitcode(status)}"
        self.found.fail(how, f"input {number} of seed {self.seed}")
        self.restore()
        return number + 1

    def _read_in_fork(self, start: int, end: int, memory: mmap.mmap) -> None:
        code = 70
        try:
            os.chdir(self.folder)
            nowhere = os.open(os.devnull, os.O_WRONLY)
            os.dup2(nowhere, 1)
            os.dup2(nowhere, 2)
            warnings.simplefilter("ignore")
            counts, failures = [0, 0], []
            for number in range(start, end):
                memory[:8] = number.to_bytes(8, "little")
                what, more = self._outcome(number)
                if what in ("accepted", "refused"):
                    counts[what == "refused"] += 1
                else:
                    failures.append((what, more))
                    packed = json.dumps(failures[:40]).encode()[: len(memory) - 32]
                    memory[24 : 32 + len(packed)] = len(packed).to_bytes(8, "little") + packed
                memory[8:24] = counts[0].to_bytes(8, "little") + counts[1].to_bytes(8, "little")
            code = 0
        finally:
            os._exit(code)

    def _outcome(self, number: int) -> tuple[str, str]:
        path, must_fail = self.mutation(number)
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        where = f"input {number}, {path.relative_to(self.folder)}"
        try:
            self.kind.read(path)
        except (DataError, ValueError) as error:
            text = str(error)
            if _is_of_the_content(text):
                return "refused", ""
            if not self._is_named(path, text) or "\n" in text:
                return "says no file", f"{type(error).__name__}: {text[:300]!r} ({where})"
            found = "refused"
        except BaseException as error:
            return type(error).__name__, f"{str(error)[:300]!r} ({where})"
        else:
            if must_fail:
                return "accepted against its checksum", where
            found = "accepted"
        finally:
            self.restore()
        grown = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024
        if grown > MEGABYTES:
            return "memory", f"{grown:.0f} MB ({where})"
        return found, ""

    def command(self, number: int) -> None:
        """Let the command have the input of that number."""
        path, must_fail = self.mutation(number)
        name = str(path.relative_to(self.folder))
        network = name if name.endswith(".packed") else "image-run"
        words = [each.format(name, folder=path.parent.name, network=network) for each in self.kind.words]
        kept = None
        if "--resume" in words:
            kept = {each.name: each.read_bytes() for each in path.parent.iterdir()}
        child = begin(words, self.folder)
        self.found.n += 1
        where = f"{' '.join(words)} with input {number}, {name}"
        try:
            status = child.wait(SECONDS)
        except Exception:
            self.found.fail(f"more than {SECONDS:g} s", where)
        else:
            self._judge(status, child.said(), path, must_fail=must_fail, where=where)
        for each in self.folder.glob("out*"):
            shutil.rmtree(each) if each.is_dir() else each.unlink()
        if kept is not None:
            for each in path.parent.iterdir():
                each.unlink()
            for each_name, content in kept.items():
                (path.parent / each_name).write_bytes(content)
        self.restore()

    def _is_named(self, path: Path, text: str) -> bool:
        """Whether a message names a file, or a folder that it is in."""
        return any(name in text for name in (path.stem, *path.relative_to(self.folder).parts))

    def _judge(self, status: int, said: str, path: Path, *, must_fail: bool, where: str) -> None:
        errors = [line for line in said.splitlines() if line.startswith("Error")]
        if status < 0:
            return self.found.fail(f"signal {status}", where)
        if status not in (0, 1, 2) or "Traceback" in said or "which nobody expected" in said:
            return self.found.fail("no line that was meant", f"status {status}, {said[-300:]!r} ({where})")
        if any(not (char.isprintable() or char in "\n\r\t") for char in said):
            return self.found.fail("raw control characters", f"{said[-300:]!r} ({where})")
        if status == 0:
            if must_fail:
                return self.found.fail("accepted against its checksum", where)
            self.found.accepted += 1
            return
        if len(errors) != 1 or not (self._is_named(path, errors[0]) or _is_of_the_content(errors[0])):
            return self.found.fail("says no file", f"{said[-300:]!r} ({where})")
        self.found.refused += 1


def make_inputs(folder: Path, chosen: Sequence[Kind]) -> None:
    """Valid files of these kinds."""
    import numpy as np
    import pandas as pd
    from PIL import Image

    write_inputs(folder, users=24, items=40, each=20)
    table = pd.read_csv(folder / "ratings.csv")
    text = (folder / "ratings.csv").read_bytes()
    table.to_csv(folder / "ratings.tsv", sep="\t", header=False, index=False)
    lines = ["::".join(map(str, row)) for row in table.itertuples(index=False)]
    (folder / "ratings.dat").write_text("\n".join(lines) + "\n")
    table.to_json(folder / "ratings.jsonl", orient="records", lines=True)
    table.to_parquet(folder / "ratings.parquet")
    table.to_feather(folder / "ratings.feather")
    for suffix, pack in (("gz", gzip.compress), ("bz2", bz2.compress), ("xz", lzma.compress)):
        (folder / f"ratings.csv.{suffix}").write_bytes(pack(text))
    with zipfile.ZipFile(folder / "ratings.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("ml/ratings.csv", text)
        archive.writestr("ml/README.txt", "read me")
    for suffix, mode in ((".tar.gz", "w:gz"), (".tar", "w")):
        with tarfile.open(folder / f"ratings{suffix}", mode) as tar:  # type: ignore[call-overload]
            tar.add(folder / "ratings.csv", "ml/ratings.csv")
    pairs = pd.read_csv(folder / "pairs.csv").head(25)
    pairs.to_csv(folder / "pairs.csv", index=False)
    pairs.to_parquet(folder / "pairs.parquet")
    pairs.to_json(folder / "pairs.jsonl", orient="records", lines=True)
    (folder / "users.csv").write_text("user_id\n" + "\n".join(map(str, range(1, 20))) + "\n")
    (folder / "users.txt").write_text("\n".join(map(str, range(1, 20))) + "\n")
    titles = "item_id,title\n" + "\n".join(f'{n},"Title, the {n}th"' for n in range(1, 30)) + "\n"
    (folder / "titles.csv").write_text(titles)
    (folder / "titles.csv.gz").write_bytes(gzip.compress(titles.encode()))
    rng = np.random.default_rng(0)
    for part in ("train", "val"):
        for name, file in (("a", "0.JPEG"), ("b", "1.JPEG")):
            (folder / "jpegs" / part / name).mkdir(parents=True)
            image = Image.fromarray(rng.integers(0, 256, (24, 24, 3), np.uint8))
            image.save(folder / "jpegs" / part / name / file)
    made: set[str] = set()
    for kind in chosen:
        for word in (*kind.words, *(file.split("/")[0] for file in kind.files)):
            _make(word, folder, made)


def _steps() -> dict[str, tuple[str, ...]]:
    """By what a file or a folder of the inputs is made; a step comes behind those of what its words name."""
    train, vectors = (NCF, "train", "--data", "data", *SIZES), (NCF, "export-embeddings", "run", "--format")
    return {
        "data": (NCF, "prepare", "ratings.csv", "--out", "data", "--negatives", "20"),
        "run": (*train, "--out", "run", "--iterations", "30"),
        "half": (*train, *HALF),
        "towers": (NCF, "train", "--data", "data", "--out", "towers", "--recipe", "warm", "--factors", "8",
                   "--iterations", "30", "--layers", "8,8", "--batch-size", "256", "--threads", "1"),
        "network.packed": (NCF, "pack", "run", "--out", "network.packed"),
        "towers.packed": (NCF, "pack", "towers", "--out", "towers.packed"),
        **{f"vectors-{kind}": (*vectors, kind, "--out", f"vectors-{kind}") for kind in _FORMATS},
        "ranks.parquet": (NCF, "evaluate", "run", "--per-user", "ranks.parquet"),
        "study": (NCF, "study", "run", "--data", "data", "--out", "study", "--budgets", "1", "--splits", "0,1", *STUDY,
                  "--", *STUDIED),
        "images": (VISION, "prepare", "cifar10", "cifar-10-python.tar.gz", "--out", "images"),
        "image-run": (VISION, "train", "--data", "images", "--out", "image-run", *SMALL_VISION),
        "image.packed": (VISION, "pack", "image-run", "--out", "image.packed", "--images", "4"),
    }  # fmt: skip


def _make(name: str, folder: Path, made: set[str]) -> None:
    """Make a part of the inputs, if it is one, and what it is made of."""
    words = _steps().get(name)
    if words is None or name in made:
        return
    made.add(name)
    for word in words:
        _make(word, folder, made)
    if name == "half":
        return train_half(folder, words)
    with quiet():
        status = call(words)
    if status:
        raise click.ClickException(f"{' '.join(words)} ends with {status}")


@click.command()
@click.option("--inputs", default=100_000, show_default=True, help="For the readers.")
@click.option("--commands", default=1000, show_default=True, help="For whole commands.")
@click.option("--only", multiple=True, help="Only kinds whose name begins so.")
@click.option("--jobs", default=1, show_default=True, help="Kinds at a time.")
@click.option("--seed", default=0, show_default=True)
@click.option("--json", "as_json", is_flag=True)
def main(inputs: int, commands: int, only: tuple[str, ...], jobs: int, seed: int, as_json: bool) -> None:
    """Mutate, read, and print counts; end with an error where a reader fails."""
    import torch

    torch.set_num_threads(1)
    chosen = [kind for kind in kinds() if not only or kind.name.startswith(only)]
    folder, here = Path(mkdtemp()), Path.cwd()
    try:
        (folder / "inputs").mkdir()
        os.chdir(folder / "inputs")
        make_inputs(folder / "inputs", chosen)
        share, n_commands = inputs / sum(kind.weight for kind in chosen), -(-commands // len(chosen))
        rows = in_jobs(lambda kind: _row(kind, folder, math.ceil(share * kind.weight), n_commands, seed), chosen, jobs)
    finally:
        os.chdir(here)
        shutil.rmtree(folder, ignore_errors=True)
    if as_json:
        click.echo(document([{key: value for key, value in row.items() if key != "failures"} for row in rows]))
    wrong = [each for row in rows for each in row["failures"]]
    if wrong:
        raise click.ClickException(f"{len(wrong)} kinds of failure: " + "\n".join(wrong))


def _row(kind: Kind, folder: Path, inputs: int, commands: int, seed: int) -> dict[str, Any]:
    """What became of the files of one kind."""
    copy = Path(mkdtemp(dir=folder))
    shutil.copytree(folder / "inputs", copy, dirs_exist_ok=True)
    os.chdir(copy)
    start = time.monotonic()
    by_reader, by_command = Fuzzed(kind, folder / "inputs", copy, seed), Fuzzed(kind, folder / "inputs", copy, seed)
    with quiet():
        call([each.format(kind.files[0], folder="vectors-npy", network="image-run") for each in kind.words])
    shutil.rmtree(copy)  # which that call wrote into
    shutil.copytree(folder / "inputs", copy)
    os.chdir(copy)
    by_reader.read(0, inputs)
    for number in range(inputs, inputs + commands):
        by_command.command(number)
    os.chdir(folder)
    shutil.rmtree(copy)
    row: dict[str, Any] = {
        "files": kind.name,
        "seconds": time.monotonic() - start,
        **{
            who: {"n": found.n, "accepted": found.accepted, "refused": found.refused,
                  "failed": sum(found.kinds_of_failure.values())}
            for who, found in (("readers", by_reader.found), ("commands", by_command.found))
        },
        "failures": [f"{kind.name}: {each}" for each in (*by_reader.found.failures, *by_command.found.failures)],
    }  # fmt: skip
    click.echo(json.dumps({key: value for key, value in row.items() if key != "failures"}), err=True)
    for each in row["failures"]:
        click.echo(f"  {each}", err=True)
    return row


if __name__ == "__main__":
    main()
