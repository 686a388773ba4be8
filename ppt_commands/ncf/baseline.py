"""`ppt-ncf baseline`."""

from pathlib import Path
from typing import Literal

import click

from ppt_commands.options import JSON_OPTION, K_OPTION, MEMORY_OPTION, PATH, RANKING_OPTION, THREADS_OPTION
from ppt_commands.output import print_json, print_metrics


@click.command()
@click.argument("name", type=click.Choice(["popular", "item-knn", "als", "bpr", "recent-item-knn", "markov"]))
@click.option("--data", type=PATH, help="Prepared folder; without it the built-in synthetic sample.")
@click.option("--per-user", type=PATH, help="New Parquet file: user_id, item_id, above, equal, rank.")
@click.option("--seed", default=0, show_default=True, help="Seed of what als and bpr draw.")
@RANKING_OPTION
@K_OPTION
@MEMORY_OPTION
@THREADS_OPTION
@JSON_OPTION
def baseline(
    name: str,
    data: Path | None,
    per_user: Path | None,
    seed: int,
    ranking: Literal["sampled", "full"],
    k: int,
    memory: int,
    as_json: bool,
) -> None:
    """Train a simple recommender and measure it as `evaluate` does.

    recent-item-knn and markov see the order in time, which the data must hold.

    \b
    Examples:
      ppt-ncf baseline popular --data ml-1m
      ppt-ncf baseline als --data ml-1m --json
      ppt-ncf baseline recent-item-knn --data ml-1m
    """
    import time

    from data_prep.ratings.any_source import load_data
    from ncf_ppt.baselines import fit_baseline
    from ncf_ppt.evaluation import evaluate
    from ppt_core.runs.files import refuse_existing

    if per_user is not None:
        refuse_existing(per_user)
    prepared = load_data(data)
    start = time.perf_counter()
    score = fit_baseline(name, prepared, seed=seed)
    seconds = time.perf_counter() - start
    found = evaluate(score, prepared, ranking=ranking, k=k, engine="implicit", memory=memory)
    if per_user is not None:
        found.save(per_user)
    metrics = {**found.to_dict(), "seconds": seconds, "seed": seed}
    if as_json:
        return print_json({"baseline": name, **metrics})
    print_metrics({name: metrics}, found.protocol)
