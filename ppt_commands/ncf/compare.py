"""`ppt-ncf compare`."""

from pathlib import Path
from typing import Any

import click

from ppt_commands.ncf.data import data_of, description
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

_TITLES = {"hit_ratio": "HR", "ndcg": "NDCG"}


@click.command()
@click.argument("runs", metavar="RUN RUN ...", type=FOLDER, nargs=-1, required=True)
@RANKING_OPTION
@click.option("--seed", type=click.IntRange(min=0), default=0, show_default=True, help="Of the resamples.")
@click.option("--markdown", is_flag=True, help="Print a Markdown table.")
@K_OPTION
@DATA_OPTION
@DEVICE_OPTION
@THREADS_OPTION
@JSON_OPTION
def compare(
    runs: tuple[Path, ...],
    ranking: str,
    seed: int,
    markdown: bool,
    k: int,
    data: Path | None,
    device: str,
    as_json: bool,
) -> None:
    """Compare finished runs user by user: each with the first, by a bootstrap interval and a permutation test.

    \b
    Examples:
      ppt-ncf compare run-full run-ppt run-low
      ppt-ncf compare run-a run-b --markdown
    """
    from ncf_ppt.catalogue import rank_catalogue
    from ncf_ppt.comparison import N_RESAMPLES, paired_difference, per_user, refuse_incomparable
    from ncf_ppt.ranking import rank_test_items
    from ncf_ppt.scoring import scorer
    from ncf_ppt.training import load_model
    from ppt_core.runs.run import Run

    if len(runs) < 2:
        raise ValueError("compare needs two runs at least; name them one after the other")
    opened = [Run.open(path) for path in runs]
    refuse_incomparable(opened)
    rows: list[dict[str, Any]] = []
    first: dict[str, Any] = {}
    for run in opened:
        prepared = data_of(run, data)
        score = scorer(load_model(run, device=device))
        ranks = rank_test_items(score, prepared) if ranking == "sampled" else rank_catalogue(score, prepared, k=k)
        values = per_user(ranks, k)
        row = {"run": str(run.path), **{key: float(found.mean()) for key, found in values.items()}}
        if first:
            row["differences"] = {
                key: vars(paired_difference(first[key], found, seed=seed)) for key, found in values.items()
            }
        first = first or values
        rows.append(row)
    about = {**description(prepared, ranking, "torch"), "k": k, "n_resamples": N_RESAMPLES, "seed": seed}
    if as_json:
        return print_json({**about, "runs": rows})
    click.echo(f"{about['protocol']}; ties lost; differences to {rows[0]['run']}: mean [95% interval over users], p\n")
    cells = [[row["run"], *(f"{row[key]:.4f}" for key in _TITLES), *_differences(row)] for row in rows]
    head = [
        "run",
        *(f"{title}@{k}" for title in _TITLES.values()),
        *(f"{title} difference" for title in _TITLES.values()),
    ]
    if markdown:
        cells.insert(0, ["---"] * len(head))
    widths = [max(map(len, column)) for column in zip(head, *cells, strict=True)]
    for line in (head, *cells):
        padded = [text.ljust(width) for text, width in zip(line, widths, strict=True)]
        click.echo(f"| {' | '.join(padded)} |" if markdown else "  ".join(padded).rstrip())


def _differences(row: dict[str, Any]) -> list[str]:
    found: dict[str, dict[str, float]] = row.get("differences", {})
    return [
        f"{d['mean']:+.4f} [{d['lower']:+.4f}, {d['upper']:+.4f}], p = {d['p_value']:.4f}" for d in found.values()
    ] or ["", ""]
