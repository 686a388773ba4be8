"""`ppt-ncf recommend`."""

from pathlib import Path

import click

from ppt_commands.ncf.trained import open_trained
from ppt_commands.options import (
    DATA_OPTION,
    DEVICE_OPTION,
    ENGINE_OPTION,
    FOLDER,
    JSON_OPTION,
    K_OPTION,
    MEMORY_OPTION,
    THREADS_OPTION,
)
from ppt_commands.output import print_json, tell

_CANDIDATES = 100


@click.command()
@click.argument("path", type=FOLDER, metavar="RUN|FILE")
@click.option("--user", "users", multiple=True, help="An original user id; may be given several times.")
@click.option(
    "--users",
    "users_file",
    type=click.Path(path_type=Path, exists=True, dir_okay=False),
    help="File with one user id a line.",
)
@click.option("--all", "all_users", is_flag=True, help="Every user of the training data.")
@click.option("--out", type=FOLDER, help="New Parquet file: user_id, item_id, rank, score.")
@click.option(
    "--new-users",
    type=click.Choice(["error", "popular"]),
    default="error",
    show_default=True,
    help="What unknown users get: an error, or what is most popular.",
)
@click.option("--candidates", type=FOLDER, help="Folder of export-embeddings, whose vectors find what is scored.")
@click.option(
    "--rescore",
    type=click.IntRange(min=1),
    show_default=str(_CANDIDATES),
    help="Candidates that the network scores for each user, with --candidates.",
)
@ENGINE_OPTION
@K_OPTION
@MEMORY_OPTION
@DATA_OPTION
@DEVICE_OPTION
@THREADS_OPTION
@JSON_OPTION
def recommend(
    path: Path,
    users: tuple[str, ...],
    users_file: Path | None,
    all_users: bool,
    out: Path | None,
    new_users: str,
    candidates: Path | None,
    rescore: int | None,
    k: int,
    memory: int,
    data: Path | None,
    engine: str | None,
    device: str,
    as_json: bool,
) -> None:
    """Recommend the best k items of the catalogue that a user has not seen in training.

    A packed FILE holds no interactions: name its prepared data with --data.

    \b
    Examples:
      ppt-ncf recommend run --user 1 --user 42
      ppt-ncf recommend network.packed --data ml-1m --user 1
      ppt-ncf recommend run --all -k 20 --out recommendations.parquet
      ppt-ncf recommend run --user 1 --candidates vectors --rescore 200
    """
    from ncf_ppt import recommendation as library
    from ncf_ppt.candidates import Rescorer, open_vectors
    from ppt_core.errors import DataError
    from ppt_core.runs.files import refuse_existing

    if sum((bool(users), users_file is not None, all_users)) != 1:
        raise DataError("name the users by one of --user, --users or --all")
    if rescore is not None and candidates is None:
        raise ValueError(f"--rescore is {rescore} without --candidates; name the folder whose vectors find candidates")
    if out is not None:
        refuse_existing(out)
    trained = open_trained(path, data, engine=engine, device=device)
    if users_file is not None:
        try:
            lines = users_file.read_text("utf-8-sig").splitlines()
        except UnicodeDecodeError:
            raise DataError(f"{users_file} is not UTF-8 text; convert the file") from None
        users = tuple(line.strip() for line in lines if line.strip())
    wanted = None if all_users else list(users)
    score = trained.score
    if candidates is not None:
        rescore = _CANDIDATES if rescore is None else rescore
        if rescore < k:
            raise ValueError(f"--rescore is {rescore}; it must be at least the length of the lists, {k}")
        search = open_vectors(candidates, trained.data)
        score = Rescorer(search=search, score=score, seen=trained.data.known(), n_candidates=rescore)
    lists = library.recommend(
        score,
        trained.data,
        wanted,
        k=k,
        new_users=new_users,  # type: ignore[arg-type]
        memory=memory,
    )
    if lists.n_new_users:
        tell(f"{lists.n_new_users} unknown users got what is most popular")
    if out is not None:
        lists.save(out)
        return print_json({"out": str(out), "n_users": len(lists), "k": k}) if as_json else click.echo(f"{out}: done")
    if as_json:
        return print_json({"k": k, "recommendations": list(lists.to_dicts())})
    for entry in lists.to_dicts():
        click.echo(f"{entry['user_id']}: {', '.join(str(item) for item in entry['item_ids'])}")
