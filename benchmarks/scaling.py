"""Training by several processes: what it reaches, what they send each other, and how both grow with the data.

    python -m benchmarks.scaling quality --data ml-1m    HR@10 by 1, 2 and 3 processes of one global batch
    python -m benchmarks.scaling bytes                   bytes that a process sends in a step
    python -m benchmarks.scaling sizes                   1, 4 and 16 times the data, by 1 and 2 processes
    python -m benchmarks.scaling shards                  tables whole and dealt out, by 2 and 3 processes

Trainings run under torchrun. Bytes are those of a process's TCP connections, counted by the operating system (Linux).
Seconds are processor time of a process, which other work on the machine lengthens less than the time of a clock.
"""

import contextlib
import json
import os
import resource
import socket
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import click

from benchmarks.provenance import document

Row = dict[str, Any]

_WARM_UP = 10  # steps that are not counted
_STEPS = 30
_ITERATIONS = _WARM_UP + _STEPS + 1  # the last one is evaluated and saved before it is told
_BASE = {"users": 2_000, "items": 500, "interactions": 50_000}
_LARGE = {"users": 200_000, "items": 50_000, "interactions": 1_000_000}  # 250,000 rows of 192 numbers


def tcp_bytes() -> int:
    """Bytes that this process's TCP connections have sent and that have arrived."""
    total = 0
    for name in os.listdir("/proc/self/fd"):
        with contextlib.suppress(OSError), socket.socket(fileno=os.dup(int(name))) as connection:
            if connection.type == socket.SOCK_STREAM and connection.family != socket.AF_UNIX:
                counters = connection.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 136)
                total += int.from_bytes(counters[120:128], sys.byteorder)  # tcpi_bytes_acked
    return total


def train_as_process(trainings: list[Row], folder: Path) -> None:
    """What each process does, one training after the other; it writes ``folder/N.json``, a list of their rows."""
    from ppt_core.distributed import join_world

    with join_world("cpu") as world:
        rows = [_train(each, folder / str(number), world) for number, each in enumerate(trainings)]
    (folder / f"{world.rank}.json").write_text(json.dumps(rows))


def _train(settings: Row, path: Path, world: Any) -> Row:
    from data_prep.ratings.any_source import load_data
    from ncf_ppt.recipes import recipe
    from ncf_ppt.training import fit_steps
    from ppt_core.runs.run import Run

    chosen = recipe("paper").with_settings(**settings["recipe"])
    training = replace(chosen.training, eval_every=0)
    marks: list[tuple[int, float]] = []
    steps_peak = 0.0
    how = {"world": world, "shard_embeddings": settings.get("shard_embeddings", False)}
    for progress in fit_steps(load_data(settings["data"]), path, chosen.network, training, **how):
        if progress.iteration in (_WARM_UP, _WARM_UP + _STEPS):
            marks.append((tcp_bytes(), time.process_time()))
            steps_peak = _peak_mb()
    sent, seconds = ((last - first) / _STEPS for first, last in zip(*marks, strict=True))
    reached = Run.open(path).metrics()[-1]
    return {
        "bytes_per_step": sent,
        "processor_seconds_per_step": seconds,
        "steps_peak_mb": steps_peak,
        "peak_mb": _peak_mb(),
        **{key: reached[key] for key in ("hit_ratio", "ndcg", "loss", "iterations")},
    }


def _peak_mb() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e6


def trained(n_processes: int, trainings: list[Row]) -> list[Row]:
    """Train by so many processes; what they measured, lists of one value for each."""
    with TemporaryDirectory() as temporary:
        command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(n_processes)]
        command += ["-m", "benchmarks.scaling", "process", json.dumps(trainings), temporary]
        done = subprocess.run(command, stderr=subprocess.PIPE, text=True)
        if done.returncode:
            raise click.ClickException(done.stderr)
        ranks = [json.loads((Path(temporary) / f"{rank}.json").read_text()) for rank in range(n_processes)]
    rows = []
    for settings, *found in zip(trainings, *ranks, strict=True):
        lists = {key: [row[key] for row in found] for key in found[0] if key.endswith(("_step", "_mb"))}
        said = {key: value for key, value in settings.items() if key == "shard_embeddings"}
        rows.append({"processes": n_processes, **said, **settings["recipe"], **found[0], **lists})
    return rows


def synthetic(folder: Path, scale: int) -> tuple[Path, Row]:
    """Prepare ``scale`` times the users, items and interactions."""
    path, about = prepared(folder / str(scale), {name: n * scale for name, n in _BASE.items()}, negatives=99)
    return path, {"scale": scale, **about}


def prepared(path: Path, counts: dict[str, int], *, negatives: int) -> tuple[Path, Row]:
    """Prepare synthetic data."""
    options = [text for name, n in counts.items() for text in (f"--{name}", str(n))]
    options += ["--negatives", str(negatives), "--min-ratings", "2"]
    command = [sys.executable, "-m", "ppt_commands", "prepare", "synthetic", *options]
    start = time.perf_counter()
    subprocess.run([*command, "--out", str(path)], check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    return path, {**counts, "prepare_seconds": time.perf_counter() - start}


@click.group()
def main() -> None:
    """Measure a part."""


@main.command()
@click.argument("settings")
@click.argument("folder", type=click.Path(path_type=Path))
def process(settings: str, folder: Path) -> None:
    """Train as one of the processes that torchrun started."""
    train_as_process(json.loads(settings), folder)


@main.command()
@click.option("--data", type=click.Path(path_type=Path), required=True)
@click.option("--batch-size", default=2048, show_default=True)
@click.option("--epochs", default=1.0, show_default=True)
@click.option("--batch-norm/--no-batch-norm", default=True, show_default=True)
@click.option("--json", "as_json", is_flag=True)
def quality(data: Path, as_json: bool, **recipe: Any) -> None:
    """Full precision by 1, 2 and 3 processes; statistics of BatchNorm are each process's own."""
    settings = {"data": str(data), "recipe": {"split": 1.0, **recipe}}
    show([row for n in (1, 2, 3) for row in trained(n, [settings])], as_json)


@main.command(name="bytes")
@click.option("--json", "as_json", is_flag=True)
def bytes_of_steps(as_json: bool) -> None:
    """Rows of the tables against whole tables."""
    with TemporaryDirectory() as temporary:
        data, about = synthetic(Path(temporary), 16)
        trainings = [
            {"data": str(data), "recipe": {"optimizer": optimizer, "iterations": _ITERATIONS}}
            for optimizer in ("row-adam", "adam")
        ]
        rows = [{**about, **row} for n in (2, 3) for row in trained(n, trainings)]
    show(rows, as_json)


@main.command()
@click.option("--json", "as_json", is_flag=True)
def sizes(as_json: bool) -> None:
    """The same number of steps on 1, 4 and 16 times the data."""
    with TemporaryDirectory() as temporary:
        prepared = [
            synthetic(Path(temporary), scale) for scale in (1, 4, 16)
        ]  # in this order, for the sake of the peaks
        trainings = [{"data": str(data), "recipe": {"iterations": _ITERATIONS}} for data, _ in prepared]
        rows = [
            {**about, **row} for n in (1, 2) for (_, about), row in zip(prepared, trained(n, trainings), strict=True)
        ]
    show(rows, as_json)


@main.command()
@click.option("--json", "as_json", is_flag=True)
def shards(as_json: bool) -> None:
    """Tables of 192 MB, 580 MB with what Adam keeps: whole in each process, and dealt out."""
    rows = []
    with TemporaryDirectory() as temporary:
        data, about = prepared(Path(temporary) / "data", _LARGE, negatives=9)
        for n, is_dealt in ((2, False), (2, True), (3, True)):
            settings = {"data": str(data), "recipe": {"iterations": _ITERATIONS}, "shard_embeddings": is_dealt}
            rows += [{**about, **row} for row in trained(n, [settings])]
    show(rows, as_json)


def show(rows: list[Row], as_json: bool) -> None:
    """Print the rows."""
    if as_json:
        return click.echo(document(rows))
    for row in rows:
        click.echo("  ".join(f"{key} {value}" for key, value in row.items()))


if __name__ == "__main__":
    main()
