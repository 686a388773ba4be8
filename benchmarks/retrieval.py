"""Top 10 of a catalogue by vectors, for many users: this project's 1-bit codes and searches in fp32, in one run.

    python -m benchmarks.retrieval --turns 7

Random vectors of 64 factors, 26,744 items, 8,192 users, exhaustive searches. Lengths of items fall off from the longest
with a standard deviation of .9 of their logarithm, that of ALS on MovieLens-1M, whose longest stand out more;
`--spread 0` makes all equal. Rows take turns, a figure is the median over the turns, and ratios are medians of the
ratios within a turn.

  torch           product and torch.topk, 256 users at a time
  numpy           product and argpartition, likewise
  implicit        implicit.cpu.topk
  faiss           IndexFlatIP
  faiss binary    IndexBinaryFlat, by Hamming distance alone
  codes           `ncf_ppt.codes.top_codes`, a scale for each user and item; 64, 128 and 256 bits, of rotated vectors
"""

import os

from benchmarks.provenance import document
from ppt_core.environment import ENVIRONMENT

os.environ.update({**ENVIRONMENT, **os.environ})

import statistics
import time
from collections.abc import Callable
from typing import Any

import click
import numba
import numpy as np
import torch
from implicit.cpu.topk import topk
from numpy.typing import NDArray
from threadpoolctl import threadpool_limits

from ncf_ppt.codes import Codes, top_codes
from ncf_ppt.rotation import rotate

K = 10
BITS = (64, 128, 256)
_USERS = 256  # at a time, where scores of a whole catalogue are in memory
_FLOAT_ROWS = ("torch", "numpy", "implicit", "faiss")
Vectors = NDArray[np.float32]
Search = Callable[[int], Any]


def random_vectors(n_users: int, n_items: int, factors: int, spread: float) -> tuple[Vectors, Vectors]:
    """Normal components; the length of an item divided by the exponential of an exponential variate."""
    rng = np.random.default_rng(0)
    users, items = rng.normal(size=(n_users, factors)), rng.normal(size=(n_items, factors))
    return users.astype(np.float32), (items / np.exp(rng.exponential(spread, (n_items, 1)))).astype(np.float32)


def float_searches(users: Vectors, items: Vectors) -> dict[str, Search]:
    """Searches by inner product, as functions of the number of threads that they may use."""
    torch_users, torch_items = torch.from_numpy(users), torch.from_numpy(items)
    blocks = [slice(start, start + _USERS) for start in range(0, len(users), _USERS)]

    def by_torch(threads: int) -> list[Any]:
        return [torch.topk(torch_users[block] @ torch_items.T, K).indices for block in blocks]

    def by_numpy(threads: int) -> list[Any]:
        found = []
        for block in blocks:
            scores = users[block] @ items.T
            best = np.argpartition(scores, -K, axis=1)[:, -K:]
            order = np.argsort(-np.take_along_axis(scores, best, axis=1), axis=1)
            found.append(np.take_along_axis(best, order, axis=1))
        return found

    def by_implicit(threads: int) -> Any:
        return topk(items, users, K, None, None, None, num_threads=threads)

    return {"torch": by_torch, "numpy": by_numpy, "implicit": by_implicit}


def faiss_searches(users: Vectors, items: Vectors, bits: NDArray[np.uint8], user_bits: NDArray[np.uint8]) -> Any:
    """Those of Faiss; none where it is not installed."""
    try:
        import faiss
    except ImportError:
        return {}
    flat, binary = faiss.IndexFlatIP(items.shape[1]), faiss.IndexBinaryFlat(8 * bits.shape[1])
    flat.add(items)
    binary.add(bits)

    def search(index: Any, queries: Any) -> Search:
        def by_faiss(threads: int) -> Any:
            faiss.omp_set_num_threads(threads)
            return index.search(queries, K)

        return by_faiss

    return {"faiss": search(flat, users), f"faiss binary, {binary.d} bits": search(binary, user_bits)}


def searches(users: Vectors, items: Vectors) -> dict[str, Search]:
    """All rows by their names."""
    found = float_searches(users, items)
    codes = {}
    for n_bits in (count for count in BITS if count >= items.shape[1]):
        square = np.random.default_rng(n_bits).normal(size=(n_bits, items.shape[1]))
        rotation = np.linalg.qr(square)[0].T
        codes[n_bits] = rotate(users, rotation), rotate(items, rotation)
    bits = [np.packbits(vectors > 0, axis=1) for vectors in codes[BITS[-1]]]
    found |= faiss_searches(users, items, bits[1], bits[0])
    for n_bits, vectors in codes.items():
        user_codes, item_codes = map(Codes.of, vectors)
        found[f"codes, {n_bits} bits"] = _code_search(user_codes, item_codes)
    return found


def _code_search(users: Codes, items: Codes) -> Search:
    numbers = np.arange(len(users))
    return lambda threads: top_codes(users, items, numbers, K)


def measure(rows: dict[str, Search], n_pairs: int, threads: int, turns: int) -> list[dict[str, Any]]:
    """Pairs per second of each row, and how many times as fast it is as the fastest in fp32 of the same turn."""
    rates: dict[str, list[float]] = {row: [] for row in rows}
    torch.set_num_threads(threads)
    numba.set_num_threads(threads)
    with threadpool_limits(threads, "blas"):
        for turn in range(turns + 1):
            for row, search in rows.items():
                start = time.perf_counter()
                search(threads)
                if turn:  # the first compiles and fills caches
                    rates[row].append(n_pairs / (time.perf_counter() - start))
    best = [max(turn) for turn in zip(*(rates[row] for row in rows if row in _FLOAT_ROWS), strict=True)]
    return [
        {
            "row": row,
            "threads": threads,
            "pairs_per_second": statistics.median(found),
            "against_fastest_fp32": statistics.median(rate / fp32 for rate, fp32 in zip(found, best, strict=True)),
        }
        for row, found in rates.items()
    ]


@click.command()
@click.option("--turns", default=5, show_default=True)
@click.option("--users", default=8192, show_default=True)
@click.option("--items", default=26_744, show_default=True)
@click.option("--factors", default=64, show_default=True)
@click.option("--spread", default=0.9, show_default=True, help="Standard deviation of the logarithm of items' lengths.")
@click.option("--threads", default="1,2", show_default=True)
@click.option("--json", "as_json", is_flag=True)
def main(turns: int, users: int, items: int, factors: int, spread: float, threads: str, as_json: bool) -> None:
    """Measure and print the table."""
    rows = searches(*random_vectors(users, items, factors, spread))
    results: list[dict[str, Any]] = []
    for count in map(int, threads.split(",")):
        results += measure(rows, users * items, min(count, numba.config.NUMBA_NUM_THREADS), turns)
    if as_json:
        return click.echo(document(results))
    click.echo("| row | threads | M pairs/s | against the fastest fp32 |\n|---|---|---|---|")
    for result in results:
        rate, ratio = result["pairs_per_second"] / 1e6, result["against_fastest_fp32"]
        click.echo(f"| {result['row']} | {result['threads']} | {rate:,.0f} | {ratio:.2f} |")


if __name__ == "__main__":
    main()
