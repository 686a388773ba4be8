"""Lists for people whom training did not know: rows made of what they did, against training with them.

    python -m benchmarks.fold_in --data ml-1m --epochs 4 --split 0.5

A tenth of the users is held out whole, with every interaction. One network is trained without them and gets
rows for them (`ncf_ppt.fold_in`); another is trained with everybody. Both rank the same held-out items among the same
negatives, and so does popularity. Of data that were prepared with ``--validation`` the validation items are ranked,
too: settings are chosen on these.
"""

import json
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import click
import numpy as np
from numpy.typing import NDArray

from data_prep.ratings.interactions import Interactions, PreparedData
from ncf_ppt.baselines import fit_baseline
from ncf_ppt.evaluation import evaluate
from ncf_ppt.fitting import fit
from ncf_ppt.fold_in import RIDGE, fold_in
from ncf_ppt.model import NCF
from ncf_ppt.ranking import Scorer
from ncf_ppt.scoring import scorer

EVERY = 10


def subset(data: PreparedData, users: NDArray[np.int64]) -> PreparedData:
    """The set of some users over the same catalogue."""
    rows = np.isin(data.train.users(), users)
    degrees = data.train.degrees[users]
    per_user = ("test_items", "test_negatives", "validation_items", "validation_negatives")
    chosen: dict[str, Any] = {
        name: None if getattr(data, name) is None else getattr(data, name)[users] for name in per_user
    }
    return replace(
        data,
        train=Interactions(
            offsets=np.append(0, np.cumsum(degrees)), items=np.array(data.train.items[rows]), n_items=data.n_items
        ),
        history=None if data.history is None else np.array(data.history[rows]),
        user_ids=data.user_ids[users],
        manifest={},
        path=None,
        **chosen,
    )


def of_users(score: Scorer, users: NDArray[np.int64]) -> Scorer:
    """A scorer of everybody as one of some users, who count from 0."""
    return lambda numbers, candidates: score(users[numbers], candidates)


def measure(data: PreparedData, seed: int, options: dict[str, Any], ridges: list[float]) -> Iterator[dict[str, Any]]:
    """HR@10 and NDCG@10 of the held-out tenth: popularity, folding in, and training with everybody."""
    numbers = np.arange(data.n_users)
    held = numbers[numbers % EVERY == seed % EVERY]
    known, people = subset(data, numbers[numbers % EVERY != seed % EVERY]), subset(data, held)

    def row(name: str, score: Scorer, **more: Any) -> dict[str, Any]:
        found = {"name": name, "seed": seed, "n_users": len(held), **more}
        sets = {"": people} if data.validation_items is None else {"": people, "validation_": people.for_validation()}
        for which, ranked in sets.items():
            metrics = evaluate(score, ranked)
            found |= {f"{which}hit_ratio": metrics.hit_ratio(), f"{which}ndcg": metrics.ndcg()}
        return found

    yield row("popularity", fit_baseline("popular", known))
    without = fit(known, progress=False, seed=seed, **options).network
    assert isinstance(without, NCF)
    for ridge in ridges:
        start = time.perf_counter()
        fitted = fold_in(without, known, people, ridge=ridge)
        milliseconds = 1000 * (time.perf_counter() - start) / people.n_users
        yield row("folded in", scorer(fitted), milliseconds_per_user=milliseconds, ridge=ridge)
    together = fit(subset(data, numbers), progress=False, seed=seed, **options).network
    yield row("trained with them", of_users(scorer(together), held))


@click.command()
@click.option("--data", type=click.Path(path_type=Path, exists=True), required=True)
@click.option("--model", default="neumf", show_default=True)
@click.option("--epochs", default=4.0, show_default=True)
@click.option("--split", default=0.5, show_default=True)
@click.option("--learning-rate", default=5e-4, show_default=True)
@click.option("--factors", default=64, show_default=True)
@click.option("--layers", default="256,256,128,64", show_default=True)
@click.option("--binarize-embeddings", is_flag=True)
@click.option("--seeds", default="0", show_default=True, help="Each holds out another tenth, too; with commas.")
@click.option("--ridge", default=str(RIDGE), show_default=True, help="Penalties to try, with commas between them.")
@click.option("--json", "as_json", is_flag=True)
def main(data: Path, as_json: bool, layers: str, ridge: str, seeds: str, **options: Any) -> None:
    """Measure and print."""
    options["layers"] = tuple(map(int, layers.split(",")))
    prepared = PreparedData.load(data)
    for seed in map(int, seeds.split(",")):
        for row in measure(prepared, seed, options, [float(each) for each in ridge.split(",")]):
            if as_json:
                print(json.dumps({"data": data.name, **options, **row}))
                continue
            more = f"{row['milliseconds_per_user']:.1f} ms a user, ridge {row['ridge']:g}" if "ridge" in row else ""
            print(f"{row['name']:<18} HR@10 {row['hit_ratio']:.4f}  NDCG@10 {row['ndcg']:.4f}  {more}")


if __name__ == "__main__":
    main()
