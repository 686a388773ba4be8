"""Training by several processes: what it reaches, what they send each other, and how both grow with the data.

    python -m benchmarks.scaling quality --data ml-1m    HR@10 by 1, 2 and 3 processes of one global batch
    python -m benchmarks.scaling bytes                   bytes that a process sends in a step
    python -m benchmarks.scaling sizes                   1, 4 and 16 times the data, by 1 and 2 processes

Each row is a training of its own under torchrun. Bytes are those of the process's TCP connections as the operating
system counts them (Linux). Seconds are processor time of a process, which other work on the machine lengthens less than
the time of a clock.
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
from itertools import product
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import click

from benchmarks.provenance import document

Row = dict[str, Any]

_WARM_UP = 10  # steps that are not counted
_STEPS = 30
_BASE = {"users": 8_000, "items": 2_000, "interactions": 200_000}


def tcp_bytes() -> int:
    """Bytes that this process's TCP connections have sent and that have arrived."""
    total = 0
    for name in os.listdir("/proc/self/fd"):
        with contextlib.suppress(OSError), socket.socket(fileno=os.dup(int(name))) as connection:
            if connection.type == socket.SOCK_STREAM and connection.family != socket.AF_UNIX:
                counters = connection.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 136)
                total += int.from_bytes(counters[120:128], sys.byteorder)  # tcpi_bytes_acked
    return total


def train_as_process(settings: Row, folder: Path) -> None:
    """What each process of a training does; it writes ``folder/N.json``."""
    from data_prep.ratings.any_source import load_data
    from ncf_ppt.recipes import recipe
    from ncf_ppt.training import fit_steps
    from ppt_core.distributed import join_world
    from ppt_core.runs.run import Run

    chosen = recipe("paper").with_settings(**settings["recipe"])
    training = replace(chosen.training, eval_every=0)
    marks: list[tuple[int, float]] = []
    with join_world("cpu") as world:
        steps = fit_steps(load_data(settings["data"]), folder / "run", chosen.network, training, world=world)
        for progress in steps:
            if progress.iteration in (_WARM_UP, _WARM_UP + _STEPS):
                marks.append((tcp_bytes(), time.process_time()))
        reached = Run.open(folder / "run").metrics()[-1]
        sent, seconds = ((last - first) / _STEPS for first, last in zip(*marks, strict=True))
        row = {
            "bytes_per_step": sent,
            "processor_seconds_per_step": seconds,
            "peak_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e6,
            **{key: reached[key] for key in ("hit_ratio", "ndcg", "loss", "iterations")},
        }
        (folder / f"{world.rank}.json").write_text(json.dumps(row))


def trained(data: Path, n_processes: int, **recipe: Any) -> Row:
    """Train by so many processes; what they measured, lists of one value for each."""
    with TemporaryDirectory() as temporary:
        settings = json.dumps({"data": str(data), "recipe": recipe})
        command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(n_processes)]
        done = subprocess.run(
            [*command, "-m", "benchmarks.scaling", "process", settings, temporary], stderr=subprocess.PIPE, text=True
        )
        if done.returncode:
            raise click.ClickException(done.stderr)
        ranks = [json.loads((Path(temporary) / f"{rank}.json").read_text()) for rank in range(n_processes)]
    lists = {key: [rank[key] for rank in ranks] for key in ranks[0] if key.endswith(("_step", "_mb"))}
    return {"processes": n_processes, **recipe, **ranks[0], **lists}


def synthetic(folder: Path, scale: int) -> tuple[Path, Row]:
    """Prepare ``scale`` times the users, items and interactions."""
    counts = {name: n * scale for name, n in _BASE.items()}
    path = folder / str(scale)
    options = [text for name, n in counts.items() for text in (f"--{name}", str(n))]
    command = [sys.executable, "-m", "ppt_commands", "prepare", "synthetic", *options, "--negatives", "99"]
    start = time.perf_counter()
    subprocess.run([*command, "--out", str(path)], check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    return path, {"scale": scale, **counts, "prepare_seconds": time.perf_counter() - start}


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
@click.option("--json", "as_json", is_flag=True)
def quality(data: Path, batch_size: int, epochs: float, as_json: bool) -> None:
    """Full precision, with and without BatchNorm, whose statistics are each process's own."""
    recipe = {"split": 1.0, "epochs": epochs, "batch_size": batch_size}
    show([trained(data, n, batch_norm=norm, **recipe) for norm in (False, True) for n in (1, 2, 3)], as_json)


@main.command(name="bytes")
@click.option("--json", "as_json", is_flag=True)
def bytes_of_steps(as_json: bool) -> None:
    """Rows of the tables against whole tables."""
    with TemporaryDirectory() as temporary:
        data, about = synthetic(Path(temporary), 4)
        rows = [
            {**about, **trained(data, n, optimizer=optimizer, iterations=_WARM_UP + _STEPS)}
            for n, optimizer in product((2, 3), ("row-adam", "adam"))
        ]
    show(rows, as_json)


@main.command()
@click.option("--json", "as_json", is_flag=True)
def sizes(as_json: bool) -> None:
    """The same number of steps on 1, 4 and 16 times the data."""
    rows = []
    with TemporaryDirectory() as temporary:
        for scale in (1, 4, 16):
            data, about = synthetic(Path(temporary), scale)
            rows += [{**about, **trained(data, n, iterations=_WARM_UP + _STEPS)} for n in (1, 2)]
    show(rows, as_json)


def show(rows: list[Row], as_json: bool) -> None:
    """Print the rows."""
    if as_json:
        return click.echo(document(rows))
    for row in rows:
        click.echo("  ".join(f"{key} {value}" for key, value in row.items()))


if __name__ == "__main__":
    main()
