"""`ppt-ncf score`."""

from pathlib import Path
from typing import Literal

import click

from ppt_commands.options import (
    DATA_OF_FILE_OPTION,
    DEVICE_OPTION,
    ENGINE_OPTION,
    EXISTING,
    JSON_OPTION,
    PATH,
    THREADS_OPTION,
)
from ppt_commands.output import print_json, say


@click.command()
@click.argument("path", type=PATH, metavar="RUN|FILE")
@click.option(
    "--pairs",
    type=EXISTING,
    required=True,
    help="File of pairs: columns user_id and item_id (csv with a header, Parquet, JSON lines), or lines that begin "
    "with a user and an item.",
)
@click.option("--out", type=PATH, help="New file .parquet, .csv or .jsonl: user_id, item_id, score.")
@ENGINE_OPTION
@DATA_OF_FILE_OPTION
@DEVICE_OPTION
@THREADS_OPTION
@JSON_OPTION
def score(
    path: Path,
    pairs: Path,
    out: Path | None,
    engine: Literal["torch", "packed"] | None,
    data: Path | None,
    device: str,
    as_json: bool,
) -> None:
    """Score given pairs of a user and an item: the higher, the likelier.

    Scores are logits, as the lists of `recommend` are ordered by. A packed FILE needs the prepared data with --data.

    \b
    Examples:
      ppt-ncf score run --pairs pairs.csv
      ppt-ncf score network.packed --data ml-1m --pairs pairs.csv --out scores.csv
    """
    from ncf_ppt.table_files import check_table_path
    from ncf_ppt.trained import load

    if out is not None:
        check_table_path(out)
    scores = load(path, data=data, device=device).score(pairs, engine=engine)
    if out is not None:
        scores.save(out)
        return print_json({"out": str(out), "n_pairs": len(scores)}) if as_json else say(f"{out}: done")
    if as_json:
        return print_json({"scores": scores.to_dicts()})
    for line in scores.lines():
        say(line)
