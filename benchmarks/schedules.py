"""The ImageNet recipe's learning rate, compressed, beside its definition.

    python -m benchmarks.schedules --epochs 2 --out schedule.png

Goyal et al. 2017 define it by the epoch, up to 90: 0.4 * t / 5 for the first 5, then 0.4, and a tenth of it from epochs
30, 60 and 80 on. Partial pre-training runs all of it in each phase, whatever the budget.
"""

from pathlib import Path

import click

from ppt_core.schedule import PhaseSchedule
from vision_ppt.recipes import RECIPES


def definition(epoch: float) -> float:
    """The learning rate after ``epoch`` of 90."""
    if epoch < 5:
        return 0.4 * epoch / 5
    return 0.4 * 0.1 ** sum(epoch >= drop for drop in (30, 60, 80))


@click.command()
@click.option("--epochs", default=2.0, show_default=True, help="The budget.")
@click.option("--split", default=0.5, show_default=True, help="Fraction of it at full precision.")
@click.option("--iterations-per-epoch", default=1251, show_default=True, help="ImageNet at batch 1,024.")
@click.option("--out", type=click.Path(path_type=Path), help="New picture (PNG).")
def main(epochs: float, split: float, iterations_per_epoch: int, out: Path | None) -> None:
    """Print the largest difference and draw both."""
    from matplotlib.figure import Figure

    schedule = PhaseSchedule.split(round(epochs * iterations_per_epoch), split, RECIPES["imagenet"].schedule())
    found = [schedule.at(iteration)[1] for iteration in range(schedule.iterations)]
    # A phase of n iterations stands for 90 epochs.
    progress = [i / phase.iterations for phase in schedule.phases for i in range(phase.iterations)]
    expected = [definition(90 * part) for part in progress]
    largest = max(abs(one - other) for one, other in zip(found, expected, strict=True))
    click.echo(f"{schedule.iterations:,} iterations, largest difference {largest:.1e}")
    if out is None:
        return
    figure = Figure(figsize=(8, 4), layout="constrained")
    axes = figure.subplots()
    axes.plot([max(value, 1e-5) for value in expected], linewidth=5, alpha=0.4, label="definition, 90 epochs a phase")
    axes.plot([max(value, 1e-5) for value in found], label=f"recipe in {epochs:g} epochs, split {split:g}")
    axes.set(xlabel="iteration", ylabel="learning rate", yscale="log")
    axes.legend()
    figure.savefig(out, dpi=120)


if __name__ == "__main__":
    main()
