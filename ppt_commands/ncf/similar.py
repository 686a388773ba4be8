"""`ppt-ncf similar`."""

from pathlib import Path

import click

from ppt_commands.options import (
    DATA_OPTION,
    EXISTING,
    JSON_OPTION,
    K_OPTION,
    PATH,
    THREADS_OPTION,
    TITLES_OPTION,
)
from ppt_commands.output import print_json, say
from ppt_core.errors import DataError


@click.command()
@click.argument("path", type=PATH, metavar="RUN|FILE")
@click.option("--item", "items", multiple=True, help="An original item id; may be given several times.")
@click.option(
    "--items",
    "items_file",
    type=EXISTING,
    help="File of item ids: one a line, or csv with a header, Parquet or JSON lines with a column item_id.",
)
@click.option("--all", "all_items", is_flag=True, help="Every item of the catalogue.")
@click.option(
    "--out", type=PATH, help="New file .parquet, .csv or .jsonl: item_id, similar_id, rank, similarity, title."
)
@TITLES_OPTION
@K_OPTION
@DATA_OPTION
@THREADS_OPTION
@JSON_OPTION
def similar(
    path: Path,
    items: tuple[str, ...],
    items_file: Path | None,
    all_items: bool,
    out: Path | None,
    titles: Path | None,
    k: int,
    data: Path | None,
    as_json: bool,
) -> None:
    """List the k items most like an item: those whose vectors point into the same direction.

    \b
    Examples:
      ppt-ncf similar run --item 50 -k 10
      ppt-ncf similar run --item 50 --titles titles.csv
      ppt-ncf similar network.packed --all --out similar.parquet
    """
    from ncf_ppt.side_files import read_titles
    from ncf_ppt.table_files import check_table_path
    from ncf_ppt.trained import load

    if sum((bool(items), items_file is not None, all_items)) != 1:
        raise DataError("name the items by one of --item, --items or --all")
    if out is not None:
        check_table_path(out)
    named = None if titles is None else read_titles(titles)
    lists = load(path, data=data).similar(items_file or list(items) or None, k)
    lists = lists if named is None else lists.with_titles(named)
    if out is not None:
        lists.save(out)
        return print_json({"out": str(out), "n_items": len(lists), "k": k}) if as_json else say(f"{out}: done")
    if as_json:
        return print_json({"k": k, "similar": lists.to_dicts()})
    for line in lists.lines():
        say(line)
