"""`ppt-ncf evaluate`."""

from pathlib import Path

import click

from commands.ncf.data import data_of, description, scorer_of
from commands.options import DATA_OPTION, DEVICE_OPTION, ENGINE_OPTION, FOLDER, JSON_OPTION, K_OPTION, RANKING_OPTION
from commands.output import print_json, print_metrics


@click.command()
@click.argument("run", type=FOLDER)
@RANKING_OPTION
@ENGINE_OPTION
@click.option("--per-user", type=FOLDER, help="New Parquet file: user_id, item_id, above, equal, rank.")
@K_OPTION
@DATA_OPTION
@DEVICE_OPTION
@JSON_OPTION
def evaluate(
    run: Path, ranking: str, engine: str, per_user: Path | None, k: int, data: Path | None, device: str, as_json: bool
) -> None:
    """Measure HR@k and NDCG@k of a finished RUN on its held-out items.

    \b
    Examples:
      ppt-ncf evaluate run
      ppt-ncf evaluate run -k 20 --per-user ranks.parquet --json
      ppt-ncf evaluate run --ranking full --engine packed
    """
    from ncf_ppt.catalogue import rank_catalogue
    from ncf_ppt.fit import load_model
    from ncf_ppt.ranking import rank_test_items, save_ranks
    from ppt_core.files import refuse_existing
    from ppt_core.runs import Run

    if per_user is not None:
        refuse_existing(per_user)
    opened = Run.open(run)
    network = load_model(opened, device=device)
    prepared = data_of(opened, data)
    score = scorer_of(network, prepared, engine)
    ranks = rank_test_items(score, prepared) if ranking == "sampled" else rank_catalogue(score, prepared, k=k)
    if per_user is not None:
        save_ranks(ranks, prepared, per_user)
    metrics = {**description(prepared, ranking, engine), **ranks.metrics(k), "run": str(run)}
    if as_json:
        trained = {key: opened.result()[key] for key in ("iterations", "epochs", "seconds", "split", "phases", "seed")}
        return print_json({**metrics, **trained})
    print_metrics({str(run): metrics}, metrics["protocol"])
