"""HR@10 and NDCG@10 of full precision, partial pre-training and low precision at several budgets.

Every cell is trained by the `ppt-ncf train` command, and a finished one is never trained again:

    python -m benchmarks.quality --data ml-1m --epochs 4,8,16 --seeds 0,1,2 --runs runs/quality
    python -m benchmarks.quality --data ml-1m --epochs 20 --seeds 0 --runs runs/published -- --factors 8 ...

Arguments behind ``--`` go to `ppt-ncf train`. A training of one precision at a constant learning rate passes through
every shorter one, bit for bit, so it runs once for each seed, at the longest budget; partial pre-training runs once for
each budget.
"""

import json
import statistics
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click

SPLITS = {1.0: "full precision", 0.5: "partial pre-training", 0.0: "low precision"}


@click.command()
@click.option("--data", type=click.Path(path_type=Path, exists=True), required=True)
@click.option("--epochs", default="4,8,16", show_default=True)
@click.option("--seeds", default="0,1,2", show_default=True)
@click.option("--splits", default="1,0.5,0", show_default=True)
@click.option("--runs", type=click.Path(path_type=Path), required=True, help="Folder for the run folders.")
@click.option("--json", "as_json", is_flag=True, help="JSON lines instead of a table.")
@click.argument("train_options", nargs=-1)
def main(
    data: Path, epochs: str, seeds: str, splits: str, runs: Path, as_json: bool, train_options: tuple[str, ...]
) -> None:
    """Train what is missing, then print the table."""
    budgets = sorted(float(epoch) for epoch in epochs.split(","))
    rows = []
    for seed in (int(seed) for seed in seeds.split(",")):
        for split in (float(split) for split in splits.split(",")):
            for budget in budgets if 0 < split < 1 else budgets[-1:]:
                run = runs / f"split{split:g}-epochs{budget:g}-seed{seed}"
                train(run, data, split, budget, seed, train_options)
                rows += list(results(run, split, [budget] if 0 < split < 1 else budgets, seed))
    print("\n".join(map(json.dumps, rows)) if as_json else table(rows, budgets))


def train(run: Path, data: Path, split: float, epochs: float, seed: int, options: tuple[str, ...]) -> None:
    """Run one training to its end, or the rest of it."""
    resume = ["--resume"] if (run / "config.json").exists() else []
    settings = ["--split", str(split), "--epochs", str(epochs), "--seed", str(seed), *options, *resume]
    command = [sys.executable, "-m", "ppt_commands", "train", "--data", str(data), "--out", str(run)]
    subprocess.run([*command, *settings, "--json"], check=True, stdout=subprocess.DEVNULL)


def results(run: Path, split: float, budgets: list[float], seed: int) -> Iterator[dict[str, Any]]:
    """The evaluations of a run at the budgets."""
    for line in map(json.loads, (run / "metrics.jsonl").read_text("utf-8").splitlines()):
        if line["epochs"] in budgets:
            keys = ("hit_ratio", "ndcg", "tie_rate", "iterations", "protocol")
            yield {"split": split, "epochs": line["epochs"], "seed": seed, **{key: line[key] for key in keys}}


def table(rows: list[dict[str, Any]], budgets: list[float]) -> str:
    """Markdown: medians over the seeds, with the lowest and the highest."""
    lines = [
        f"{rows[0]['protocol']}; HR@10 / NDCG@10, median [lowest, highest] (number of seeds)",
        "",
        "| | " + " | ".join(f"{budget:g} epochs" for budget in budgets) + " |",
        "|---|" + "---|" * len(budgets),
    ]
    for split, name in SPLITS.items():
        cells = []
        for budget in budgets:
            cell = [row for row in rows if row["split"] == split and row["epochs"] == budget]
            cells.append(f"{spread(cell, 'hit_ratio')} / {spread(cell, 'ndcg')} ({len(cell)})" if cell else "")
        if any(cells):
            lines.append(f"| {name} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def spread(rows: list[dict[str, Any]], key: str) -> str:
    """Median [lowest, highest]."""
    values = [row[key] for row in rows]
    return f"{statistics.median(values):.4f} [{min(values):.4f}, {max(values):.4f}]"


if __name__ == "__main__":
    main()
