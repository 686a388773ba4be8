"""Iterations per second of simulated steps on the data of the studies, and the speed-ups at these rates.

    python -m benchmarks.simulated_rates ml-100k-99=ml-100k-99 ml-100k-999=ml-100k-999 ml-1m=ml-1m-ncf --json

The studies of `benchmarks/results` ran when a step with simulated 1-bit layers made bits and scales anew in passes of
its own. The usual way costs less (`ppt_core.device.usual_simulation`). Here its rates are measured, by the rule of a
study (`ppt_core.study.speed`), and the seconds of every trial are computed at them: iterations of each precision by
its rate.
"""

import os

from ppt_core.environment import ENVIRONMENT

os.environ.update({**ENVIRONMENT, **os.environ})

from functools import partial
from pathlib import Path
from typing import Any

import click

from benchmarks.provenance import document
from benchmarks.result_files import report
from benchmarks.whole_range import cells
from data_prep.ratings.interactions import PreparedData
from ncf_ppt.model import NCFConfig
from ncf_ppt.study import train
from ncf_ppt.training_config import NCFTrainingConfig
from ppt_core.schedule import batches_per_epoch
from ppt_core.study.curves import Curve, bootstrap_speed_up, speed_up
from ppt_core.study.speed import measure_speed


def measure(study: str, folder: Path) -> dict[str, Any]:
    """Rates on one prepared set, and the speed-ups of its study at them, by split."""
    data, config = PreparedData.load(folder), NCFTrainingConfig()
    samples = (1 + config.n_negatives) * len(data.train.items)
    speed = measure_speed(
        partial(train, folder.resolve(), NCFConfig(), "cpu"), config, batches_per_epoch(samples, config.batch_size), 1
    )
    assert speed.plain is not None
    low, speed_ups = cells([study], 0.0, speed.plain), {}
    for split in sorted({curve["split"] for curve in report(study)["curves"]} - {0.0, 1.0}):
        own = cells([study], split, speed.plain)
        found = speed_up(Curve.of_medians(own, "plain_seconds"), Curve.of_medians(low, "plain_seconds"))
        drawn = bootstrap_speed_up(own, low, "plain_seconds")
        speed_ups[f"{split:g}"] = {"factor": found.factor, "interval": drawn.interval}
    kernels = {"full": speed.full, "low": speed.low, "slowdown": speed.slowdown}
    plain = {"full": speed.plain.full, "low": speed.plain.low, "slowdown": speed.plain.slowdown}
    return {"study": study, "data": folder.name, **kernels, "plain": plain, "speed_ups": speed_ups}


@click.command(help=__doc__)
@click.argument("pairs", metavar="STUDY=DATA ...", nargs=-1, required=True)
@click.option("--json", "as_json", is_flag=True)
def main(pairs: tuple[str, ...], as_json: bool) -> None:
    """Measure and print."""
    rows = [measure(study, Path(folder)) for study, folder in (pair.split("=", 1) for pair in pairs)]
    if as_json:
        return click.echo(document(rows))
    for row in rows:
        factors = ", ".join(f"split {split}: {each['factor']:.2f}" for split, each in row["speed_ups"].items())
        click.echo(f"{row['study']}: simulated steps take {row['plain']['slowdown']:.2f} times as long; {factors}")


if __name__ == "__main__":
    main()
