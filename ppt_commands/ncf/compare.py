"""`ppt-ncf compare`."""

from pathlib import Path
from typing import Literal

import click

from ppt_commands.options import (
    DATA_OPTION,
    DEVICE_OPTION,
    FOLDER,
    JSON_OPTION,
    K_OPTION,
    RANKING_OPTION,
    THREADS_OPTION,
)
from ppt_commands.output import print_json


@click.command()
@click.argument("paths", metavar="RUN|FILE RUN|FILE ...", type=FOLDER, nargs=-1, required=True)
@RANKING_OPTION
@click.option("--seed", type=click.IntRange(min=0), default=0, show_default=True, help="Seed of the resamples.")
@click.option("--markdown", is_flag=True, help="Print a Markdown table.")
@K_OPTION
@DATA_OPTION
@DEVICE_OPTION
@THREADS_OPTION
@JSON_OPTION
def compare(
    paths: tuple[Path, ...],
    ranking: Literal["sampled", "full"],
    seed: int,
    markdown: bool,
    k: int,
    data: Path | None,
    device: str,
    as_json: bool,
) -> None:
    """Compare finished runs or packed files, user by user: each with the first, by a bootstrap interval and a
    permutation test.

    \b
    Examples:
      ppt-ncf compare run-full run-ppt run-low
      ppt-ncf compare run-a run-b --markdown
    """
    from ncf_ppt.trained import load

    first, *others = (load(path, data=data, device=device) for path in paths)
    found = first.compare(*others, ranking=ranking, k=k, seed=seed)
    if as_json:
        return print_json(found.to_dict())
    click.echo(f"{found.title}\n\n{found.to_markdown()}" if markdown else str(found))
