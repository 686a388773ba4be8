"""Tables of what starts from ALS: two towers, NeuMF, and 1-bit vectors."""

import functools
import statistics
from collections.abc import Callable

from benchmarks.result_files import machine, measured, rows, share, spread, table

RECIPE_SETS = {
    "ml-1m-ncf": "MovieLens-1M, the NCF authors' 99 negatives",
    "ml-1m-999": "MovieLens-1M, 999 strict negatives",
    "ml-100k-99": "MovieLens-100K, 99 strict negatives",
    "games-99": "video games, 99 strict negatives",
    "synthetic": "synthetic, no order in time, 99 strict negatives",
    "synthetic-in-order": "synthetic, `--in-order 0.8`, 99 strict negatives",
}
TRAININGS = {
    "plain PyTorch": "MLPerf's recipe in plain PyTorch",
    "PyTorch at its best": "the same, vectorized sampling and fused Adam",
    "split 1": "NeuMF, full precision",
    "split 0.5": "NeuMF, partial pre-training, the fastest of 2, 4 and 8 epochs",
    "split 0": "NeuMF, low precision",
    "from als": "NeuMF, low precision, from ALS",
    "from als with recent items": "NeuMF, low precision, from ALS, with the last 10 items",
    "warm": "**two towers, `--recipe warm`**",
    "als": "ALS alone",
}


def recipe_warm() -> str:
    """The recipe of two towers beside ALS, on each set, over seeds."""
    found = rows("recipe-warm")
    body = []
    for data, title in RECIPE_SETS.items():
        for what in ("ALS", "recipe warm"):
            own = [row for row in found if (row["data"], row["what"]) == (data, what)]
            if own:
                cells = [spread(row[key] for row in own) for key in ("hit_ratio", "ndcg", "full_hit_ratio")]
                quiet = [row["seconds"] for row in own if not row.get("seconds_beside_other_work")]
                seconds = f"{statistics.median(quiet):.0f}" if quiet else ""
                body.append([title, what, str(len(own)), *cells, seconds])
    return table(["data", "", "seeds", "HR@10", "NDCG@10", "HR@10, whole catalogue", "training, s"], body)


def held_out() -> str:
    """Users whom the recipe's network was not trained with, by their histories alone, over seeds."""
    found = rows("recipe-held-out")
    body = []
    for what in ("from their histories alone", "trained with them"):
        own = [row for row in found if row["what"] == what]
        body.append([what, *(spread(row[key] for row in own) for key in ("hit_ratio", "ndcg", "full_hit_ratio"))])
    return table(["MovieLens-100K, 99 strict negatives", "HR@10", "NDCG@10", "HR@10, whole catalogue"], body)


def time_to_quality() -> str:
    """Seconds of training until HR@10 reaches a quality, on MovieLens-1M."""
    found = measured("time-to-quality")
    body = []
    for row in found:
        best = max(point["hit_ratio"] for curve in row["curves"] for point in curve)
        cells = ["" if value is None else f"{value:,.0f}" for value in row["seconds"].values()]
        body.append([TRAININGS.get(row["row"], row["row"]), *cells, share(best)])
    return table(["seconds until HR@10", *(share(float(each)) for each in found[0]["seconds"]), "highest"], body)


def times_as_soon(quality: str) -> str:
    """How many times as soon the warm recipe has an HR@10 as the fastest training of MLPerf's network from scratch."""
    seconds = {row["row"]: row["seconds"][quality] for row in measured("time-to-quality")}
    scratch = [taken for row in ("split 1", "split 0.5", "split 0") if (taken := seconds[row]) is not None]
    return f"{min(scratch) / seconds['warm']:.0f}"


def from_als() -> str:
    """NeuMF that starts from ALS, at three splits and two budgets."""
    found = rows("quality-from-als")
    body = []
    for split, name in ((1.0, "full precision"), (0.5, "partial pre-training"), (0.0, "low precision")):
        cells = []
        for epochs in (1.0, 2.0):
            own = [row for row in found if (row["split"], row["epochs"]) == (split, epochs)]
            cells.append(" / ".join(spread(row[key] for row in own) for key in ("hit_ratio", "ndcg")))
        body.append([f"{name} (`--split {split:g}`)", *cells])
    return table(["HR@10 / NDCG@10", "1 epoch", "2 epochs"], body)


def vectors() -> str:
    """What exported vectors find of a network's own best items."""
    titles = {"gmf": "two towers, `--recipe warm`", "neumf": "NeuMF from ALS, `gmf_users` and `gmf_items`"}
    body = []
    for row in rows("export-recall"):
        found = row["verification"]["product"]
        shares = (f"{found[key]:.1%}" for key in ("recall_of_top_k", "recall_of_candidates"))
        body.append([titles[row["model"]], row["dtype"], *shares])
    return table(["of the network's top 10", "components", "in the vectors' top 10", "in their top 100"], body)


def _hit_ratios(data: str, what: str) -> list[float]:
    found = rows("recipe-warm") + rows("als-settings")
    return [row["hit_ratio"] for row in found if (row["data"], row["what"]) == (data, what)]


def als_at_its_best() -> str:
    """The warm recipe beside ALS at its defaults and at the settings that validation items chose."""
    body = []
    for data, best in {row["data"]: row["settings"] for row in rows("als-settings")}.items():
        whats = ("ALS", "ALS at its best", "recipe warm", "recipe warm from it")
        ratios = [_hit_ratios(data, what) for what in whats]
        settings = f"{best['factors']} factors, regularization {best['regularization']:g}, alpha {best['alpha']:g}"
        of_als, of_warm = (max(map(statistics.median, some)) for some in (ratios[:2], ratios[2:]))
        body.append([RECIPE_SETS[data], settings, *map(spread, ratios), f"{of_warm / of_als:.2f}"])
    head = [
        "HR@10",
        "best on validation",
        "ALS, defaults",
        "ALS, these",
        "warm, defaults",
        "warm from these",
        "warm / ALS",
    ]
    return table(head, body)


def binary_embeddings() -> str:
    """What 1-bit vectors keep of the 32-bit ones, in which share of the bytes."""
    body = []
    found = rows("binary-embeddings")
    for factors, bits in sorted({(row["factors"], row["bits"]) for row in found}):
        some = [row for row in found if (row["factors"], row["bits"]) == (factors, bits)]
        cells = [
            spread(row[key] for row in some)
            for key in ("full", "bits_hit_ratio", "full_in_catalogue", "bits_in_catalogue")
        ]
        kept = f"{statistics.median(row['kept'] for row in some):.1%}"
        n_bytes = f"1/{1 / statistics.median(row['share_of_bytes'] for row in some):.2f}"
        body.append([str(factors), str(bits), *cells, kept, n_bytes])
    keys = ["HR@10, 32 bits", "HR@10, 1 bit", "whole catalogue, 32 bits", "1 bit", "kept", "bytes"]
    return table(["factors", "bits a row", *keys], body)


WARM_TABLES: dict[str, Callable[[], str]] = {
    "recipe-warm": recipe_warm,
    "held-out": held_out,
    "time-to-quality": time_to_quality,
    "time-to-quality-machine": functools.partial(machine, "time-to-quality"),
    "times-as-soon": functools.partial(times_as_soon, "0.69"),
    "times-as-soon-by-all": functools.partial(times_as_soon, "0.685"),
    "from-als": from_als,
    "vectors": vectors,
    "als-settings": als_at_its_best,
    "binary-embeddings": binary_embeddings,
}
