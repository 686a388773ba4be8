"""Training samples and their negatives drawn in a second, at the size of a prepared set or of MovieLens-1M.

    python -m benchmarks.sampling --data ml-1m

One row draws shuffled samples with this project's sampler on one thread and on all, the other with vectorized NumPy:
drawn at random, and drawn again where the item is a positive. The rows take turns; medians of the turns.
"""

import os

from benchmarks.provenance import document
from ppt_core.environment import ENVIRONMENT

os.environ.update({**ENVIRONMENT, **os.environ})

import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click
import numba

from benchmarks.train_step import vectorized_batches
from data_prep.ratings.interactions import PreparedData
from data_prep.ratings.prepare import prepare
from data_prep.ratings.sampling import Sampler
from data_prep.ratings.synthetic import synthesize


@click.command()
@click.option("--data", "folder", type=click.Path(path_type=Path), help="Prepared folder; by default synthetic data.")
@click.option("--samples", default=1 << 20, show_default=True, help="Samples in a turn; four of five are negatives.")
@click.option("--turns", default=9, show_default=True)
@click.option("--json", "as_json", is_flag=True)
def main(folder: Path | None, samples: int, turns: int, as_json: bool) -> None:
    """Measure and print the table."""
    if folder is None:
        data = prepare(synthesize(6_040, 3_706, 1_000_209, seed=0), n_negatives=1, source={"name": "synthetic"})
    else:
        data = PreparedData.load(folder)
    sampler = Sampler(interactions=data.train)
    samples = min(samples, sampler.samples_per_epoch)
    plain = vectorized_batches(data, samples)
    threads = sorted({1, numba.config.NUMBA_NUM_THREADS})
    rows: dict[tuple[str, int], Callable[[], Any]] = {("numpy", 1): lambda: next(plain)}
    rows |= {("ppt", n): lambda: sampler.draw(0, 0, samples) for n in threads}
    seconds: dict[tuple[str, int], list[float]] = {row: [] for row in rows}
    for turn in range(turns + 1):
        for row, draw in rows.items():
            numba.set_num_threads(row[1])
            start = time.perf_counter()
            draw()
            if turn:  # the first compiles
                seconds[row].append(time.perf_counter() - start)
    results: list[dict[str, Any]] = [
        {"row": name, "threads": n, "negatives_per_second": 0.8 * samples / statistics.median(seconds[name, n])}
        for name, n in rows
    ]
    if as_json:
        return click.echo(document(results))
    click.echo("| row | threads | M negatives/s |\n|---|---|---|")
    for result in results:
        click.echo(f"| {result['row']} | {result['threads']} | {result['negatives_per_second'] / 1e6:.1f} |")


if __name__ == "__main__":
    main()
