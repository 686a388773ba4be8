"""The commands that `benchmarks.kills` kills, and the inputs that they need."""

import io
import os
import random
import shutil
import signal
import tarfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click

from benchmarks.children import NCF, VISION, begin, beside, call, quiet

PARTIAL = ".partial"
SIZES = ("--factors", "4", "--layers", "8,8,8,4", "--batch-size", "256", "--threads", "1")
SMALL_NCF = (*SIZES, "--epochs", "1", "--eval-every", "0.25")
SMALL_VISION = ("--batch-size", "16", "--iterations", "6", "--eval-every", "1", "--threads", "1")
STUDIED = ("--factors", "4", "--layers", "8,8,8,4", "--batch-size", "4096")
STUDY = ("--trials", "1", "--threads", "1", "--workers", "1")


@dataclass(frozen=True, kw_only=True)
class Case:
    """A command, in a folder of its own beside ``inputs``.

    Attributes:
        name: in the table.
        command: its words.
        output: what it writes.
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


def partials(folder: Path) -> list[Path]:
    """What is temporary in a folder, and in those in it."""
    return sorted(each for each in folder.rglob("*") if each.name.endswith(PARTIAL))
