"""`ppt-ncf evaluate`."""

from pathlib import Path
from typing import Literal

import click

from ppt_commands.options import (
    DATA_OPTION,
    DEVICE_OPTION,
    ENGINE_OPTION,
    FOLDER,
    JSON_OPTION,
    K_OPTION,
    MEMORY_OPTION,
    RANKING_OPTION,
    THREADS_OPTION,
)
from ppt_commands.output import print_json, print_metrics


@click.command()
@click.argument("path", type=FOLDER, metavar="RUN|FILE")
@RANKING_OPTION
@ENGINE_OPTION
@click.option("--per-user", type=FOLDER, help="New Parquet file: user_id, item_id, above, equal, rank.")
@K_OPTION
@MEMORY_OPTION
@DATA_OPTION
@DEVICE_OPTION
@THREADS_OPTION
@JSON_OPTION
def evaluate(
    path: Path,
    ranking: Literal["sampled", "full"],
    engine: Literal["torch", "packed"] | None,
    per_user: Path | None,
    k: int,
    memory: int,
    data: Path | None,
    device: str,
    as_json: bool,
) -> None:
    """Measure HR@k and NDCG@k of a finished RUN, or of a packed FILE, on its held-out items.

    A packed FILE holds no interactions: name its prepared data with --data.

    \b
    Examples:
      ppt-ncf evaluate run
      ppt-ncf evaluate run -k 20 --per-user ranks.parquet --json
      ppt-ncf evaluate run --ranking full --engine packed
      ppt-ncf evaluate network.packed --data ml-1m
    """
    from ncf_ppt.trained import load
    from ppt_core.runs.files import refuse_existing

    if per_user is not None:
        refuse_existing(per_user)
    trained = load(path, data=data, device=device)
    found = trained.evaluate(ranking=ranking, k=k, engine=engine, memory=memory)
    if per_user is not None:
        found.save(per_user)
    metrics = {**found.to_dict(), "run": str(path)}
    if as_json:
        return print_json({**metrics, **trained.training})
    print_metrics({str(path): metrics}, found.protocol)
