"""What a study shows, as numbers: medians, speed-ups, speed of the steps, and how all that came about."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ppt_core.errors import DataError
from ppt_core.study.curves import (
    Cell,
    Cost,
    Curve,
    Trials,
    best_splits,
    bootstrap_speed_up,
    cells_of,
    curve_cells,
    speed_up,
)
from ppt_core.study.study import Study

FORMAT_VERSION = 1
COST_NAMES: dict[Cost, str] = {
    "iterations": "iterations",
    "seconds": "seconds",
    "plain_seconds": "seconds of plain PyTorch",
}
_PROVENANCE = ("version", "torch", "numba", "numpy", "python", "system", "cpu", "gpu", "cores", "threads", "mkl_cbwr")


def summarize(study: Study) -> dict[str, Any]:
    """Return ``report.json`` of a study, finished or not.

    ``curves`` holds for each split that was compared, 0.5 before others of its kind, its points in ascending order of
    budget, ``grid`` every cell of (full, low) epochs, ``speed_ups`` each split between 0 and 1 against low precision,
    in iterations, in seconds, and in the seconds that the same iterations take at the rates of
    `ppt_core.device.plain_operations`, which say how much of the gain hangs on this project's own low-precision step.
    ``splits`` holds for each budget that was split in three ways or more the best split, beside split 0.5.

    Raises `DataError` if no trial has finished.
    """
    records = study.records()
    if not records:
        raise DataError(f"no trial of {study.path} has finished; run `study run --out {study.path}` again")
    plan, metric = study.plan(), study.settings["metric"]
    speed = study.speed()
    plain_rates = speed and speed.get("plain")
    cells = cells_of(records, metric["key"], plain_rates)
    curves = {split: curve_cells(cells, split) for split in sorted(plan["splits"], key=_place)}
    return {
        "format_version": FORMAT_VERSION,
        "metric": metric,
        "settings": _published(study.settings),
        "protocol": records[0].get("protocol"),
        "trials": {"finished": len(records), "planned": len({*plan["trials"], *(r["name"] for r in records)})},
        "curves": [
            {"split": split, "name": method_name(split), "points": [_point(cell) for cell in found]}
            for split, found in curves.items()
            if found
        ],
        "grid": [{"full": full, "low": low, **_point(cell)} for (full, low), cell in cells.items()],
        "speed_ups": [
            {"split": split, "name": method_name(split), "cost": cost, **_speed_up(found, curves.get(0.0, []), cost)}
            for split, found in curves.items()
            if found and 0 < split < 1
            for cost in COST_NAMES
            if cost != "plain_seconds" or plain_rates
        ],
        "splits": _splits(cells),
        "speed": speed,
        "wall_clock": records[0]["wall_clock"],
        "provenance": _distinct(records),
        "n_resumed": sum(record["resumed"] for record in records),
    }


def _place(split: float) -> tuple[float, float, float]:
    """Full precision first, low precision last, and between them what is nearest to split 0.5 first."""
    return {1.0: 0, 0.0: 2}.get(split, 1), abs(split - 0.5), -split


def _published(settings: dict[str, Any]) -> dict[str, Any]:
    """Settings with the name of the data's folder in place of its path, which is this machine's own business."""
    data = dict(settings.get("data", {}))
    path = data.pop("path", None)
    return {**settings, "data": {"name": path and Path(path).name, **data}}


def method_name(split: float) -> str:
    """What a curve is called."""
    if split in (0, 1):
        return "full precision" if split else "low precision"
    return "partial pre-training" if split == 0.5 else f"partial pre-training, split {split:g}"


def speed_up_text(entry: dict[str, Any]) -> str:
    """One speed-up in words."""
    if entry["factor"] is None:
        return f"none ({entry['note']})"
    interval = entry["interval"]
    within = f" [{interval[0]:.2f}, {interval[1]:.2f}]" if interval else ""
    note = f" ({entry['note']})" if entry["note"] else ""
    return f"{entry['factor']:.2f}x{within}{note}"


def range_text(point: dict[str, Any]) -> str:
    """Median, lowest and highest accuracy of a point."""
    return f"{point['median']:.4f} ({point['lowest']:.4f}-{point['highest']:.4f})"


def _point(cell: Trials) -> dict[str, Any]:
    return {
        "iterations": float(np.median(cell.iterations)),
        "seconds": float(np.median(cell.seconds)),
        "median": float(np.median(cell.accuracy)),
        "lowest": float(cell.accuracy.min()),
        "highest": float(cell.accuracy.max()),
        "accuracies": cell.accuracy.tolist(),
        "n_trials": len(cell),
    }


def _speed_up(ppt: Sequence[Trials], low: Sequence[Trials], cost: Cost) -> dict[str, Any]:
    if not low:
        return {
            "factor": None,
            "interval": None,
            "range_covered": 0.0,
            "note": "no trial at low precision (split 0) has finished, so there is nothing to compare with",
        }
    found = speed_up(Curve.of_medians(ppt, cost), Curve.of_medians(low, cost))
    if found.factor is None:
        return {**vars(found), "interval": None}
    spread = bootstrap_speed_up(ppt, low, cost)
    notes = [found.note] if found.note else []
    if spread["interval"] is None and spread["n_resamples"]:
        notes.append(f"no interval: {spread['n_without']} of {spread['n_resamples']} resamples have nothing to compare")
    return {**vars(found), **spread, "note": "; ".join(notes)}


def _splits(cells: dict[Cell, Trials]) -> list[dict[str, Any]]:
    """The best split at each budget and split 0.5, or None where that was not trained."""
    halves = {round(full + low, 9): trials for (full, low), trials in cells.items() if full == low}
    return [
        {
            "epochs": epochs,
            "best": {"split": split, **_point(cells[cell])},
            "half": _point(halves[epochs]) if epochs in halves else None,
        }
        for epochs, (split, cell) in best_splits(cells).items()
    ]


def _distinct(records: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The different machines and versions that trials ran on, with how many each."""
    found: dict[str, dict[str, Any]] = {}
    for record in records:
        where = {key: record[key] for key in _PROVENANCE}
        entry = found.setdefault(repr(where), {**where, "n_trials": 0})
        entry["n_trials"] += 1
    return list(found.values())
