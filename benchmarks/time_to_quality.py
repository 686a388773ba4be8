"""Seconds of training until HR@10 reaches a quality, MLPerf's own measure, for several ways to train on the same data.

    python -m benchmarks.time_to_quality --data ml-1m-ncf --runs runs/time
    python -m benchmarks.time_to_quality --data ml-1m-ncf --runs runs/time --rows als,warm --json

Every training is one of the `ppt-ncf train` command, but for plain PyTorch with MLPerf's recipe, as
`benchmarks.train_step` takes its steps, and ALS alone. Evaluations do not count, what a start from ALS takes does. Of a
training that switches precision only what comes after the switch counts, and of its budgets the fastest one for each
quality. A finished training is never repeated. The curves go to ``curves.json`` and ``curves.svg`` in --runs.
"""

import os

from ppt_core.environment import ENVIRONMENT

os.environ.update({**ENVIRONMENT, **os.environ})

import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click
import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from benchmarks import quality
from benchmarks.train_step import make_stepper
from data_prep.ratings.interactions import PreparedData
from ncf_ppt.baselines import fit_baseline
from ncf_ppt.ranking import rank_test_items

QUALITIES = (0.635, 0.69, 0.72, 0.80)
PLAIN, ALS = "plain PyTorch", "als"
_ALS_START = "--warm-start als --factors 128"
TRAININGS: dict[str, list[tuple[float, float, str]]] = {
    "split 1": [(1, 8, "--eval-every 0.25")],
    "split 0.5": [(0.5, epochs, "--eval-every 0.25") for epochs in (2, 4, 8)],
    "split 0": [(0, 8, "--eval-every 0.25")],
    "from als": [
        (0, 2, f"{_ALS_START} --als-regularization 60 --learning-rate 2e-4 --regularization 3e-3 --eval-every 0.1")
    ],
    "from als with recent items": [
        (0, 4, f"{_ALS_START} --recent 10 --learning-rate 5e-4 --regularization 3e-3 --eval-every 0.1")
    ],
    "warm": [(0, 3, "--recipe warm --eval-every 0.1")],
}
"""Split, epochs and options of the trainings of each row."""
Curve = list[dict[str, float]]


@click.command()
@click.option("--data", type=click.Path(path_type=Path, exists=True), required=True)
@click.option("--runs", type=click.Path(path_type=Path), required=True, help="Folder for the run folders and curves.")
@click.option("--rows", default=",".join([PLAIN, ALS, *TRAININGS]), show_default=True)
@click.option("--seed", default=0, show_default=True)
@click.option("--plain-epochs", default=4.0, show_default=True, help="Length of plain PyTorch's training.")
@click.option("--json", "as_json", is_flag=True)
@click.argument("train_options", nargs=-1)
def main(
    data: Path, runs: Path, rows: str, seed: int, plain_epochs: float, as_json: bool, train_options: tuple[str, ...]
) -> None:
    """Train what is missing, then print the table and draw the curves. Arguments behind -- go to every `train`."""
    runs.mkdir(parents=True, exist_ok=True)
    prepared = PreparedData.load(data)
    curves: dict[str, list[Curve]] = {}
    for name in rows.split(","):
        if name == PLAIN:
            curves[name] = [kept(runs / "plain.json", lambda: plain(prepared, plain_epochs))]
        elif name == ALS:
            curves[name] = [kept(runs / "als.json", lambda: als(prepared, seed))]
        else:
            curves[name] = [
                trained(
                    runs / f"{name.replace(' ', '-')}-{epochs:g}-seed{seed}",
                    data,
                    split,
                    epochs,
                    seed,
                    [*options.split(), *train_options],
                )
                for split, epochs, options in TRAININGS[name]
            ]
    document = {
        "protocol": prepared.protocol_label,
        "seed": seed,
        "rows": [
            {"row": name, "seconds": {f"{q:g}": time_to(each, q) for q in QUALITIES}, "curves": each}
            for name, each in curves.items()
        ],
    }
    (runs / "curves.json").write_text(json.dumps(document, indent=1) + "\n", encoding="utf-8")
    draw(curves, runs / "curves.svg", prepared.protocol_label)
    click.echo(json.dumps(document) if as_json else table(document))


def kept(path: Path, measure: Callable[[], Curve]) -> Curve:
    """What was measured, now or the last time."""
    if not path.exists():
        path.write_text(json.dumps(measure()) + "\n", encoding="utf-8")
    curve: Curve = json.loads(path.read_text("utf-8"))
    return curve


def trained(run: Path, data: Path, split: float, epochs: float, seed: int, options: list[str]) -> Curve:
    """The evaluations of a training in its last phase."""
    if not (run / "model.safetensors").exists():
        quality.train(run, data, split, epochs, seed, tuple(options))
    lines = map(json.loads, (run / "metrics.jsonl").read_text("utf-8").splitlines())
    return [point(line["seconds"], line) for line in lines if line["phases"][-1]["iterations"]]


def als(data: PreparedData, seed: int) -> Curve:
    """ALS by itself: one point."""
    start = time.perf_counter()
    factors = fit_baseline("als", data, seed=seed)
    seconds = time.perf_counter() - start
    return [point(seconds, rank_test_items(factors, data).metrics())]


def plain(data: PreparedData, epochs: float) -> Curve:
    """MLPerf's recipe as a person would write it, evaluated four times an epoch."""
    batch_size = 2048
    model, step = make_stepper("mlperf", data, batch_size)
    per_epoch = 5 * len(data.train) / batch_size
    curve, seconds, done = [], 0.0, 0
    for evaluation in range(1, max(1, round(4 * epochs)) + 1):
        start = time.perf_counter()
        while done < max(1, round(evaluation * per_epoch / 4)):
            step()
            done += 1
        seconds += time.perf_counter() - start
        curve.append(point(seconds, rank_test_items(plain_scorer(model), data).metrics()))
        click.echo(f"{PLAIN}: {evaluation / 4:g} epochs, {curve[-1]}", err=True)
    return curve


def plain_scorer(model: nn.Module) -> Callable[[NDArray[np.int64], NDArray[np.int32]], NDArray[np.float32]]:
    """A network as a function of users (n,) and candidates (n, m), a pair in each row of its batch."""

    def score(users: NDArray[np.int64], candidates: NDArray[np.int32]) -> NDArray[np.float32]:
        model.eval()
        owners = torch.from_numpy(users).repeat_interleave(candidates.shape[1])
        items = torch.from_numpy(candidates.astype(np.int64)).reshape(-1)
        with torch.inference_mode():
            logits: NDArray[np.float32] = model(owners, items).reshape(candidates.shape).numpy()
        return logits

    return score


def point(seconds: float, metrics: dict[str, Any]) -> dict[str, float]:
    """A point of a curve."""
    return {"seconds": seconds, "hit_ratio": metrics["hit_ratio"], "ndcg": metrics["ndcg"]}


def time_to(curves: list[Curve], wanted: float) -> float | None:
    """Seconds of the first evaluation that reaches a quality; None if none does."""
    return min((p["seconds"] for curve in curves for p in curve if p["hit_ratio"] >= wanted), default=None)


def table(document: dict[str, Any]) -> str:
    """Markdown."""
    lines = [
        f"{document['protocol']}; seconds of training until HR@10, seed {document['seed']}",
        "",
        f"| | {' | '.join(f'{q:g}' for q in QUALITIES)} | best |",
        "|---|" + "---|" * (len(QUALITIES) + 1),
    ]
    for row in document["rows"]:
        cells = ["" if seconds is None else f"{seconds:,.1f}" for seconds in row["seconds"].values()]
        best = max(p["hit_ratio"] for curve in row["curves"] for p in curve)
        lines.append(f"| {row['row']} | {' | '.join(cells)} | {best:.3f} |")
    return "\n".join(lines)


def draw(curves: dict[str, list[Curve]], path: Path, label: str) -> None:
    """Draw HR@10 against seconds, those on a logarithmic axis."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8, 4.5), layout="constrained")
    axes = figure.add_subplot()
    for number, (name, each) in enumerate(curves.items()):
        for curve in each:
            style = "o" if len(curve) == 1 else "-"
            seconds, ratios = ([p[key] for p in curve] for key in ("seconds", "hit_ratio"))
            axes.plot(seconds, ratios, style, color=f"C{number}", label=name if curve is each[0] else None)
    for wanted in QUALITIES:
        axes.axhline(wanted, color="0.8", linewidth=0.8, zorder=0)
    axes.set_xscale("log")
    axes.set_xlabel("seconds of training")
    axes.set_ylabel(f"HR@10 [{label}]")
    axes.legend(frameon=False)
    figure.savefig(path, metadata={"Date": None})


if __name__ == "__main__":
    main()
