"""Preparing ratings in pandas, Polars and DuckDB, as well as each of them goes: a program of its own.

    python -m benchmarks.prepare_rivals duckdb ratings.csv folder --memory 1GB

Users of 20 rows or more get numbers in the order of their first rows, and so do the items of their rows. Of a pair that
repeats the last row counts. Each user's last item in the order of time, then of the file, is held out and ranked among
negatives that NumPy draws, by the same code for all three. ``folder`` then holds ``train_items.npy`` and
``offsets.npy`` (the items of user u are ``train_items[offsets[u]:offsets[u + 1]]``), ``test_items.npy`` and
``test_negatives.npy``.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import click
import numpy as np
from numpy.typing import NDArray

MIN_RATINGS = 20


class Columns(NamedTuple):
    """Names of a csv's columns."""

    user: str = "userId"
    item: str = "movieId"
    time: str = "timestamp"


Pairs = tuple[NDArray[Any], NDArray[Any]]
"""Users and items by number, each user's rows together and in the order of time."""


def with_pandas(source: Path, columns: Columns, memory: str | None, folder: Path) -> Pairs:
    """Read, filter, number and sort in pandas."""
    import pandas as pd

    frame = pd.read_csv(source, usecols=list(columns))
    frame = frame[frame.groupby(columns.user)[columns.user].transform("size") >= MIN_RATINGS]
    frame["user"], frame["item"] = pd.factorize(frame[columns.user])[0], pd.factorize(frame[columns.item])[0]
    frame = frame.sort_values(["user", columns.time], kind="stable").drop_duplicates(["user", "item"], keep="last")
    return frame["user"].to_numpy(), frame["item"].to_numpy()


def with_polars(source: Path, columns: Columns, memory: str | None, folder: Path) -> Pairs:
    """The same in Polars."""
    import polars as pl

    frame = pl.scan_csv(source).select(columns).with_row_index("row").collect()
    often = frame.group_by(columns.user).len().filter(pl.col("len") >= MIN_RATINGS)
    frame = frame.join(often, on=columns.user, how="semi", maintain_order="left")
    for name, column in (("user", columns.user), ("item", columns.item)):
        ids = frame.select(column).unique(maintain_order=True).with_row_index(name)
        frame = frame.join(ids, on=column, maintain_order="left").drop(column)
    frame = frame.sort("user", columns.time, "row")
    pairs = pl.col("user").cast(pl.UInt64) * 2**32 + pl.col("item")  # one integer: half the time of `unique` of both
    frame = frame.filter(pairs.is_last_distinct())
    return frame["user"].to_numpy(), frame["item"].to_numpy()


def with_duckdb(source: Path, columns: Columns, memory: str | None, folder: Path) -> Pairs:
    """The same in DuckDB, which keeps to ``memory`` by writing to files in ``folder``."""
    import duckdb

    database = duckdb.connect(folder / "ratings.duckdb" if memory else ":memory:")
    if memory:
        database.execute(f"set memory_limit = '{memory}'")
    user, item, time = columns
    database.execute(f"create table ratings as select {user} u, {item} i, {time} t from read_csv(?)", [str(source)])
    database.execute(
        "create table users as select u, row_number() over (order by min(rowid)) - 1 number from ratings group by u "
        f"having count(*) >= {MIN_RATINGS}"
    )
    database.execute(
        "create table items as select i, row_number() over (order by min(ratings.rowid)) - 1 number "
        "from ratings join users using (u) group by i"
    )
    found = database.execute(
        "select users.number::integer user, items.number::integer item "
        "from ratings join users using (u) join items using (i) group by user, item "
        "order by user, max(t * (1::hugeint << 40) + ratings.rowid)"  # a struct of both takes twice as long
    ).fetchnumpy()
    return np.asarray(found["user"]), np.asarray(found["item"])


RIVALS: dict[str, Callable[[Path, Columns, str | None, Path], Pairs]] = {
    "pandas": with_pandas,
    "polars": with_polars,
    "duckdb": with_duckdb,
}


def save(users: NDArray[Any], items: NDArray[Any], n_negatives: int, folder: Path) -> None:
    """Hold each user's last item out, draw its negatives among the items that the user has not, and write it all."""
    counts = np.bincount(users)
    ends, n_items = np.cumsum(counts), int(items.max()) + 1
    is_last = np.zeros(len(items), bool)
    is_last[ends - 1] = True
    np.save(folder / "test_items.npy", items[is_last])
    np.save(folder / "train_items.npy", items[~is_last])
    np.save(folder / "offsets.npy", np.append(0, np.cumsum(counts - 1)))
    rng, is_free = np.random.default_rng(0), np.ones(n_items, bool)
    shape = (len(counts), n_negatives)
    negatives = np.lib.format.open_memmap(folder / "test_negatives.npy", mode="w+", dtype=np.int32, shape=shape)
    for user, end in enumerate(ends):
        own = items[end - counts[user] : end]
        is_free[own] = False
        negatives[user] = rng.choice(np.flatnonzero(is_free), n_negatives, replace=False)
        is_free[own] = True


@click.command()
@click.argument("rival", type=click.Choice(list(RIVALS)))
@click.argument("source", type=click.Path(path_type=Path, exists=True))
@click.argument("folder", type=click.Path(path_type=Path))
@click.option("--columns", nargs=3, default=Columns(), show_default=True, help="Of users, items and times.")
@click.option("--negatives", default=999, show_default=True, help="Of each user.")
@click.option("--memory", help="What DuckDB may take.")
def main(
    rival: str, source: Path, folder: Path, columns: tuple[str, str, str], negatives: int, memory: str | None
) -> None:
    """Prepare SOURCE, a csv, into a new FOLDER."""
    folder.mkdir(parents=True)
    save(*RIVALS[rival](source, Columns(*columns), memory, folder), negatives, folder)


if __name__ == "__main__":
    main()
