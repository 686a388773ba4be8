"""What commands print: results on standard output, all else on standard error."""

import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from ppt_core.json_text import json_text
from ppt_core.visible_text import visible

if TYPE_CHECKING:
    from ppt_core.runs.record import RunResult


def print_json(document: dict[str, Any]) -> None:
    """Print one JSON object."""
    click.echo(json_text(document, ensure_ascii=False))


def print_metrics(rows: dict[str, dict[str, Any]], protocol: str) -> None:
    """Print a table of metrics, a row for each name."""
    k = next(iter(rows.values()))["k"]
    width = max(map(len, rows))
    say(f"{'':{width}}  HR@{k:<4} NDCG@{k:<4} [{protocol}; ties lost]")
    for name, metrics in rows.items():
        more = f"  MRR {metrics['mrr']:.4f}, coverage {metrics['coverage']:.1%}" if "mrr" in metrics else ""
        ties = f"  {metrics['tie_rate']:.1%} of users tie" if metrics["tie_rate"] else ""
        say(f"{name:{width}}  {metrics['hit_ratio']:<7.4f} {metrics['ndcg']:<9.4f}{more}{ties}")
    for remark in dict.fromkeys(metrics["remark"] for metrics in rows.values() if "remark" in metrics):
        tell(remark)


def print_training(path: Path, result: "RunResult", threshold: float | None) -> None:
    """Print what a finished training did, and for a ``threshold`` whether it was reached."""
    if threshold is not None:
        where = f" in {result.threshold_phase} precision" if result.threshold_phase else ""
        reached = f"reached{where}" if result.threshold_reached else "not reached"
        say(f"threshold {threshold} on the test set (MLPerf's rule): {reached}")
    training = result.training
    trained = [phase for phase in training.phases if phase.precision in ("full", "low")]
    phases = ", ".join(f"{phase.iterations:,} {phase.precision}" for phase in trained)
    if len(trained) < len(training.phases):
        start = training.phases[0]
        say(f"started from {start.precision.upper()}: {start.seconds:.1f} of the seconds below")
    say(
        f"{path}: {training.epochs:.2f} epochs ({phases} iterations) in {training.seconds:.1f} s, "
        f"{result.samples_per_second:,.0f} samples/s"
    )


def say(text: object) -> None:
    """Print a result for people; what a terminal would obey of a name or an id is shown instead."""
    click.echo(visible(str(text)))


def tell(message: str) -> None:
    """Say something that is not a result; of the processes that torchrun started, the first says it."""
    if os.environ.get("RANK", "0") == "0":
        click.echo(visible(message), err=True)
