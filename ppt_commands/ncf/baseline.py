"""`ppt-ncf baseline`."""

from pathlib import Path

import click

from ppt_commands.ncf.data import description, open_data
from ppt_commands.options import FOLDER, JSON_OPTION, K_OPTION, MEMORY_OPTION, RANKING_OPTION, THREADS_OPTION
from ppt_commands.output import print_json, print_metrics


@click.command()
@click.argument("name", type=click.Choice(["popular", "item-knn", "als", "bpr"]))
@click.option("--data", type=FOLDER, help="Prepared folder; without it the built-in synthetic sample.")
@click.option("--per-user", type=FOLDER, help="New Parquet file: user_id, item_id, above, equal, rank.")
@click.option("--seed", default=0, show_default=True, help="Of als and bpr.")
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
    ranking: str,
    k: int,
    memory: int,
    as_json: bool,
) -> None:
    """Train a simple recommender and measure it as `evaluate` does.

    \b
    Examples:
      ppt-ncf baseline popular --data ml-1m
      ppt-ncf baseline als --data ml-1m --json
    """
    import time

    from ncf_ppt.baselines import fit_baseline
    from ncf_ppt.catalogue import rank_catalogue
    from ncf_ppt.ranking import rank_test_items, save_ranks
    from ppt_core.runs.files import refuse_existing

    if per_user is not None:
        refuse_existing(per_user)
    prepared = open_data(data)
    start = time.perf_counter()
    score = fit_baseline(name, prepared, seed=seed)
    seconds = time.perf_counter() - start
    if ranking == "sampled":
        ranks = rank_test_items(score, prepared)
    else:
        ranks = rank_catalogue(score, prepared, k=k, memory=memory)
    about = description(prepared, ranking, "implicit")
    if per_user is not None:
        save_ranks(ranks, prepared, per_user, protocol=about["protocol"])
    metrics = {**about, **ranks.metrics(k), "seconds": seconds, "seed": seed}
    if as_json:
        return print_json({"baseline": name, **metrics})
    print_metrics({name: metrics}, metrics["protocol"])
