"""Sum up the trials of a study."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np

from ppt_core.damaged import understanding
from ppt_core.errors import DataError
from ppt_core.runs.settings import published_settings
from ppt_core.study.curves import (
    Cell,
    Cost,
    Curve,
    SpeedUp,
    Trials,
    best_splits,
    bootstrap_speed_up,
    cells_of,
    curve_cells,
    speed_up,
)
from ppt_core.study.report import COST_NAMES, BestSplit, ChosenOn, MethodCurve, MethodSpeedUp, Point, StudyReport
from ppt_core.study.study import Study

_PROVENANCE = ("version", "torch", "numba", "numpy", "python", "system", "cpu", "gpu", "cores", "threads", "mkl_cbwr")
_OF_LATER = ("source", "commit")  # older trials do not name them


def summarize(study: Study) -> StudyReport:
    """Report on a study, finished or not. Raises `DataError` if no trial has finished, or one says what none does."""
    with understanding(study.path):
        return _summarize(study)


def _summarize(study: Study) -> StudyReport:
    records = study.records()
    if not records:
        raise DataError(f"no trial of {study.path} has finished; run `study run --out {study.path}` again")
    plan, metric, speed = study.plan(), study.settings["metric"], study.speed()
    plain = None if speed is None else speed.plain
    cells = cells_of(records, metric["key"], plain)
    points = {cell: point_of(cell, trials) for cell, trials in cells.items()}
    by_split = {split: curve_cells(cells, split) for split in sorted(plan["splits"], key=_place)}
    found = {split: curve for split, curve in by_split.items() if curve}
    return StudyReport(
        metric=metric,
        settings=published_settings(study.settings),
        protocol=records[0].get("protocol"),
        n_finished=len(records),
        n_planned=len({*plan["trials"], *(record["name"] for record in records)}),
        curves=tuple(
            MethodCurve(split=split, points=tuple(points[cell] for cell in curve)) for split, curve in found.items()
        ),
        grid=tuple(points.values()),
        speed_ups=tuple(
            method_speed_up(split, curve, found.get(0.0, {}), cost)
            for split, curve in found.items()
            if 0 < split < 1
            for cost in COST_NAMES
            if cost != "plain_seconds" or plain is not None
        ),
        splits=_splits(points, records, metric["key"]),
        speed=speed,
        wall_clock=records[0]["wall_clock"],
        provenance=_distinct(records),
        n_resumed=sum(record["resumed"] for record in records),
        n_shared=sum(record.get("first_phase") is not None for record in records),  # older ones do not say
    )


def _place(split: float) -> tuple[float, float, float]:
    """Full precision first, low precision last, and between them what is nearest to split 0.5 first."""
    return {1.0: 0, 0.0: 2}.get(split, 1), abs(split - 0.5), -split


def point_of(cell: Cell, trials: Trials) -> Point:
    """Sum up the trials of a cell."""
    return Point(
        full=cell[0],
        low=cell[1],
        iterations=float(np.median(trials.iterations)),
        seconds=float(np.median(trials.seconds)),
        median=float(np.median(trials.accuracy)),
        lowest=float(trials.accuracy.min()),
        highest=float(trials.accuracy.max()),
        accuracies=tuple(trials.accuracy.tolist()),
    )


def method_speed_up(split: float, ppt: Mapping[Cell, Trials], low: Mapping[Cell, Trials], cost: Cost) -> MethodSpeedUp:
    """Compare the cells of a split with those of low precision."""
    if not low:
        note = "no trial at low precision (split 0) has finished, so there is nothing to compare with"
        return MethodSpeedUp(split=split, cost=cost, found=SpeedUp(factor=None, note=note))
    of_ppt, of_low = list(ppt.values()), list(low.values())
    found = speed_up(Curve.of_medians(of_ppt, cost), Curve.of_medians(of_low, cost))
    if found.factor is None:
        return MethodSpeedUp(split=split, cost=cost, found=found)
    drawn = bootstrap_speed_up(of_ppt, of_low, cost)
    notes = [found.note] if found.note else []
    if drawn.interval is None and drawn.n_resamples:
        notes.append(f"no interval: {drawn.n_without} of {drawn.n_resamples} resamples have nothing to compare")
    return MethodSpeedUp(split=split, cost=cost, found=replace(found, note="; ".join(notes)), resamples=drawn)


def _splits(points: dict[Cell, Point], records: list[dict[str, Any]], metric: str) -> tuple[BestSplit, ...]:
    """The best split at each budget, chosen on the validation set if there is one, beside split 0.5."""
    chosen_on: ChosenOn = "validation" if all("validation" in record for record in records) else "test"
    judged = records if chosen_on == "test" else [record | {metric: record["validation"][metric]} for record in records]
    halves = {round(point.epochs, 9): point for (full, low), point in points.items() if full == low}
    return tuple(
        BestSplit(epochs=epochs, split=split, best=points[cell], half=halves.get(epochs), chosen_on=chosen_on)
        for epochs, (split, cell) in best_splits(cells_of(judged, metric)).items()
    )


def _distinct(records: list[dict[str, Any]]) -> tuple[dict[str, Any], ...]:
    """The different machines and versions that trials ran on, with how many each."""
    found: dict[str, dict[str, Any]] = {}
    for record in records:
        where = {key: record[key] for key in _PROVENANCE} | {key: record[key] for key in _OF_LATER if key in record}
        entry = found.setdefault(repr(where), {**where, "n_trials": 0})
        entry["n_trials"] += 1
    return tuple(found.values())
