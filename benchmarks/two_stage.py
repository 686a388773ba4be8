"""The top 10 of every user at MovieLens-20M's shape: all items by the packed network, or candidates first.

    python -m benchmarks.two_stage --turns 5
    python -m benchmarks.two_stage --packed network.packed --data DIR

138,493 users, 26,744 items, factors 64, layers 256,256,128,64, BatchNorm, random weights. How well vectors find what
the network likes is a matter of training, so it is set: the MLP's part of a logit varies by ``--mlp-share`` of what the
product of the vectors does. At .1 the best 10 by the product hold about what they hold after a start from ALS. Random
vectors have no directions that 1-bit codes could follow; with ``--packed`` a trained network is measured instead. The
number of candidates is chosen for ``--recall`` of the exact lists and measured on other users, as ``--candidates auto``
does. Rows take turns on the same users; a figure is the median over the turns, a ratio the median of ratios in a turn:

  packed        scores all items
  product       finds the best 10 by the product of vectors in 32 bits, and scores nothing
  codes         the same by 1-bit codes of the vectors
  two stages    finds candidates by the cheaper of the two, and scores them
"""

import os

from ppt_core.environment import ENVIRONMENT

os.environ.update({**ENVIRONMENT, **os.environ})

import statistics
import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import click
import numba
import numpy as np
from numpy.typing import NDArray

from benchmarks.provenance import document
from benchmarks.score import random_packed, set_threads
from data_prep.ratings.interactions import Interactions, PreparedData
from ncf_ppt.candidates import Search
from ncf_ppt.packed.file import load_packed
from ncf_ppt.packed.network import PackedNCF
from ncf_ppt.packed.table import PackedTable
from ncf_ppt.recommendation import AllowedItems, TopItems, recommend
from ncf_ppt.searches import searches_of
from ncf_ppt.two_stages import RECALL, in_two_stages

N_SEEN = 100  # items of each user


def network(n_users: int, n_items: int, mlp_share: float, n_batches: int = 50) -> PackedNCF:
    """A packed network of random weights: products of its vectors vary by 1, the MLP's part by ``mlp_share``."""
    packed = random_packed(n_users, n_items, n_batches)
    rng = np.random.default_rng(0)

    def table(n: int) -> PackedTable:
        values = rng.standard_normal((n, 64), np.float32) / np.float32(8) ** np.float32(0.5)
        return PackedTable(values=values, scales=None, size=64)

    items = rng.integers(0, n_items, (64, 64)).astype(np.int32)
    silent = replace(packed, last_weight=np.concatenate([np.zeros(64, np.float32), packed.last_weight[64:]]))
    spread = silent(np.arange(64), items).std(axis=1).mean()
    weights = np.concatenate([np.ones(64), packed.last_weight[64:] * mlp_share / spread]).astype(np.float32)
    return replace(packed, user_factors=table(n_users), item_factors=table(n_items), last_weight=weights)


def data_of(packed: PackedNCF) -> PreparedData:
    """Users with 100 items each."""
    n_users, n_items = packed.n_users, packed.n_items
    rng = np.random.default_rng(0)
    seen = np.sort(rng.permuted(np.tile(np.arange(N_SEEN) * (n_items // N_SEEN), (n_users, 1)), axis=1), axis=1)
    seen += rng.integers(0, n_items // N_SEEN, seen.shape)
    train = Interactions(
        offsets=np.arange(n_users + 1) * N_SEEN, items=seen.reshape(-1).astype(np.int32), n_items=n_items
    )
    return PreparedData(
        train=train,
        test_items=np.zeros(n_users, np.int32),
        test_negatives=np.empty((n_users, 0), np.int32),
        user_ids=packed.user_ids,
        item_ids=packed.item_ids,
        protocol="strict",
        manifest={},
    )


def measure(
    rows: Mapping[str, Callable[[NDArray[Any]], Any]], data: PreparedData, users: int, turns: int
) -> list[dict[str, Any]]:
    """Users per second of each row on one and on all threads."""
    results = []
    for n_threads in sorted({1, numba.config.NUMBA_NUM_THREADS}):
        set_threads(n_threads)
        rates: dict[str, list[float]] = {row: [] for row in rows}
        for turn in range(turns + 1):
            some = np.random.default_rng(turn).choice(data.user_ids, users, replace=False)
            for row, top in rows.items():
                start = time.perf_counter()
                top(some)
                if turn:  # the first compiles and fills caches
                    rates[row].append(users / (time.perf_counter() - start))
        for row, found in rates.items():
            ratios = [fast / slow for fast, slow in zip(found, rates["packed"], strict=True)]
            result = {"row": row, "threads": n_threads, "users_per_second": statistics.median(found)}
            results.append(result | {"against_packed": statistics.median(ratios)})
    return results


class Listing:
    """The lists of a search by itself, whose scores nobody asks for."""

    def __init__(self, search: Search, data: PreparedData) -> None:
        self._search, self._seen = search, data.known()

    def top(self, users: NDArray[np.int64], k: int) -> TopItems:
        """See `ncf_ppt.recommendation.ListScorer`."""
        items, lengths = self._search.find(users, k, self._seen, AllowedItems())
        return items, np.zeros(items.shape, np.float32), lengths, np.zeros(len(users), np.bool_)


@click.command()
@click.option("--turns", default=5, show_default=True)
@click.option("--users", default=2048, show_default=True, help="Users of a turn.")
@click.option("--scale", default=1.0, show_default=True, help="Users and items, as a share of MovieLens-20M's.")
@click.option("--mlp-share", default=0.1, show_default=True)
@click.option("--recall", default=RECALL, show_default=True)
@click.option("--packed", "file", type=click.Path(path_type=Path, exists=True), help="A trained network, packed.")
@click.option("--data", "folder", type=click.Path(path_type=Path, exists=True), help="What it was trained on.")
@click.option("--json", "as_json", is_flag=True)
def main(
    turns: int,
    users: int,
    scale: float,
    mlp_share: float,
    recall: float,
    file: Path | None,
    folder: Path | None,
    as_json: bool,
) -> None:
    """Measure and print the table."""
    if (file is None) != (folder is None):
        raise click.UsageError("--packed and --data go together")
    if file is not None and folder is not None:
        packed, data = load_packed(file), PreparedData.load(folder)
        if not isinstance(packed, PackedNCF):
            raise click.UsageError(f"{file} holds no NCF network with hidden layers; its scores are products already")
    else:
        packed = network(int(138_493 * scale), int(26_744 * scale), mlp_share)
        data = data_of(packed)
    reranker, found = in_two_stages(packed, packed, data, seen=data.known(), recall=recall)
    searches = searches_of(packed, data)
    scores = {"packed": packed, **{way: Listing(searches[way], data) for way in ("product", "codes")}}
    rows = {
        name: lambda some, score=score: recommend(score, data, some, k=10)
        for name, score in (scores | {"two stages": reranker}).items()
    }
    rates = measure(rows, data, min(users, data.n_users), turns)
    if as_json:
        of_stages = {"candidates": found.to_dict()}
        return click.echo(document([rate | (of_stages if rate["row"] == "two stages" else {}) for rate in rates]))
    click.echo(f"{found}\n\n| row | threads | users/s | against packed |\n|---|---|---|---|")
    for rate in rates:
        click.echo(
            f"| {rate['row']} | {rate['threads']} | {rate['users_per_second']:,.0f} | {rate['against_packed']:.2f} |"
        )


if __name__ == "__main__":
    main()
