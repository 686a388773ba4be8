"""The speed-up of partial pre-training over more of the paper's range: several studies of one thing, by iterations.

    python -m benchmarks.whole_range --json

The paper compares from half of the best accuracy on. The studies of 1 epoch and more begin above that, so those of
shorter budgets are put before them: same data, same seeds, another processor. Iterations do not depend on that;
seconds do, and are left out.
"""

from collections.abc import Sequence
from typing import Any

import click
import numpy as np

from benchmarks.provenance import document
from benchmarks.result_files import pooled, rows, share
from ppt_core.study.curves import Curve, Trials, bootstrap_speed_up, speed_up
from ppt_core.study.rates import Rates

STUDIES = {
    "ml-1m": ("ml-1m-short", "ml-1m"),
    "cifar10": ("cifar10-resnet20-more", "cifar10-resnet20"),
    **{f"synthetic-{size}": (f"synthetic-{size}",) for size in ("25k", "100k", "400k")},
}


def popularity(name: str) -> list[float]:
    """HR@10 of the most popular items on the data of some studies, where it was measured."""
    found = [row for row in rows("baselines") if row["baseline"] == "popular"]
    return [row["hit_ratio"] for row in found if row["data"] in (name, f"{name}-ncf")]


def cells(studies: Sequence[str], split: float, rates: Rates | None = None) -> list[Trials]:
    """The trials of a technique, of all studies, by budget; with the seconds that they would take at some rates."""
    a_step = np.nan if rates is None else split / rates.full + (1 - split) / rates.low
    found = []
    for iterations, accuracies in pooled(studies)[split].items():
        every, unknown = np.full(len(accuracies), iterations), np.full(len(accuracies), np.nan)
        found.append(
            Trials(iterations=every, seconds=unknown, accuracy=np.array(accuracies), plain_seconds=every * a_step)
        )
    return found


def measure(studies: Sequence[str], starts: Sequence[float]) -> dict[str, Any]:
    """The speed-up, its interval, and the factors over the parts of the range that begin at ``starts``."""
    ppt, low = cells(studies, 0.5), cells(studies, 0.0)
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
            f"{start:.3f}": float(1 / np.mean(1 / ratios[(targets >= start) & np.isfinite(ratios)]))
            for start in starts
            if np.isfinite(ratios[targets >= start]).any()
        },
        "studies": list(studies),
    }


@click.command(help=__doc__)
@click.option("--json", "as_json", is_flag=True)
def main(as_json: bool) -> None:
    """Measure and print."""
    every = {name: measure(studies, popularity(name)) for name, studies in STUDIES.items()}
    if as_json:
        return click.echo(document(every))
    for name, found in every.items():
        compared = f"from {share(found['lowest'])} to {share(found['highest'])}"
        click.echo(f"{name}: {found['factor']:.2f} {found['interval']}, {compared}")
        for start, factor in found["from"].items():
            click.echo(f"from {start}: {factor:.2f}")


if __name__ == "__main__":
    main()
