"""`ppt-ncf recommend`."""

from pathlib import Path
from typing import Any

import click

from ppt_commands.options import (
    CANDIDATES_OPTION,
    DATA_OF_FILE_OPTION,
    DEVICE_OPTION,
    ENGINE_OPTION,
    EXISTING,
    JSON_OPTION,
    K_OPTION,
    MEMORY_OPTION,
    PATH,
    RECALL_OPTION,
    RERANK_OPTION,
    THREADS_OPTION,
    TITLES_OPTION,
)
from ppt_commands.output import print_json, say, tell
from ppt_core.errors import DataError


@click.command()
@click.argument("path", type=PATH, metavar="RUN|FILE")
@click.option("--user", "users", multiple=True, help="An original user id; may be given several times.")
@click.option(
    "--users",
    "users_file",
    type=EXISTING,
    help="File of user ids: one a line, or csv with a header, Parquet or JSON lines with a column user_id.",
)
@click.option("--all", "all_users", is_flag=True, help="Every user of the training data.")
@click.option(
    "--history",
    type=EXISTING,
    help="Ratings file of people whom training did not know, or who have done more since: two towers read it, other "
    "networks make rows of new users of it.",
)
@click.option("--items", type=EXISTING, help="File of item ids, as of --users: recommend only among these.")
@click.option("--exclude", type=EXISTING, help="File of item ids, likewise: never recommend these.")
@click.option("--include-seen", is_flag=True, help="Recommend what a user has, too.")
@click.option(
    "--out", type=PATH, help="New file .parquet, .csv or .jsonl with a row for each: user_id, item_id, rank, score."
)
@click.option(
    "--new-users",
    type=click.Choice(["error", "popular"]),
    default="error",
    show_default=True,
    help="What unknown users get: an error, or what is most popular.",
)
@CANDIDATES_OPTION
@RERANK_OPTION
@RECALL_OPTION
@TITLES_OPTION
@ENGINE_OPTION
@K_OPTION
@MEMORY_OPTION
@DATA_OF_FILE_OPTION
@DEVICE_OPTION
@THREADS_OPTION
@JSON_OPTION
def recommend(
    path: Path,
    users: tuple[str, ...],
    users_file: Path | None,
    all_users: bool,
    out: Path | None,
    k: int,
    titles: Path | None,
    data: Path | None,
    device: str,
    as_json: bool,
    **options: Any,
) -> None:
    """Recommend the best k items of the catalogue that a user has not seen in training.

    A packed FILE holds no interactions: name its prepared data with --data, unless --history says all.

    \b
    Examples:
      ppt-ncf recommend run --user 1 --user 42
      ppt-ncf recommend network.packed --data ml-1m --user 1
      ppt-ncf recommend run --all -k 20 --out recommendations.parquet
      ppt-ncf recommend run --user 1 --titles titles.csv
      ppt-ncf recommend run --users users.csv --items in-stock.csv --exclude sold-out.csv
      ppt-ncf recommend run --user 1 --candidates vectors --rerank 200
      ppt-ncf recommend network.packed --data ml-1m --all --candidates auto --out lists.parquet
      ppt-ncf recommend run --history new-people.csv
      ppt-ncf recommend warm.packed --history new-people.csv
    """
    from ncf_ppt.side_files import read_titles
    from ncf_ppt.table_files import check_table_path
    from ncf_ppt.trained import load

    n_ways = sum((bool(users), users_file is not None, all_users))
    if n_ways != 1 and (n_ways or options["history"] is None):
        raise DataError("name the users by one of --user, --users or --all")
    if out is not None:
        check_table_path(out)
    trained = load(path, data=data, device=device)
    named = None if titles is None else read_titles(titles)
    lists = trained.recommend(users_file or list(users) or None, k, **options)
    lists = lists if named is None else lists.with_titles(named)
    if lists.n_new_users:
        tell(f"{lists.n_new_users} unknown users got what is most popular")
    if lists.n_unknown_items:
        tell(f"{lists.n_unknown_items:,} of the items named are not in the catalogue")
    found = {} if lists.first_stage is None else {"candidates": lists.first_stage.to_dict()}
    if lists.first_stage is not None:
        tell(str(lists.first_stage))
    if out is not None:
        lists.save(out)
        answer = {"out": str(out), "n_users": len(lists), "k": k, **found}
        return print_json(answer) if as_json else say(f"{out}: done")
    if as_json:
        return print_json({"k": k, **found, "recommendations": lists.to_dicts()})
    for line in lists.lines():
        say(line)
