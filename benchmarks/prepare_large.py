"""Preparing a log that is larger than memory: seconds of `ppt-ncf prepare --memory`, its peak and its disk.

    python -m benchmarks.prepare_large

The log is a csv of clicks in the order of time, so that each user's rows are spread over all of it, with repeated pairs
and users of too few rows. Peaks are those that the operating system keeps of the process. ``limit`` also forbids the
process more private memory than it was told to take (RLIMIT_DATA). Files of the smaller size are compared byte for byte
with what is prepared in memory. DuckDB (`benchmarks.prepare_rivals`) prepares the smaller log, too, with as much memory
by its own setting, which nobody enforces.
"""

import os
import resource
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

import click

from benchmarks.provenance import document

CHUNK_ROWS = 5_000_000
N_QUANTILES = 1 << 24
ROWS_A_USER, USERS_AN_ITEM = 144, 5.2  # of MovieLens-20M


def write_log(path: Path, n_rows: int) -> None:
    """Write a csv of ``n_rows`` clicks, a chunk at a time: users of lognormal activity, items by Zipf's law."""
    import numpy as np
    import pyarrow as pa
    import pyarrow.csv

    rng = np.random.default_rng(0)
    n_users = n_rows // ROWS_A_USER
    n_items = max(int(n_users / USERS_AN_ITEM), 2_000)
    users = quantiles(rng.permutation(n_users) + 1, rng.lognormal(sigma=1.2, size=n_users))
    items = quantiles(rng.permutation(n_items) + 1, (np.arange(n_items) + 1 + n_items / 100) ** -1.1)
    schema = pa.schema({"user_id": pa.int32(), "item_id": pa.int32(), "timestamp": pa.int64()})
    options = pyarrow.csv.WriteOptions(quoting_header="none")
    with pyarrow.csv.CSVWriter(path, schema, write_options=options) as writer:
        for first in range(0, n_rows, CHUNK_ROWS):
            n = min(CHUNK_ROWS, n_rows - first)
            drawn = [table[rng.integers(len(table), size=n, dtype=np.int32)] for table in (users, items)]
            times = 1_600_000_000 + (first + np.arange(n)) // 4  # four clicks a second
            writer.write_table(pa.table([*drawn, times], schema=schema))


def quantiles(ids: Any, weights: Any) -> Any:
    """A table of ids, int32, in which each has its share of places: an entry drawn at random is an id by its weight."""
    import numpy as np

    sums = np.cumsum(weights)
    places = (np.arange(N_QUANTILES) + 0.5) * (sums[-1] / N_QUANTILES)
    return ids[np.searchsorted(sums, places)].astype(np.int32)


def log_of(n_rows: int, folder: Path) -> Path:
    """The log of ``n_rows`` in a folder, written unless it is there."""
    path = folder / f"log-{n_rows}.csv"
    if not path.exists():
        write_log(path.with_suffix(".partial"), n_rows)
        path.with_suffix(".partial").rename(path)
    return path


def disk_bytes(folder: Path) -> int:
    """What lies in a folder now; files may vanish meanwhile."""
    total = 0
    for place, _, names in os.walk(folder):
        for name in names:
            try:
                total += (Path(place) / name).stat().st_size
            except FileNotFoundError:
                continue
    return total


def measure(program: list[str], out: Path, *, limit: int | None = None) -> dict[str, Any]:
    """Prepare a set by a module: seconds, peak memory and the most that lay beside the source in MB."""
    command = [sys.executable, "-m", *program]
    most, ended = [0], threading.Event()

    def watch() -> None:
        while not ended.wait(1.0):
            most[0] = max(most[0], disk_bytes(out.parent))

    def limited() -> None:
        if limit is not None:
            resource.setrlimit(resource.RLIMIT_DATA, (limit, limit))

    watcher = threading.Thread(target=watch)
    watcher.start()
    start = time.perf_counter()
    try:
        with subprocess.Popen(command, stdout=subprocess.DEVNULL, preexec_fn=limited) as child:
            _, status, usage = os.wait4(child.pid, 0)
            child.returncode = os.waitstatus_to_exitcode(status)
        seconds = time.perf_counter() - start
    finally:
        ended.set()
        watcher.join()
    if child.returncode:
        raise click.ClickException(f"{' '.join(command)} ended with exit code {child.returncode}")
    return {
        "seconds": seconds,
        "peak MB": usage.ru_maxrss * 1024 / 1e6,
        "disk MB": max(most[0], disk_bytes(out.parent)) / 1e6,
    }


def same_bytes(one: Path, other: Path) -> bool:
    """Whether two folders hold the same files: by their manifests, which name the SHA-256 of each."""
    return (one / "manifest.json").read_bytes() == (other / "manifest.json").read_bytes()


@click.command()
@click.option("--rows", default=200_000_000, show_default=True, help="Of the large log.")
@click.option("--small", default=20_000_000, show_default=True, help="Rows of the log that is prepared in memory, too.")
@click.option("--memory", default="4GB", show_default=True, help="What the large log is prepared within.")
@click.option("--small-memory", default="1GB", show_default=True, help="What the small log is prepared within.")
@click.option("--folder", type=click.Path(path_type=Path), help="Where logs are kept for a next time; else nowhere.")
@click.option("--duckdb/--no-duckdb", "with_duckdb", default=True, show_default=True, help="Whether DuckDB takes part.")
@click.option("--negatives", default=999, show_default=True, help="Of each user.")
@click.option("--json", "as_json", is_flag=True)
def main(
    rows: int,
    small: int,
    memory: str,
    small_memory: str,
    folder: Path | None,
    with_duckdb: bool,
    negatives: int,
    as_json: bool,
) -> None:
    """Measure and print the rows."""
    from data_prep.ratings.memory_limit import bytes_of

    results: list[dict[str, Any]] = []

    def note(row: str, program: list[str], source: Path, out: Path, n_rows: int, limit: int | None = None) -> None:
        found = measure([*program, "--negatives", str(negatives)], out, limit=limit)
        results.append({"row": row, "rows": n_rows, "csv MB": source.stat().st_size / 1e6, **found})
        if not as_json:
            click.echo(results[-1])

    def ours(source: Path, out: Path, n_rows: int, memory: str | None = None) -> None:
        options, limit = (["--memory", memory], bytes_of(memory)) if memory else ([], None)
        program = ["ppt_commands", "prepare", str(source), "--out", str(out), *options]
        note(" ".join(["ppt-ncf prepare", *options]), program, source, out, n_rows, limit)

    def duckdb(source: Path, out: Path, n_rows: int, memory: str) -> None:
        columns = ["--columns", "user_id", "item_id", "timestamp"]
        program = ["benchmarks.prepare_rivals", "duckdb", str(source), str(out), *columns, "--memory", memory]
        note(f"DuckDB and NumPy, memory_limit {memory}", program, source, out, n_rows)

    with tempfile.TemporaryDirectory(dir=folder) as name:
        outputs, logs = Path(name) / "outputs", folder or Path(name)
        if small:
            source = log_of(small, logs)
            ours(source, outputs / "whole" / "set", small)
            ours(source, outputs / "parts" / "set", small, small_memory)
            if not same_bytes(outputs / "whole" / "set", outputs / "parts" / "set"):
                raise click.ClickException("the two sets differ")
            shutil.rmtree(outputs)
            if with_duckdb:
                duckdb(source, outputs / "duckdb" / "set", small, small_memory)
                shutil.rmtree(outputs)
        if rows:
            ours(log_of(rows, logs), outputs / "large" / "set", rows, memory)
    if as_json:
        click.echo(document(results))


if __name__ == "__main__":
    main()
