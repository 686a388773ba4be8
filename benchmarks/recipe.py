"""HR@10 and NDCG@10 of a recipe beside those of ALS, over several seeds, among negatives and in the whole catalogue.

    python -m benchmarks.recipe --data ml-1m-ncf --data ml-100k --seeds 0,1,2,3,4

Each training goes to its end; nothing is stopped or chosen by the test items. With ``--held-out 0.1`` a tenth of the
users is left out of training whole and ranked by their histories alone, beside the same users of a network that was
trained with them (two-tower networks only).
"""

import json
import statistics
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import click
import numpy as np

from benchmarks.provenance import provenance
from data_prep.ratings.any_source import load_data
from data_prep.ratings.interactions import Interactions, PreparedData
from ncf_ppt.baselines import ALSConfig, fit_baseline
from ncf_ppt.evaluation import evaluate
from ncf_ppt.fitting import fit
from ncf_ppt.new_users import scorer_of_people
from ncf_ppt.ranking import Scorer
from ncf_ppt.recipes import recipe


@click.command()
@click.option("--data", "paths", multiple=True, required=True, help="A prepared set; may be given several times.")
@click.option("--recipe", "name", default="warm", show_default=True)
@click.option("--seeds", default="0,1,2,3,4", show_default=True)
@click.option("--held-out", default=0.0, show_default=True, help="Share of the users who are left out whole.")
@click.option("--json", "as_json", is_flag=True, help="JSON lines instead of a table.")
def main(paths: tuple[str, ...], name: str, seeds: str, held_out: float, as_json: bool) -> None:
    """Train, measure and print."""
    rows = []
    for path in paths:
        data = load_data(path)
        for seed in map(int, seeds.split(",")):
            rows += new_users(data, name, seed, held_out) if held_out else recipe_and_als(data, name, seed)
            print(f"{path}, seed {seed}: done", file=sys.stderr)
        for row in rows:
            row.setdefault("data", Path(path).name)
    if as_json:
        print("\n".join(json.dumps(row | {"about": provenance()}) for row in rows))
    else:
        print(table(rows))


def recipe_and_als(data: PreparedData, name: str, seed: int) -> list[dict[str, Any]]:
    """The rows of one seed: the recipe's network, and ALS at the default settings."""
    trained = fit(data, recipe=recipe(name).with_settings(seed=seed, eval_every=0), progress=False)
    network = measured(trained.scorer(), data, f"recipe {name}", seed, trained.result.seconds)
    start = time.perf_counter()
    als = fit_baseline(ALSConfig(), data, seed=seed)
    return [network, measured(als, data, "ALS", seed, time.perf_counter() - start)]


def new_users(data: PreparedData, name: str, seed: int, share: float) -> list[dict[str, Any]]:
    """The rows of one seed: users left out whole, by their histories alone, and trained with."""
    is_out = np.random.default_rng(seed).random(data.n_users) < share
    chosen = recipe(name).with_settings(seed=seed, eval_every=0)
    rows = []
    others = of_users(data, ~is_out)
    people = of_users(data, is_out)
    for label, train_on in (("from their histories alone", others), ("trained with them", data)):
        trained = fit(train_on, recipe=chosen, progress=False)
        score = scorer_of_people(trained.network, people)
        rows.append(measured(score, people, label, seed, trained.result.seconds))
    return rows


def of_users(data: PreparedData, chosen: np.ndarray[Any, np.dtype[np.bool_]]) -> PreparedData:
    """The set of some users, bool (n_users,), over the same catalogue."""
    is_entry = np.repeat(chosen, data.train.degrees)
    offsets = np.append(0, np.cumsum(data.train.degrees[chosen]))
    assert data.history is not None
    return replace(
        data,
        train=Interactions(offsets=offsets, items=data.train.items[is_entry], n_items=data.n_items),
        history=data.history[is_entry],
        test_items=data.test_items[chosen],
        test_negatives=data.test_negatives[chosen],
        user_ids=data.user_ids[chosen],
        validation_items=None,
        validation_negatives=None,
        path=None,
    )


def measured(score: Scorer, data: PreparedData, label: str, seed: int, seconds: float) -> dict[str, Any]:
    """One row: both rankings of what scores."""
    sampled, full = (evaluate(score, data, ranking=ranking) for ranking in ("sampled", "full"))
    row: dict[str, Any] = {"what": label, "seed": seed, "protocol": sampled.protocol, "seconds": seconds}
    row |= {"hit_ratio": sampled.hit_ratio(), "ndcg": sampled.ndcg()}
    return row | {"full_hit_ratio": full.hit_ratio(), "full_ndcg": full.ndcg(), "n_users": data.n_users}


def table(rows: list[dict[str, Any]]) -> str:
    """Median [lowest, highest] over the seeds, a line for each data set and recommender."""
    lines = ["| data | what | HR@10 | NDCG@10 | HR@10, whole catalogue | NDCG@10, whole catalogue | s |"]
    lines.append("|---|---|---|---|---|---|---|")
    groups = dict.fromkeys((row["data"], row["what"]) for row in rows)
    for group in groups:
        values = [row for row in rows if (row["data"], row["what"]) == group]
        spread: Callable[[str], str] = lambda key, values=values: _spread([row[key] for row in values])  # type: ignore[misc]  # noqa: E731
        cells = [spread(key) for key in ("hit_ratio", "ndcg", "full_hit_ratio", "full_ndcg")]
        seconds = statistics.median(row["seconds"] for row in values)
        lines.append(f"| {group[0]} | {group[1]} | {' | '.join(cells)} | {seconds:.0f} |")
    return "\n".join(lines)


def _spread(values: list[float]) -> str:
    return f"{statistics.median(values):.3f} [{min(values):.3f}, {max(values):.3f}]"


if __name__ == "__main__":
    main()
