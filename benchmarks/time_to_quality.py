"""Seconds of training until HR@10 reaches a quality, MLPerf's own measure, for several ways to train on the same data.

    python -m benchmarks.time_to_quality --data ml-1m-ncf --runs runs/time
    python -m benchmarks.time_to_quality --data ml-1m-ncf --runs runs/time --rows als,warm --threads 1

Every training is one of the `ppt-ncf train` command, but for those in PyTorch alone, whose steps are those of
`benchmarks.train_step`, and ALS alone. Evaluations do not count, what a start from ALS takes does. Of a
training that switches precision only what comes after the switch counts, and of its budgets the fastest one for each
quality. What --runs holds is never measured again and always shown, so rows may be measured piece by piece; an
interrupted training goes on. The curves are drawn in ``curves.svg`` there.
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
from benchmarks.provenance import document, provenance
from benchmarks.train_step import make_stepper
from data_prep.ratings.interactions import PreparedData
from ncf_ppt.baselines import fit_baseline
from ncf_ppt.ranking import rank_test_items
from ppt_core.threads import set_threads

QUALITIES = ".635,.685,.69,.72,.80"  # the first is MLPerf's; NeuMF ends at the next two; then ALS and beyond
ALS = "als"
PLAIN = {"plain PyTorch": "mlperf", "PyTorch at its best": "fused"}
"""Rows of `benchmarks.train_step`: MLPerf's recipe as it is, and the same with vectorized sampling and fused Adam."""
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
    "warm": [(0, 3, "--recipe warm --eval-every 0.05")],
}
"""Split, epochs and options of the trainings of each row."""
ROWS = (*PLAIN, *TRAININGS, ALS)
COLORS = dict(
    zip(
        ROWS,
        ("#7f7f7f", "#b8b8b8", "#0072b2", "#d55e00", "#009e73", "#b08d00", "#56b4e9", "#cc3377", "#1c1d1f"),
        strict=True,
    )
)
Curve = list[dict[str, float]]


@click.command()
@click.option("--data", type=click.Path(path_type=Path, exists=True), required=True)
@click.option("--runs", type=click.Path(path_type=Path), required=True, help="Folder for the run folders and curves.")
@click.option("--rows", default=",".join(ROWS), show_default=True, help="What to measure if --runs does not hold it.")
@click.option("--qualities", default=QUALITIES, show_default=True, help="HR@10 to reach, ascending.")
@click.option("--seed", default=0, show_default=True)
@click.option("--threads", type=click.IntRange(min=1), help="Threads of every row; by default all.")
@click.option("--plain-epochs", default=4.0, show_default=True, help="Length of plain PyTorch's training.")
@click.option("--json", "as_json", is_flag=True)
@click.argument("train_options", nargs=-1)
def main(
    data: Path,
    runs: Path,
    rows: str,
    qualities: str,
    seed: int,
    threads: int | None,
    plain_epochs: float,
    as_json: bool,
    train_options: tuple[str, ...],
) -> None:
    """Train what is missing, then print the table and draw the curves. Arguments behind -- go to every `train`."""
    unknown = set(rows.split(",")) - set(ROWS)
    if unknown:
        raise click.UsageError(f"--rows names {', '.join(sorted(unknown))}; choose of {', '.join(ROWS)}")
    runs.mkdir(parents=True, exist_ok=True)
    prepared = PreparedData.load(data)
    options = [*train_options, "--threads", str(set_threads(threads))]
    for name in rows.split(","):
        path = runs / f"{name.replace(' ', '-')}-seed{seed}.json"
        if not path.exists():
            curves = measured(name, prepared, data, path.with_suffix(""), seed, plain_epochs, options)
            row = {"row": name, "protocol": prepared.protocol_label, "seed": seed, "curves": curves}
            path.write_text(json.dumps(row | {"about": provenance()}) + "\n", encoding="utf-8")
    wanted = [float(quality) for quality in qualities.split(",")]
    found = [json.loads(path.read_text("utf-8")) for path in runs.glob(f"*-seed{seed}.json")]
    for row in found:
        row["seconds"] = {f"{quality:g}": time_to(row["curves"], quality) for quality in wanted}
    found.sort(key=lambda row: ROWS.index(row["row"]))
    draw(found, runs / "curves.svg")
    click.echo(document(found) if as_json else table(found))


def measured(
    name: str, prepared: PreparedData, data: Path, run: Path, seed: int, plain_epochs: float, options: list[str]
) -> list[Curve]:
    """The curves of a row; ``run`` is where its run folders begin."""
    if name in PLAIN:
        return [plain(name, prepared, plain_epochs)]
    if name == ALS:
        return [als(prepared, seed)]
    return [
        trained(run.with_name(f"{run.name}-{epochs:g}"), data, split, epochs, seed, [*own.split(), *options])
        for split, epochs, own in TRAININGS[name]
    ]


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


def plain(name: str, data: PreparedData, epochs: float) -> Curve:
    """MLPerf's recipe in PyTorch alone, evaluated four times an epoch."""
    batch_size = 2048
    model, step = make_stepper(PLAIN[name], data, batch_size)
    per_epoch = 5 * len(data.train) / batch_size
    curve, seconds, done = [], 0.0, 0
    for evaluation in range(1, max(1, round(4 * epochs)) + 1):
        start = time.perf_counter()
        while done < max(1, round(evaluation * per_epoch / 4)):
            step()
            done += 1
        seconds += time.perf_counter() - start
        curve.append(point(seconds, rank_test_items(plain_scorer(model), data).metrics()))
        click.echo(f"{name}: {evaluation / 4:g} epochs, {curve[-1]}", err=True)
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


def table(rows: list[dict[str, Any]]) -> str:
    """Markdown."""
    qualities = rows[0]["seconds"]
    lines = [
        f"{rows[0]['protocol']}; seconds of training until HR@10, seed {rows[0]['seed']}",
        "",
        f"| | {' | '.join(qualities)} | best |",
        "|---|" + "---|" * (len(qualities) + 1),
    ]
    for row in rows:
        cells = ["" if seconds is None else f"{seconds:,.1f}" for seconds in row["seconds"].values()]
        best = max(p["hit_ratio"] for curve in row["curves"] for p in curve)
        lines.append(f"| {row['row']} | {' | '.join(cells)} | {best:.3f} |")
    return "\n".join(lines)


def draw(rows: list[dict[str, Any]], path: Path) -> None:
    """Draw HR@10 against seconds, those on a logarithmic axis, on white: it is read on dark pages, too."""
    import matplotlib as mpl
    from matplotlib.figure import Figure

    with mpl.rc_context({"font.size": 10, "svg.hashsalt": "ppt", "axes.spines.top": False, "axes.spines.right": False}):
        figure = Figure(figsize=(8, 4.5), layout="constrained", facecolor="white")
        axes = figure.add_subplot()
        for row in rows:
            for number, curve in enumerate(row["curves"]):
                style = "o" if len(curve) == 1 else "-"
                seconds, ratios = ([p[key] for p in curve] for key in ("seconds", "hit_ratio"))
                label = None if number else row["row"]
                axes.plot(seconds, ratios, style, color=COLORS[row["row"]], linewidth=1.8, label=label)
        for wanted in rows[0]["seconds"]:
            axes.axhline(float(wanted), color="0.85", linewidth=0.8, zorder=0)
        axes.set_xscale("log")
        axes.xaxis.set_major_formatter("{x:g}")
        axes.set_xlabel("seconds of training")
        axes.set_ylabel("HR@10")
        axes.set_title(rows[0]["protocol"], fontsize=10)
        figure.legend(loc="outside right center", frameon=False)
        figure.savefig(path, metadata={"Date": None, "Creator": None})


if __name__ == "__main__":
    main()
