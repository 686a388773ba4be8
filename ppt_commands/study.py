"""The `study` group, the same for users and for images."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from ppt_commands.options import FOLDER, JSON_OPTION
from ppt_commands.output import print_json, tell
from ppt_core.study.trials import OF_A_TRIAL

if TYPE_CHECKING:
    from ppt_core.runs.config import TrainingConfig
    from ppt_core.study.running import Train
    from ppt_core.study.trials import Trial

COUNT = click.IntRange(min=1)
_OF_THE_STUDY = ("data", "out", "resume", "threads", "as_json", *OF_A_TRIAL)


@dataclass(frozen=True)
class Experiment:
    """What a study of one package trains.

    Attributes:
        train: see `ppt_core.study.running.Train`.
        config: the recipe that the trials share.
        metric: its key in a run's result, and its title.
        execution: what the seconds of a trial depend on, and its result does not.
    """

    train: "Train"
    config: "TrainingConfig"
    metric: tuple[str, str]
    execution: dict[str, Any]


def study_group(
    program: str, train_command: click.Command, experiment: Callable[[Path, dict[str, Any]], Experiment]
) -> click.Group:
    """Build `study run` and `study report`.

    Args:
        program: what the user types, for the examples.
        train_command: its options may follow ``--``.
        experiment: maps the data and the parsed options of ``train_command`` to what is trained.
    """

    @click.group(
        help=f"""Compare full-precision, partially pre-trained and low-precision training at several budgets.

    \b
    Examples:
      {program} study run --data DIR --budgets 1,2,4,8 --out STUDY
      {program} study report STUDY
    """
    )
    def study() -> None:
        pass

    @study.command(
        help=f"""Run independent trials, each a whole training compressed to its budget. Run again, it goes on.

    Options of `{program} train` may follow a --.

    \b
    Examples:
      {program} study run --data DIR --budgets 1,2,4,8 --trials 3 --out STUDY --dry-run
      {program} study run --data DIR --budgets 1,2,4,8 --grid 1,2,3,4 --out STUDY --workers 2
      {program} study run --data DIR --budgets 1,2 --out STUDY -- --batch-size 256
    """
    )
    @click.option("--data", type=FOLDER, required=True, help="Prepared folder.")
    @click.option("--out", type=FOLDER, required=True, help="Study folder, new or to go on with.")
    @click.option("--budgets", default="1,2,4,8", show_default=True, help="Lengths of training, in epochs.")
    @click.option(
        "--splits", default="1,0.5,0", show_default=True, help="Fractions at full precision, tried at each budget."
    )
    @click.option(
        "--trials", "n_trials", type=COUNT, default=3, show_default=True, help="Trials of each kind: seeds 0, 1, ..."
    )
    @click.option("--grid", help="Epochs, e.g. 1,2,3,4: also every pair of them (and 0) at full and low precision.")
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
        budgets: str,
        splits: str,
        n_trials: int,
        grid: str | None,
        workers: int | None,
        threads: int | None,
        dask_address: str | None,
        dry_run: bool,
        as_json: bool,
        train_options: tuple[str, ...],
    ) -> None:
        from ppt_core.study.report import summarize
        from ppt_core.study.running import probe, refuse_empty_phases
        from ppt_core.study.study import Study, run_study
        from ppt_core.study.trials import curve_trials, grid_trials

        compared = numbers("--splits", splits)
        trials = curve_trials(numbers("--budgets", budgets), compared, n_trials)
        trials += grid_trials(numbers("--grid", grid), n_trials) if grid else []
        options = _parsed(train_command, train_options)
        workers, threads = _places(workers, threads, dask_address, options["device"])
        found = experiment(data.resolve(), options)
        settings, per_epoch = probe(found.train, found.config)
        refuse_empty_phases(found.config, trials, per_epoch)
        settings |= {"metric": dict(zip(("key", "title"), found.metric, strict=True)), **found.execution}
        if dry_run:
            study = Study.create(out, settings) if out.exists() else Study(out, settings)
            return _print_cost(study, trials, found, per_epoch, workers, threads, as_json)
        study = Study.create(out.resolve(), settings)
        study.extend_plan(trials, compared)
        missing = study.missing(trials)
        tell(f"{len(missing)} trials to run into {out}, {workers} at a time; threads of each: {threads}")
        for progress in run_study(
            study,
            trials,
            found.train,
            found.config,
            iterations_per_epoch=per_epoch,
            workers=workers,
            threads=threads,
            dask_address=dask_address,
        ):
            record = progress.record
            tell(
                f"{progress.done}/{progress.trials}  {record['name']}  {found.metric[1]} "
                f"{record[found.metric[0]]:.4f}  {record['seconds']:.1f} s  {duration(progress.seconds_left)} left"
            )
        report = summarize(study)
        if as_json:
            return print_json({"study": str(out), **report})
        print_report(report)
        click.echo(f"report: {program} study report {out}")

    @study.command(
        help=f"""Draw a study's figures and one HTML page that holds them all, and write report.json.

    \b
    Examples:
      {program} study report STUDY
      {program} study report STUDY --out report --json
    """
    )
    @click.argument("folder", metavar="STUDY", type=FOLDER)
    @click.option("--out", type=FOLDER, help="New folder.  [default: STUDY/report, made anew]")
    @JSON_OPTION
    def report(folder: Path, out: Path | None, as_json: bool) -> None:
        from ppt_core.study.page import write_report
        from ppt_core.study.report import summarize
        from ppt_core.study.study import Study

        found = summarize(Study.open(folder))
        target = write_report(found, folder / "report" if out is None else out, replace=out is None)
        if as_json:
            return print_json({"report": str(target), **found})
        print_report(found)
        click.echo(f"{target / 'index.html'}: open it in a browser")

    return study


def numbers(option: str, text: str) -> list[float]:
    """Read ``1,2,0.5``. Raises ValueError, naming the option, for anything else."""
    try:
        return [float(part) for part in text.split(",")]
    except ValueError:
        raise ValueError(f"{option} is {text!r}; give numbers like 1,2,4") from None


def duration(seconds: float) -> str:
    """Seconds as people say it: 40 s, 12 min, 3.5 h."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"


def print_report(report: dict[str, Any]) -> None:
    """Print medians, the speed of the steps and the speed-ups."""
    from ppt_core.study.report import COST_NAMES, range_text, speed_up_text

    title = report["metric"]["title"]
    trials = report["trials"]
    click.echo(f"{title} [{report['protocol'] or 'test set'}], median (lowest-highest), {trials['finished']} of "
               f"{trials['planned']} trials finished")  # fmt: skip
    for curve in report["curves"]:
        click.echo(f"{curve['name']}:")
        for point in curve["points"]:
            click.echo(f"  {point['iterations']:>9,.0f} iterations {point['seconds']:>8,.1f} s   {range_text(point)}")
    if report["speed"]:
        for name, speed in {"": report["speed"], " of plain PyTorch": report["speed"].get("plain")}.items():
            if speed:
                click.echo(
                    f"iterations/s{name}: full precision {speed['full']:.1f}, low precision {speed['low']:.1f}; "
                    f"slowdown {speed['slowdown']:.2f}"
                )
    for entry in report["splits"]:
        half = f"; split 0.5 {range_text(entry['half'])}" if entry["half"] else ""
        click.echo(
            f"best split at {entry['epochs']:g} epochs: {entry['best']['split']:.2g}, {range_text(entry['best'])}{half}"
        )
    for entry in report["speed_ups"]:
        cost = COST_NAMES[entry["cost"]]
        click.echo(f"speed-up of {entry['name']} over low precision, in {cost}: {speed_up_text(entry)}")


def _places(workers: int | None, threads: int | None, dask_address: str | None, device: str) -> tuple[int, int]:
    """How many trials run at a time, and the threads of each."""
    from ppt_core.study.jobs import cluster_workers, threads_of_a_job

    if dask_address is not None:
        if workers is not None:
            raise ValueError(f"--workers is {workers} beside --dask-address; a cluster runs as many as it has")
        return cluster_workers(dask_address), threads or 1
    workers = workers or 1
    if workers > 1 and device != "cpu":
        raise ValueError(f"--workers is {workers} on {device}; trials that share a GPU would not be timed, so use 1")
    return workers, threads_of_a_job(workers, threads)


def _parsed(command: click.Command, options: tuple[str, ...]) -> dict[str, Any]:
    """What the options behind -- say, defaults included."""
    from click.core import ParameterSource

    try:
        context = command.make_context(command.name, list(options))
    except click.UsageError as error:
        raise ValueError(f"behind --: {error.format_message()}") from None
    for option in command.params:
        if option.name in _OF_THE_STUDY and context.get_parameter_source(option.name) == ParameterSource.COMMANDLINE:
            raise ValueError(f"{option.opts[0]} behind -- is for the study to choose; leave it out there")
    return {name: value for name, value in context.params.items() if name not in _OF_THE_STUDY}


def _print_cost(
    study: Any,
    trials: "list[Trial]",
    experiment: Experiment,
    per_epoch: int,
    workers: int,
    threads: int,
    as_json: bool,
) -> None:
    from ppt_core.study.speed import measure_speed
    from ppt_core.study.trials import in_order

    missing = study.missing(trials)
    speed = study.speed() or measure_speed(experiment.train, experiment.config, per_epoch, threads, epochs=1)
    full, low = (sum(getattr(trial, phase) for trial in missing) * per_epoch for phase in ("full", "low"))
    seconds = (full / speed["full"] + low / speed["low"]) / workers
    cost = {
        "trials": len(in_order(trials)),
        "to_run": [trial.name for trial in missing],
        "full_iterations": round(full),
        "low_iterations": round(low),
        "iterations_per_second": {"full": speed["full"], "low": speed["low"]},
        "seconds": seconds,
        "workers": workers,
        "threads": threads,
    }
    if as_json:
        return print_json(cost)
    for trial in missing:
        click.echo(f"{trial.name}  {trial.full:g} + {trial.low:g} epochs")
    click.echo(
        f"{cost['trials']} trials, {len(missing)} to run: {full:,.0f} full and {low:,.0f} low iterations, about "
        f"{duration(seconds)} of training ({speed['full']:.1f} and {speed['low']:.1f} iterations/s, {workers} trials "
        "at a time); evaluations and starts come on top"
    )
