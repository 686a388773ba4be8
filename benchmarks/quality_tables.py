"""Figures of single trainings for ratings, and of what they are compared with, as `benchmarks.tables` writes them."""

import functools
import statistics
from collections.abc import Callable

from benchmarks.bf16_quality import comparison
from benchmarks.result_files import TECHNIQUES, Row, machine, measured, rows, share, spread, table

BASELINES = {"popular": "popularity", "item-knn": "item-kNN", "bpr": "BPR", "als": "ALS"}
IN_ORDER = {"recent-item-knn": "item-kNN by recency", "markov": "Markov chain"}


def _of(results: list[Row], split: float, epochs: float, key: str) -> list[float]:
    return [row[key] for row in results if (row["split"], row["epochs"]) == (split, epochs)]


def quality() -> str:
    """MovieLens-1M at the MLPerf shape: the three techniques at two budgets."""
    results, budgets = rows("quality-ml-1m-mlperf"), (4.0, 8.0)
    cells = [
        [" / ".join(spread(_of(results, split, epochs, key)) for key in ("hit_ratio", "ndcg")) for epochs in budgets]
        for split in TECHNIQUES
    ]
    names = [f"{name} (`--split {split:g}`)" for split, name in TECHNIQUES.items()]
    head = ["HR@10 / NDCG@10", *(f"{epochs:g} epochs" for epochs in budgets)]
    return table(head, ([name, *line] for name, line in zip(names, cells, strict=True)))


def optimizers() -> str:
    """The same trainings by dense Adam and by row-adam."""
    results = {"dense Adam": rows("quality-ml-1m-mlperf-dense-adam"), "row-adam": rows("quality-ml-1m-mlperf")}
    columns = [(epochs, name) for epochs in (4.0, 8.0) for name in results]

    def cell(split: float, epochs: float, name: str) -> str:
        ndcg = statistics.median(_of(results[name], split, epochs, "ndcg"))
        return f"{spread(_of(results[name], split, epochs, 'hit_ratio'))} / {share(ndcg)}"

    head = ["HR@10 / NDCG@10", *(f"{epochs:g} epochs, {name}" for epochs, name in columns)]
    return table(
        head, ([TECHNIQUES[split], *(cell(split, epochs, name) for epochs, name in columns)] for split in TECHNIQUES)
    )


def published() -> str:
    """At the settings of the NCF paper, seed 0."""
    body = [
        [
            TECHNIQUES[row["split"]],
            "with" if row["batch_norm"] else "without",
            share(row["hit_ratio"]),
            share(row["ndcg"]),
        ]
        for row in rows("quality-ml-1m-published")
    ]
    head = ["", "BatchNorm", "HR@10", "NDCG@10"]
    return table(head, [["full precision, as He et al. report it", "without", ".688", ".410"], *body])


def baselines() -> str:
    """The simple recommenders on the three sets of the studies."""
    found = {(row["data"], row["baseline"]): row for row in rows("baselines")}
    sets = {
        "ml-1m-ncf": "MovieLens-1M, 99 negatives",
        "ml-100k-99": "MovieLens-100K, 99 negatives",
        "ml-100k-999": "MovieLens-100K, 999 negatives",
    }
    body = [
        [title, *(f"{share(found[data, name]['hit_ratio'])} / {share(found[data, name]['ndcg'])}" for data in sets)]
        for name, title in BASELINES.items()
    ]
    return table(["HR@10 / NDCG@10", *sets.values()], body)


def folded_in() -> str:
    """People whom training did not know, on MovieLens-1M: HR@10 by their rows, by training with them, by popularity."""
    found = rows("fold-in")
    body = []
    for factors, is_binary in sorted({(row["factors"], row["binarize_embeddings"]) for row in found}):
        some = [row for row in found if (row["factors"], row["binarize_embeddings"]) == (factors, is_binary)]
        hits = {
            name: [row["hit_ratio"] for row in some if row["name"] == name]
            for name in ("popularity", "folded in", "trained with them")
        }
        kept = statistics.mean(hits["folded in"]) / statistics.mean(hits["trained with them"])
        kind = "1-bit" if is_binary else "32-bit"
        line = [f"{factors}, {kind}", str(len(hits["folded in"])), *map(spread, hits.values()), f"{kept:.1%}"]
        body.append(line)
    head = [
        "factors, embeddings",
        "tenths held out",
        "popularity",
        "rows made of their items",
        "trained with them",
        "kept",
    ]
    return table(head, body)


def best_and_honest() -> str:
    """What the front page says of quality: MovieLens-1M, 8 epochs, medians, beside the simple recommenders."""
    results = rows("quality-ml-1m-mlperf")
    found = {row["baseline"]: row for row in rows("baselines") if row["data"] == "ml-1m-ncf"}
    lines = [((BASELINES | IN_ORDER)[name], found[name]["hit_ratio"], found[name]["ndcg"]) for name in found]
    warm = [row for row in rows("recipe-warm") if (row["data"], row["what"]) == ("ml-1m-ncf", "recipe warm")]
    hits, ndcg = (statistics.median(row[key] for row in warm) for key in ("hit_ratio", "ndcg"))
    lines.append(("two towers, `--recipe warm`, 1-bit hidden layers", hits, ndcg))
    for split, name in TECHNIQUES.items():
        medians = [statistics.median(_of(results, split, 8.0, key)) for key in ("hit_ratio", "ndcg")]
        lines.append((f"NeuMF, {name}, 8 epochs", medians[0], medians[1]))
    lines.sort(key=lambda line: line[1])
    body = [[name, share(hits), share(ndcg)] for name, hits, ndcg in lines]
    return table(["", "HR@10", "NDCG@10"], [*body[:-1], [f"**{cell}**" for cell in body[-1]]])


def bf16() -> str:
    """What bf16 costs NeuMF on MovieLens-1M."""
    return comparison(measured("bf16-quality"))


def grouped_quality() -> str:
    """What grouped batches cost NeuMF on MovieLens-1M."""
    names = ("shuffled", "grouped")
    lines = [{**row, "batches": name} for name in names for row in rows(f"quality-batches-{name}")]
    return comparison(lines, "batches", names)


QUALITY_TABLES: dict[str, Callable[[], str]] = {
    "best-and-honest": best_and_honest,
    "bf16-quality": bf16,
    "grouped-quality": grouped_quality,
    "bf16-quality-machine": functools.partial(machine, "bf16-quality"),
    "quality": quality,
    "optimizers": optimizers,
    "published": published,
    "baselines": baselines,
    "fold-in": folded_in,
}
