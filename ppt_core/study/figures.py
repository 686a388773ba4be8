"""The figures of a study, drawn by matplotlib from its report."""

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Literal

from ppt_core.drawings import COLORS, MORE_COLORS, STYLE, lay_grid
from ppt_core.drawings import axes as axes_of
from ppt_core.study.report import Point, StudyReport

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

Cost = Literal["iterations", "seconds"]
_COSTS: dict[str, Cost] = {"figure1": "iterations", "figure2": "seconds"}
_MARKERS = {"full": "s", "ppt": "o", "low": "^"}
LEGEND = (
    (COLORS["full"], "■", "full precision"),
    (COLORS["ppt"], "●", "partial pre-training"),
    (COLORS["low"], "▲", "low precision"),
)
"""Colour, marker and name of each technique."""
_MOST = 0.75  # of a row or a column of the grid
_AXIS = {"iterations": "training iterations", "seconds": "training time (s)"}


def draw(report: StudyReport, width: float) -> dict[str, "Figure"]:
    """Every figure that the report has the trials for, by name, ``width`` inches wide.

    ``figure1`` and ``figure2``: accuracy against iterations and against seconds; ``figure3a``: accuracy over
    the grid; ``figure3b``: along its diagonals of equal budget.
    """
    import matplotlib as mpl

    with mpl.rc_context(STYLE):
        figures: dict[str, Figure] = {}
        if report.curves:
            figures |= {name: _curves(report, cost, width) for name, cost in _COSTS.items()}
        if _is_grid(report):
            figures["figure3a"] = _grid(report, width)
        if diagonals(report):
            figures["figure3b"] = _diagonals(report, width)
        return figures


def diagonals(report: StudyReport) -> dict[float, list[Point]]:
    """The points of each budget that was split in three ways at least, from none to all of it at full precision."""
    found: dict[float, list[Point]] = {}
    for point in report.grid:
        found.setdefault(round(point.epochs, 9), []).append(point)
    return {
        budget: sorted(points, key=lambda point: point.full)
        for budget, points in sorted(found.items())
        if len(points) >= 3 and min(point.full for point in points) == min(point.low for point in points) == 0
    }


def _method(split: float) -> str:
    return {1.0: "full", 0.0: "low"}.get(split, "ppt")


def _cost(point: Point, cost: Cost) -> float:
    return point.iterations if cost == "iterations" else point.seconds


def draw_panels(reports: Mapping[str, StudyReport], width: float) -> dict[str, "Figure"]:
    """``figure1`` and ``figure2`` with a panel for each study, as the source has them: `LEGEND` says what is what."""
    import matplotlib as mpl

    with mpl.rc_context(STYLE):
        return {name: _panels(reports, cost, width) for name, cost in _COSTS.items()}


def _panels(reports: Mapping[str, StudyReport], cost: Cost, width: float) -> "Figure":
    from matplotlib.figure import Figure

    n_columns = 2 if width > 5 else 1
    n_rows = math.ceil(len(reports) / n_columns)
    figure = Figure(figsize=(width, n_rows * width / n_columns * 0.8), layout="constrained")
    panels = figure.subplots(n_rows, n_columns, squeeze=False).ravel()
    for panel, (name, report) in zip(panels, reports.items(), strict=False):
        lay_grid(panel)
        if report.curves:
            _draw_curves(panel, report, cost)
        panel.set_title(name, fontsize=10, loc="left")
    for panel in panels[len(reports) :]:
        panel.set_visible(False)
    return figure


def _curves(report: StudyReport, cost: Cost, width: float) -> "Figure":
    figure, axes = axes_of(width, 0.62 if width > 5 else 0.95)
    _label_ends(axes, _draw_curves(axes, report, cost), narrow=width < 5)
    return figure


def _draw_curves(axes: "Axes", report: StudyReport, cost: Cost) -> list[tuple[float, float, str, str]]:
    """Draw each curve; return where it ends (y, x), its name and its colour."""
    from matplotlib.ticker import LogLocator, NullFormatter, StrMethodFormatter

    labels = []
    others = iter(MORE_COLORS)
    n_ppt = 0
    for curve in report.curves:
        method = _method(curve.split)
        n_ppt += method == "ppt"
        color = COLORS[method] if method != "ppt" or n_ppt == 1 else next(others, MORE_COLORS[-1])
        x = [_cost(point, cost) for point in curve.points]
        y = [point.median for point in curve.points]
        lowest, highest = [point.lowest for point in curve.points], [point.highest for point in curve.points]
        axes.fill_between(x, lowest, highest, color=color, alpha=0.18, linewidth=0)
        axes.plot(x, y, color=color, marker=_MARKERS[method], markersize=4.5, linewidth=1.8, clip_on=False)
        labels.append((y[-1], x[-1], curve.name, color))
    costs = [_cost(point, cost) for curve in report.curves for point in curve.points]
    if max(costs) >= 4 * min(costs):
        axes.set_xscale("log", base=2)
        axes.xaxis.set_major_locator(LogLocator(base=2, numticks=8))
        axes.xaxis.set_minor_formatter(NullFormatter())
    axes.xaxis.set_major_formatter(StrMethodFormatter("{x:,.4g}" if max(costs) < 1e4 else "{x:,.0f}"))
    axes.set_xlabel(_AXIS[cost])
    axes.set_ylabel(report.metric["title"])
    return labels


def _label_ends(axes: "Axes", labels: list[tuple[float, float, str, str]], *, narrow: bool) -> None:
    """Write each curve's name at its end, pushed apart where they would lie on each other; narrow: on top."""
    if narrow:
        for row, (_, _, name, color) in enumerate(labels):
            axes.annotate(name, (0, 1), xycoords="axes fraction", xytext=(4, 4 + 14 * (len(labels) - 1 - row)),
                          textcoords="offset points", color=color, fontweight="bold", fontsize=10)  # fmt: skip
        return
    bottom, top = axes.get_ylim()
    gap, place = 0.055 * (top - bottom), float("-inf")
    for y, x, name, color in sorted(labels):
        place = max(place + gap, y)
        name = name.replace("partial pre-training", "partial\npre-training") if len(labels) <= 3 else name
        axes.annotate(name, (x, y), xytext=(1.02, place), textcoords=("axes fraction", "data"), color=color,
                      va="center", fontweight="bold", fontsize=9.5, annotation_clip=False)  # fmt: skip
        place += 0.03 * (top - bottom) * name.count("\n")


def _is_grid(report: StudyReport) -> bool:
    return len(report.grid) >= 8 and all(len(lengths) >= 3 for lengths in _lengths(report))


def _lengths(report: StudyReport) -> tuple[list[float], list[float]]:
    """Lengths of the two phases that were combined with most of the other's: the grid's, not those of the curves."""
    cells = {(0, 0), *((point.full, point.low) for point in report.grid)}  # 0 with 0 is no training
    phases = [sorted({cell[phase] for cell in cells}) for phase in (0, 1)]
    while all(phases):
        shares = [
            (sum((full, low) in cells for full in phases[0] for low in phases[1] if length == (full, low)[phase])
             / len(phases[1 - phase]), length, phase)
            for phase in (0, 1) for length in phases[phase]
        ]  # fmt: skip
        share, length, phase = min(shares)
        if share >= _MOST:
            break
        phases[phase].remove(length)
    return phases[0], phases[1]


def _grid(report: StudyReport, width: float) -> "Figure":
    import numpy as np

    columns, rows = _lengths(report)
    values = np.full((len(rows), len(columns)), np.nan)
    for point in report.grid:
        if point.full in columns and point.low in rows:
            values[rows.index(point.low), columns.index(point.full)] = point.median
    figure, axes = axes_of(width, 0.66 if width > 5 else 0.95)
    axes.grid(visible=False)
    image = axes.imshow(values, origin="lower", cmap="cividis", aspect="auto")
    middle = (np.nanmin(values) + np.nanmax(values)) / 2
    for row, column in np.argwhere(np.isfinite(values)):
        value = values[row, column]
        axes.text(column, row, f"{value:.3f}".lstrip("0"), ha="center", va="center", fontsize=9,
                  color="white" if value < middle else "black")  # fmt: skip
    axes.set_xticks(range(len(columns)), [f"{length:g}" for length in columns])
    axes.set_yticks(range(len(rows)), [f"{length:g}" for length in rows])
    axes.set_xlabel("epochs at full precision")
    axes.set_ylabel("epochs at low precision, after them")
    axes.spines[:].set_visible(False)
    axes.tick_params(length=0)
    if width > 5:
        figure.colorbar(image, ax=axes, label=report.metric["title"]).outline.set_visible(False)
    return figure


def _diagonals(report: StudyReport, width: float) -> "Figure":
    figure, axes = axes_of(width, 0.62 if width > 5 else 0.95)
    ends = []
    for budget, points in diagonals(report).items():
        x = [point.full / budget for point in points]
        y = [point.median for point in points]
        axes.fill_between(x, [point.lowest for point in points], [point.highest for point in points],
                          color=COLORS["ppt"], alpha=0.12, linewidth=0)  # fmt: skip
        axes.plot(x, y, color=COLORS["ppt"], marker="o", markersize=4.5, linewidth=1.6, clip_on=False)
        ends.append((y[-1], x[-1], f"{budget:g} epochs", COLORS["ppt"]))
    axes.set_xlabel("fraction of the budget at full precision (--split)")
    axes.set_ylabel(report.metric["title"])
    axes.set_xlim(0, 1)
    _label_ends(axes, ends, narrow=False)
    return figure
