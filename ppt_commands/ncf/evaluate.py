"""`ppt-ncf evaluate`."""

from pathlib import Path
from typing import Any

import click

from ppt_commands.options import (
    CANDIDATES_OPTION,
    DATA_OF_FILE_OPTION,
    DEVICE_OPTION,
    ENGINE_OPTION,
    JSON_OPTION,
    K_OPTION,
    MEMORY_OPTION,
    PATH,
    RANKING_OPTION,
    RECALL_OPTION,
    RERANK_OPTION,
    THREADS_OPTION,
)
from ppt_commands.output import print_json, print_metrics, tell


@click.command()
@click.argument("path", type=PATH, metavar="RUN|FILE")
@RANKING_OPTION
@ENGINE_OPTION
@click.option("--per-user", type=PATH, help="New Parquet file: user_id, item_id, above, equal, rank.")
@CANDIDATES_OPTION
@RERANK_OPTION
@RECALL_OPTION
@K_OPTION
@MEMORY_OPTION
@DATA_OF_FILE_OPTION
@DEVICE_OPTION
@THREADS_OPTION
@JSON_OPTION
def evaluate(
    path: Path,
    per_user: Path | None,
    data: Path | None,
    device: str,
    as_json: bool,
    **options: Any,
) -> None:
    """Measure HR@k and NDCG@k of a finished RUN, or of a packed FILE, on its held-out items.

    A packed FILE holds no interactions: name its prepared data with --data. With --candidates, for --ranking full, an
    item that is no candidate ranks last.

    \b
    Examples:
      ppt-ncf evaluate run
      ppt-ncf evaluate run -k 20 --per-user ranks.parquet --json
      ppt-ncf evaluate run --ranking full --engine packed
      ppt-ncf evaluate network.packed --data ml-1m
      ppt-ncf evaluate network.packed --data ml-1m --ranking full --candidates auto
      torchrun --nproc-per-node 2 --no-python ppt-ncf evaluate run --ranking full
    """
    from ncf_ppt.trained import load
    from ppt_core.distributed import join_world
    from ppt_core.runs.files import refuse_existing

    if per_user is not None:
        refuse_existing(per_user)
    world = click.get_current_context().with_resource(join_world(device))
    trained = load(path, data=data, device=world.device)
    found = trained.evaluate(**options, world=world)
    if not world.is_first:
        return
    if found.first_stage is not None:
        tell(str(found.first_stage))
    if per_user is not None:
        found.save(per_user)
    metrics = {**found.to_dict(), "run": str(path)}
    if as_json:
        training = {} if trained.training is None else trained.training.to_dict()
        return print_json({**metrics, **training})
    print_metrics({str(path): metrics}, found.protocol)
