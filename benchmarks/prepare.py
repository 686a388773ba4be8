"""Preparing a ratings.csv of MovieLens-20M's size: `ppt-ncf prepare` against pandas, Polars and DuckDB.

    python -m benchmarks.prepare

All read the same synthetic file, hold out each user's last item, draw 999 strict negatives and save arrays; each runs
in a process of its own, whose wall time and peak memory are measured from outside. The rivals are those of
`benchmarks.prepare_rivals` and, as a beginner writes it, pandas with `setdiff1d` for each user.
"""

import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import click

from benchmarks.provenance import document

PLAIN = """
import sys
import numpy as np, pandas as pd
source, out = sys.argv[1:]
frame = pd.read_csv(source)
frame = frame[frame.groupby("userId")["userId"].transform("size") >= 20]
frame["user"] = pd.factorize(frame["userId"])[0]
frame["item"] = pd.factorize(frame["movieId"])[0]
frame = frame.sort_values(["user", "timestamp"], kind="stable").drop_duplicates(["user", "item"], keep="last")
n_items = frame["item"].max() + 1
last = ~frame.duplicated("user", keep="last")
np.save(out + "-test.npy", frame.loc[last, "item"].to_numpy())
np.save(out + "-train.npy", frame.loc[~last, ["user", "item"]].to_numpy())
rng, every = np.random.default_rng(0), np.arange(n_items)
negatives = [
    rng.choice(np.setdiff1d(every, items.to_numpy()), 999, replace=False) for _, items in frame.groupby("user")["item"]
]
np.save(out + "-negatives.npy", np.stack(negatives))
"""
RIVALS = {"pandas": "pandas and NumPy, boolean mask", "polars": "Polars and NumPy", "duckdb": "DuckDB and NumPy"}
MEASURED = """
import resource, subprocess, sys
subprocess.run(sys.argv[1:], check=True, stdout=subprocess.DEVNULL)
print(resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 1000)
"""


def write_csv(path: Path, scale: float) -> int:
    """Write synthetic ratings in MovieLens-20M's layout; return the number of rows."""
    import numpy as np
    import pyarrow as pa
    import pyarrow.csv

    from data_prep.ratings.synthetic import synthesize

    sizes = (round(138_493 * scale), round(26_744 * max(scale, 0.2)), round(20_000_263 * scale))
    ratings = synthesize(*sizes, seed=0)
    stars = np.random.default_rng(0).integers(1, 11, len(ratings)) / 2
    columns = (ratings.user_ids[ratings.users], ratings.item_ids[ratings.items], stars, ratings.times)
    names = ("userId", "movieId", "rating", "timestamp")
    pyarrow.csv.write_csv(pa.table(dict(zip(names, columns, strict=True))), path)
    return len(ratings)


def measure(command: list[str]) -> tuple[float, float]:
    """Return seconds and peak memory in MB of a command."""
    start = time.perf_counter()
    done = subprocess.run([sys.executable, "-c", MEASURED, *command], check=True, capture_output=True, text=True)
    return time.perf_counter() - start, float(done.stdout)


@click.command()
@click.option("--scale", default=1.0, show_default=True, help="Part of MovieLens-20M's size.")
@click.option("--repeats", default=1, show_default=True, help="Turns; the medians count.")
@click.option("--beginner/--no-beginner", default=True, show_default=True, help="The row of setdiff1d, of 17 minutes.")
@click.option("--json", "as_json", is_flag=True)
def main(scale: float, repeats: int, beginner: bool, as_json: bool) -> None:
    """Measure and print the rows."""
    beginners = {"pandas and NumPy, setdiff1d": [sys.executable, "-c", PLAIN]} if beginner else {}
    rivals = {title: [sys.executable, "-m", "benchmarks.prepare_rivals", name] for name, title in RIVALS.items()}
    programs = {"ppt-ncf prepare": [sys.executable, "-m", "ppt_commands", "prepare"], **beginners, **rivals}
    with tempfile.TemporaryDirectory() as name:
        source, out = Path(name) / "ratings.csv", Path(name) / "prepared"
        n_rows = write_csv(source, scale)
        taken: dict[str, list[tuple[float, float]]] = {row: [] for row in programs}
        for _ in range(repeats):
            for row, program in programs.items():
                place = ["--out", str(out)] if row.startswith("ppt") else [str(out)]
                taken[row].append(measure([*program, str(source), *place]))
                shutil.rmtree(out, ignore_errors=True)
    medians = {row: statistics.median(seconds for seconds, _ in pairs) for row, pairs in taken.items()}
    results: list[dict[str, Any]] = [
        {
            "row": row,
            "rows": n_rows,
            "seconds": medians[row],
            "ratio": medians[row] / medians["ppt-ncf prepare"],
            "peak MB": max(peak for _, peak in pairs),
        }
        for row, pairs in taken.items()
    ]
    if as_json:
        return click.echo(document(results))
    for result in results:
        times = f"{result['seconds']:.1f} s  ratio {result['ratio']:.1f}"
        click.echo(f"{result['row']:32} {n_rows:,} rows  {times}  {result['peak MB']:,.0f} MB")


if __name__ == "__main__":
    main()
