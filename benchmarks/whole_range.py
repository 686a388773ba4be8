"""The speed-up of partial pre-training on MovieLens-1M over more of the paper's range: two studies, by iterations.

    python -m benchmarks.whole_range --json

The paper compares from half of the best accuracy on. The study of 1 to 8 epochs begins far above, so one of 1/8 to 1/2
epoch (`results/study-ml-1m-short`) is put before it: same data, same seeds, another processor. Iterations do not
depend on that; seconds do, and are left out.
"""

from typing import Any

import click
import numpy as np

from benchmarks.provenance import document
from benchmarks.result_files import report, share
from ppt_core.study.curves import Curve, Trials, bootstrap_speed_up, speed_up

STUDIES = ("ml-1m-short", "ml-1m")
STARTS = (0.0, 0.453, 0.5)
"""Accuracies below which nothing is compared: none, popularity's, and one half."""


def cells(split: float) -> list[Trials]:
    """The trials of a technique, of both studies, by budget."""
    found = []
    for study in STUDIES:
        (curve,) = (each for each in report(study)["curves"] if each["split"] == split)
        for point in curve["points"]:
            accuracies = np.array(point["accuracies"])
            iterations, unknown = np.full(len(accuracies), point["iterations"]), np.full(len(accuracies), np.nan)
            found.append(Trials(iterations=iterations, seconds=unknown, accuracy=accuracies, plain_seconds=unknown))
    return sorted(found, key=lambda trials: float(trials.iterations[0]))


def measure() -> dict[str, Any]:
    """The speed-up, its interval, and the factors over the upper parts of the range."""
    ppt, low = cells(0.5), cells(0.0)
    curves = Curve.of_medians(ppt, "iterations"), Curve.of_medians(low, "iterations")
    whole = speed_up(*curves)
    assert whole.lowest is not None
    assert whole.highest is not None
    targets = np.linspace(whole.lowest, whole.highest, 100)
    ratios = curves[1].first_reach(targets) / curves[0].first_reach(targets)
    return {
        "factor": whole.factor,
        "interval": bootstrap_speed_up(ppt, low, "iterations").interval,
        "lowest": whole.lowest,
        "highest": whole.highest,
        "range_covered": whole.range_covered,
        "until": whole.until,
        "from": {
            f"{start:g}": float(1 / np.mean(1 / ratios[(targets >= start) & np.isfinite(ratios)])) for start in STARTS
        },
        "studies": list(STUDIES),
    }


@click.command(help=__doc__)
@click.option("--json", "as_json", is_flag=True)
def main(as_json: bool) -> None:
    """Measure and print."""
    found = measure()
    if as_json:
        return click.echo(document(found))
    click.echo(f"{found['factor']:.2f} {found['interval']}, from {share(found['lowest'])} to {share(found['highest'])}")
    for start, factor in found["from"].items():
        click.echo(f"from {start}: {factor:.2f}")


if __name__ == "__main__":
    main()
