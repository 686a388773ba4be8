"""Training beside other work: how much of its fair share of the cores a training gets from them.

    python -m benchmarks.contention --data ml-100k

0, 1, 2 and 4 processes that only count run beside a training, which has a process of its own: on one thread, on all,
and on as many as it chooses while it runs. Beside K neighbours on C cores, the fair share of a training with C threads
is C / (C + K) of the fastest one alone; the last column is samples a second divided by that. Threads do not spin where
there are more neighbours than cores, as on a machine that has been so crowded for a minute. Rows take turns; a figure
is the median over the turns.
"""

import json
import math
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import click

from benchmarks.provenance import document
from ppt_core.environment import ENVIRONMENT, set_environment
from ppt_core.threads import set_threads, usable_cores

_BUSY = "n = 0\nwhile True: n += 1"
_ROOT = Path(__file__).parent.parent
_TRAIN = "import json, sys; from benchmarks.contention import train; print(train(*json.loads(sys.argv[1])))"


def train(
    folder: str | None, threads: int | None, warm_up: float, seconds: float, batch_size: int, split: float
) -> float:
    """Train in this process, which has imported nothing yet, and return the samples of a second."""
    set_environment()
    from data_prep.ratings.interactions import PreparedData
    from data_prep.ratings.prepare import prepare
    from data_prep.ratings.synthetic import synthesize
    from ncf_ppt.model import NCFConfig
    from ncf_ppt.training import fit_steps
    from ncf_ppt.training_config import NCFTrainingConfig

    if threads is not None:
        set_threads(threads)
    if folder is None:
        data = prepare(synthesize(943, 1_682, 100_000, seed=0), n_negatives=1, source={"name": "synthetic"})
    else:
        data = PreparedData.load(Path(folder))
    config = NCFTrainingConfig(epochs=1e6, batch_size=batch_size, split=split, eval_every=0)
    with tempfile.TemporaryDirectory() as out:
        steps = fit_steps(data, Path(out) / "run", NCFConfig(), config, checkpoint_seconds=math.inf)
        start = time.perf_counter()
        while time.perf_counter() - start < warm_up:
            next(steps)
        start, done = time.perf_counter(), 0
        while time.perf_counter() - start < seconds:
            next(steps)
            done += 1
        return done * batch_size / (time.perf_counter() - start)


@contextmanager
def busy_loops(count: int) -> Iterator[None]:
    """Keep ``count`` processes counting in the block."""
    processes = [subprocess.Popen([sys.executable, "-c", _BUSY]) for _ in range(count)]
    try:
        yield
    finally:
        for process in processes:
            process.kill()
            process.wait()


def samples_per_second(arguments: list[Any], neighbours: int) -> float:
    """Train in a process of its own beside ``neighbours`` busy loops."""
    spins = "0" if neighbours > usable_cores() else ENVIRONMENT["GOMP_SPINCOUNT"]
    with busy_loops(neighbours):
        code = [sys.executable, "-c", _TRAIN, json.dumps(arguments)]
        environment = {name: value for name, value in os.environ.items() if name != "OMP_NUM_THREADS"}
        environment |= {"GOMP_SPINCOUNT": spins}
        done = subprocess.run(code, cwd=_ROOT, env=environment, capture_output=True, text=True, check=False)
    if done.returncode:
        raise click.ClickException(done.stderr.strip().splitlines()[-1])
    return float(done.stdout)


@click.command()
@click.option("--data", "folder", type=click.Path(), help="Prepared folder; by default synthetic, of ml-100k's size.")
@click.option("--neighbours", default="0,1,2,4", show_default=True, help="Busy loops beside the training.")
@click.option("--turns", default=5, show_default=True)
@click.option("--seconds", default=12.0, show_default=True, help="Of a training, after as many to warm up.")
@click.option("--batch-size", default=2048, show_default=True)
@click.option("--split", default=1.0, show_default=True, help="1: at full precision; 0: at low precision.")
@click.option("--json", "as_json", is_flag=True)
def main(
    folder: str | None, neighbours: str, turns: int, seconds: float, batch_size: int, split: float, as_json: bool
) -> None:
    """Measure and print the table."""
    cores = usable_cores()
    threads = {"1 thread": 1, f"{cores} threads": cores, "auto": None}
    cells = [(int(count), name) for count in neighbours.split(",") for name in threads]
    found: dict[tuple[int, str], list[float]] = {cell: [] for cell in cells}
    for _ in range(turns):
        for count, name in cells:
            arguments = [folder and os.path.abspath(folder), threads[name], seconds, seconds, batch_size, split]
            found[count, name].append(samples_per_second(arguments, count))
    medians = {cell: statistics.median(values) for cell, values in found.items()}
    alone = max((medians[cell] for cell in cells if cell[0] == 0), default=None)
    results = [
        {
            "neighbours": count,
            "threads": name,
            "samples_per_second": medians[count, name],
            "of_fair_share": None if alone is None else medians[count, name] / alone * (cores + count) / cores,
            "lowest": min(found[count, name]),
            "highest": max(found[count, name]),
        }
        for count, name in cells
    ]
    if as_json:
        return click.echo(document(results))
    click.echo("| busy neighbours | threads | samples/s | of the fair share |\n|---|---|---|---|")
    for row in results:
        share = "" if row["of_fair_share"] is None else f"{row['of_fair_share']:.2f}"
        click.echo(f"| {row['neighbours']} | {row['threads']} | {row['samples_per_second']:,.0f} | {share} |")


if __name__ == "__main__":
    main()
