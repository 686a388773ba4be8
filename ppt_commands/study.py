"""The `study` group, the same for users and for images."""

from pathlib import Path
from typing import Any

import click

from ppt_commands.options import JSON_OPTION, PATH
from ppt_commands.output import print_json, say, tell
from ppt_commands.study_options import COUNT, Describe, parsed
from ppt_commands.study_target import target_command
from ppt_core.study.trials import OF_A_TRIAL

OF_THE_STUDY = ("data", "out", "resume", "log", "as_json", *OF_A_TRIAL)


def study_group(program: str, train_command: click.Command, experiment: Describe, *, target: str) -> click.Group:
    """Build `study run`, `study report` and `study target`.

    Args:
        program: what the user types, for the examples.
        train_command: its options may follow ``--``.
        experiment: maps the data and the parsed options of ``train_command`` to what is trained.
        target: options of ``train_command`` that set a target, for the example.
    """
    return click.Group(
        "study",
        commands=[
            _run_command(program, train_command, experiment),
            _report_command(program),
            target_command(program, train_command, experiment, example=target),
        ],
        help=f"""Compare full-precision, partially pre-trained and low-precision training at several budgets.

    \b
    Examples:
      {program} study run --data DIR --budgets 1,2,4,8 --out STUDY
      {program} study report STUDY
      {program} study target --data DIR --out TRIALS -- {target}
    """,
    )


def _run_command(program: str, train_command: click.Command, experiment: Describe) -> click.Command:
    @click.command(
        help=f"""Run independent trials, each a whole training compressed to its budget. Run again, it goes on.

    Options of `{program} train` may follow a --.

    \b
    Examples:
      {program} study run --data DIR --budgets 1,2,4,8 --trials 3 --out STUDY --dry-run
      {program} study run --data DIR --budgets 1,2,4,8 --grid 1,2,3,4 --out STUDY --workers 2
      {program} study run --data DIR --budgets 1,2 --out STUDY -- --batch-size 256
    """
    )
    @click.option("--data", type=PATH, required=True, help="Prepared folder.")
    @click.option("--out", type=PATH, required=True, help="Study folder, new or to go on with.")
    @click.option(
        "--budgets",
        callback=_numbers,
        default="1/8,1/4,1/2,1,2,4,8",
        show_default=True,
        help="Lengths of training.",
    )
    @click.option(
        "--splits",
        callback=_numbers,
        default="1,0.5,0",
        show_default=True,
        help="Fractions at full precision, tried at each budget.",
    )
    @click.option(
        "--trials", "n_trials", type=COUNT, default=3, show_default=True, help="Trials of each kind: seeds 0, 1, ..."
    )
    @click.option(
        "--grid",
        callback=_numbers,
        help="Lengths, e.g. 1,2,3,4: also every pair of them (and 0) at full and low precision.",
    )
    @click.option(
        "--unit",
        type=click.Choice(["epochs", "iterations"]),
        default="epochs",
        show_default=True,
        help="Unit of --budgets and --grid.",
    )
    @click.option(
        "--workers", type=COUNT, help="Trials at a time, each with its share of the cores.  [default: 1; all of Dask's]"
    )
    @click.option("--threads", type=COUNT, help="Threads of each trial.  [default: cores / workers; 1 with Dask]")
    @click.option("--dask-address", help="Run on the workers of this Dask scheduler, like tcp://host:8786.")
    @click.option("--dry-run", is_flag=True, help="Say which trials would run and how long that takes.")
    @JSON_OPTION
    @click.argument("train_options", nargs=-1, type=click.UNPROCESSED)
    def run(
        data: Path,
        out: Path,
        workers: int | None,
        threads: int | None,
        dask_address: str | None,
        dry_run: bool,
        as_json: bool,
        train_options: tuple[str, ...],
        **plan: Any,
    ) -> None:
        from ppt_core.study.plan import Places, PlannedStudy, StudyPlan, duration
        from ppt_core.study.study import Study
        from ppt_core.study.summary import summarize

        asked = StudyPlan(**plan)
        _ = asked.trials  # what cannot be is refused before data are opened
        options = parsed(train_command, train_options, OF_THE_STUDY)
        places = Places.of(workers, threads, dask_address, options["device"])
        found = experiment(data.resolve(), options)
        study = PlannedStudy(out, asked, found)
        if dry_run:
            cost = study.cost(places)
            return print_json(cost.to_dict()) if as_json else say(str(cost))
        n_missing = len(study.missing())
        tell(f"{n_missing} trials to run into {out}, {places.workers} at a time; threads of each: {places.threads}")
        key, title = found.metric
        for progress in study.run(places):
            record = progress.record
            tell(
                f"{progress.done}/{progress.trials}  {record['name']}  {title} {record[key]:.4f}  "
                f"{record['seconds']:.1f} s  {duration(progress.seconds_left)} left"
            )
        report = summarize(Study.open(out))
        if as_json:
            return print_json({"study": str(out), **report.to_dict()})
        say(str(report))
        say(f"report: {program} study report {out}")

    return run


def _report_command(program: str) -> click.Command:
    @click.command(
        help=f"""Draw a study's figures and one HTML page that holds them all, and write report.json.

    \b
    Examples:
      {program} study report STUDY
      {program} study report STUDY --out report --json
      {program} study report STUDY STUDY STUDY --out studies
    """
    )
    @click.argument("folders", metavar="STUDY ...", type=PATH, nargs=-1, required=True)
    @click.option("--out", type=PATH, help="New folder.  [default: STUDY/report, made anew; none for several]")
    @JSON_OPTION
    def report(folders: tuple[Path, ...], out: Path | None, as_json: bool) -> None:
        from ppt_core.study.page import write_report
        from ppt_core.study.several import StudiesReport
        from ppt_core.study.several_page import write_studies
        from ppt_core.study.study import Study
        from ppt_core.study.summary import summarize

        reports = [summarize(Study.open(folder)) for folder in folders]
        if len(folders) == 1:
            found: Any = reports[0]
            target = write_report(found, folders[0] / "report" if out is None else out, replace=out is None)
        elif out is None:
            raise ValueError("--out names the new folder for a report on several studies; give one")
        else:
            found = StudiesReport.of([str(folder) for folder in folders], reports)
            target = write_studies(found, out)
        if as_json:
            return print_json({"report": str(target), **found.to_dict()})
        say(str(found))
        say(f"{target / 'index.html'}: open it in a browser")

    return report


def _numbers(_context: click.Context, option: click.Parameter, text: str | None) -> tuple[float, ...]:
    """Read ``1/8,0.5,2``; nothing is no numbers. Raises ValueError, naming the option, for anything else."""
    from fractions import Fraction

    try:
        return tuple(float(Fraction(part.strip())) for part in text.split(",")) if text else ()
    except (ValueError, ZeroDivisionError):
        raise ValueError(f"{option.opts[0]} is {text!r}; give numbers like 1/2,1,2,4") from None
