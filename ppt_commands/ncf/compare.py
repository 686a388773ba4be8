"""`ppt-ncf compare`."""

from pathlib import Path
from typing import Literal

import click

from ppt_commands.options import (
    DEVICE_OPTION,
    JSON_OPTION,
    K_OPTION,
    PATH,
    RANKING_OPTION,
    THREADS_OPTION,
)
from ppt_commands.output import print_json, say


@click.command()
@click.argument("entries", metavar="RUN|FILE|BASELINE ...", nargs=-1, required=True)
@RANKING_OPTION
@click.option("--seed", type=click.IntRange(min=0), default=0, show_default=True, help="Seed of the resamples.")
@click.option("--markdown", is_flag=True, help="Print a Markdown table.")
@K_OPTION
@click.option("--data", type=PATH, help="Prepared folder: needed where no run names it, or if it moved.")
@DEVICE_OPTION
@THREADS_OPTION
@JSON_OPTION
def compare(
    entries: tuple[str, ...],
    ranking: Literal["sampled", "full"],
    seed: int,
    markdown: bool,
    k: int,
    data: Path | None,
    device: str,
    as_json: bool,
) -> None:
    """Compare runs, packed files, baselines and files of `--per-user`, user by user: each with the first, by a
    bootstrap interval and a permutation test, p values corrected by Holm. A sentence says what is better than what.

    Several seeds of one thing stand as RUN,RUN,RUN, or as a folder that holds them. NAME= before either names it.

    \b
    Examples:
      ppt-ncf compare run-full run-ppt run-low
      ppt-ncf compare als item-knn run network.packed
      ppt-ncf compare als ppt=run-0,run-1,run-2 low=low-runs --ranking full
      ppt-ncf compare ranks.parquet run --markdown
    """
    from ncf_ppt.comparison import compare as compare_contenders
    from ncf_ppt.contenders import contenders

    measured = contenders(entries, ranking=ranking, k=k, data=data, device=device)
    found = compare_contenders(measured, k=k, seed=seed)
    if as_json:
        return print_json(found.to_dict())
    said = "\n".join(found.verdicts)
    say(f"{found.title}\n\n{found.to_markdown()}\n\n{said}" if markdown else str(found))
