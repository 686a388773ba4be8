"""HR@10 of ALS at its best settings, and of the warm recipe that starts from it: chosen on validation items.

    python -m benchmarks.als_settings --validation games-validation --data games --seeds 0,1,2,3,4

``--validation`` was prepared from the same ratings with `prepare --validation`. The settings with the highest HR@10
among the validation negatives win, seed 0. They are then measured on the test items of ``--data``, and so is the warm
recipe with their regularization and alpha in its start. Rows have the shape of those of `benchmarks.recipe`.
"""

import itertools
import json
import sys
import time
from dataclasses import asdict
from pathlib import Path

import click

from benchmarks.provenance import provenance
from benchmarks.recipe import measured, table
from data_prep.ratings.any_source import load_data
from data_prep.ratings.interactions import PreparedData
from ncf_ppt.baselines import ALSConfig, fit_baseline
from ncf_ppt.evaluation import evaluate
from ncf_ppt.fitting import fit
from ncf_ppt.warm_start import ALSStart

FACTORS = 32, 128
REGULARIZATIONS = 10.0, 30.0, 100.0, 300.0, 1000.0
ALPHAS = 5.0, 20.0, 60.0, 200.0


@click.command()
@click.option("--validation", required=True, help="A set that was prepared with --validation.")
@click.option("--data", required=True, help="The set whose test items are measured.")
@click.option("--seeds", default="0,1,2,3,4", show_default=True)
@click.option("--json", "as_json", is_flag=True, help="JSON lines instead of a table.")
def main(validation: str, data: str, seeds: str, as_json: bool) -> None:
    """Choose, measure and print."""
    best = chosen(load_data(validation).for_validation())
    rows, prepared = [], load_data(data)
    start = ALSStart(regularization=best.regularization, alpha=best.alpha)
    for seed in map(int, seeds.split(",")):
        began = time.perf_counter()
        als = fit_baseline(best, prepared, seed=seed)
        rows.append(measured(als, prepared, "ALS at its best", seed, time.perf_counter() - began))
        warm = fit(prepared, recipe="warm", warm_start=start, seed=seed, eval_every=0, progress=False)
        rows.append(measured(warm.scorer(), prepared, "recipe warm from it", seed, warm.result.seconds))
    rows = [row | {"data": Path(data).name, "settings": asdict(best)} for row in rows]
    print("\n".join(json.dumps(row | {"about": provenance()}) for row in rows) if as_json else table(rows))


def chosen(data: PreparedData) -> ALSConfig:
    """The settings with the highest HR@10 among the negatives of ``data``, whose test items are validation items."""
    found = []
    for factors, regularization, alpha in itertools.product(FACTORS, REGULARIZATIONS, ALPHAS):
        config = ALSConfig(factors=factors, regularization=regularization, alpha=alpha)
        found.append((evaluate(fit_baseline(config, data), data).hit_ratio(), config))
        print(f"{config}: {found[-1][0]:.4f}", file=sys.stderr)
    return max(found, key=lambda each: each[0])[1]


if __name__ == "__main__":
    main()
