"""`study target`, the same for users and for images."""

from pathlib import Path

import click

from ppt_commands.options import JSON_OPTION, PATH
from ppt_commands.output import print_json, say, tell
from ppt_commands.study_options import COUNT, Describe, parsed

OF_THE_TRIALS = ("data", "out", "resume", "log", "as_json", "seed")


def target_command(program: str, train_command: click.Command, experiment: Describe, *, example: str) -> click.Command:
    """Build `study target`: epochs until a metric reaches its threshold, over several seeds."""

    @click.command(
        name="target",
        help=f"""Train with several seeds until a target, and say how many epochs that takes, as MLPerf does.

    The target is the threshold of the options of `{program} train`, which follow a --. The mean is over the runs that
    reach it, without the fastest and the slowest. Run again, it goes on.

    \b
    Example:
      {program} study target --data DIR --trials 5 --out TRIALS -- {example}
    """,
    )
    @click.option("--data", type=PATH, required=True, help="Prepared folder.")
    @click.option("--out", type=PATH, required=True, help="Folder of the runs, new or to go on with.")
    @click.option("--trials", "n_trials", type=COUNT, default=5, show_default=True, help="Runs: seeds 0, 1, ...")
    @click.option("--threads", type=COUNT, help="Threads of each run.  [default: all cores]")
    @JSON_OPTION
    @click.argument("train_options", nargs=-1, type=click.UNPROCESSED)
    def target(
        data: Path, out: Path, n_trials: int, threads: int | None, as_json: bool, train_options: tuple[str, ...]
    ) -> None:
        from ppt_core.study.convergence import run_attempts
        from ppt_core.threads import usable_cores

        found = experiment(data.resolve(), parsed(train_command, train_options, OF_THE_TRIALS))
        result = None
        for result in run_attempts(
            found.train,
            found.config,
            out,
            n_trials=n_trials,
            threads=threads or usable_cores(),
            metric=found.metric,
        ):
            last = result.attempts[-1]
            outcome = "reached" if last.reached else "not reached"
            tell(f"seed {last.seed}: {result.metric} {last.accuracy:.4f} after {last.epochs:g} epoch(s), {outcome}")
        assert result is not None  # n_trials is at least 1
        if as_json:
            return print_json({"out": str(out), **result.to_dict()})
        say(str(result))

    return target
