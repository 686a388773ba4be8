"""`ppt-ncf report`."""

from pathlib import Path

import click

from ppt_commands.options import (
    DATA_OPTION,
    DEVICE_OPTION,
    JSON_OPTION,
    K_OPTION,
    PATH,
    THREADS_OPTION,
    TITLES_OPTION,
)
from ppt_commands.output import print_json, say


@click.command()
@click.argument("paths", metavar="RUN ...", type=PATH, nargs=-1, required=True)
@click.option("--out", type=PATH, required=True, help="New HTML file.")
@TITLES_OPTION
@click.option(
    "--catalogue/--no-catalogue",
    default=True,
    show_default=True,
    help="Rank in the whole catalogue, too, which takes a while where it is large.",
)
@K_OPTION
@DATA_OPTION
@DEVICE_OPTION
@THREADS_OPTION
@JSON_OPTION
def report(
    paths: tuple[Path, ...],
    out: Path,
    titles: Path | None,
    catalogue: bool,
    k: int,
    data: Path | None,
    device: str,
    as_json: bool,
) -> None:
    """Write one HTML page about finished runs on the same data: learning curves, metrics with intervals, by popularity
    and by activity, coverage, ties, sample lists, settings and provenance.

    \b
    Examples:
      ppt-ncf report run --out run.html
      ppt-ncf report run-full run-ppt run-low --out runs.html --titles titles.csv
    """
    from ncf_ppt.report.measured import measure_runs
    from ncf_ppt.report.page import write_report
    from ncf_ppt.trained import load
    from ppt_core.runs.files import refuse_existing

    refuse_existing(out)
    trained = [load(path, data=data, device=device) for path in paths]
    found = measure_runs(trained, k=k, titles=titles, catalogue=catalogue)
    write_report(found, out)
    if as_json:
        runs = {run.name: run.evaluation.to_dict() for run in found.runs}
        return print_json({"report": str(out), "runs": runs})
    say(f"{out}: open it in a browser")
