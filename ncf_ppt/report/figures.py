"""The figures of a report on runs, drawn by matplotlib."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from ncf_ppt.report.measured import GroupOfUsers, RunReport
from ppt_core.drawings import COLORS, INK, MORE_COLORS, STYLE, axes, lay_grid

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

SERIES = ((COLORS["ppt"], "o", "●"), (COLORS["full"], "s", "■"), (COLORS["low"], "^", "▲"),
          (MORE_COLORS[0], "D", "◆"), (MORE_COLORS[1], "v", "▼"), (MORE_COLORS[2], "P", "✚"))  # fmt: skip
"""Colour, marker and the marker as a letter of each run; from the seventh on they begin anew."""


def draw(report: RunReport, width: float) -> dict[str, "Figure"]:
    """``curves``: metrics over epochs; ``popularity`` and ``activity``: HR@k of groups; ``width`` in inches."""
    import matplotlib as mpl

    with mpl.rc_context(STYLE):
        return {
            "curves": _curves(report, width),
            "popularity": _groups(
                [run.by_popularity for run in report.runs], report.k, "train positives of the held-out item", width
            ),
            "activity": _groups(
                [run.by_activity for run in report.runs], report.k, "train positives of the user", width
            ),
        }


def _curves(report: RunReport, width: float) -> "Figure":
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, width * (0.8 if width > 5 else 1.5)), layout="constrained")
    panels: Sequence[Axes] = figure.subplots(2, 1, sharex=True)
    titles: Mapping[str, str] = {"hit_ratio": f"HR@{_k(report)}", "ndcg": f"NDCG@{_k(report)}"}
    for panel, (metric, title) in zip(panels, titles.items(), strict=True):
        lay_grid(panel)
        for number, run in enumerate(report.runs):
            color, marker, _ = SERIES[number % len(SERIES)]
            epochs = [line["epochs"] for line in run.history]
            panel.plot(epochs, [line[metric] for line in run.history], color=color, marker=marker, markersize=4.5,
                       linewidth=1.8, clip_on=False)  # fmt: skip
            checked = [line["validation"][metric] for line in run.history if "validation" in line]
            if checked:
                panel.plot(epochs, checked, color=color, linestyle=":", linewidth=1.4)
            switch = _switch(run.history[-1])
            if switch is not None:
                panel.axvline(switch, color=color, linestyle="--", linewidth=1, alpha=0.6)
        panel.set_ylabel(title)
    panels[-1].set_xlabel("epochs")
    return figure


def _k(report: RunReport) -> int:
    return int(report.runs[0].history[-1].get("k", 10))


def _switch(last: Mapping[str, object]) -> float | None:
    """The epoch at which the network became binarized; None where it was from the start, or never."""
    phases: Sequence[Mapping[str, object]] = last["phases"]  # type: ignore[assignment]
    trained = {str(phase["precision"]): phase["iterations"] for phase in phases if phase["iterations"]}
    if not {"full", "low"} <= set(trained):
        return None
    return float(last["epochs"]) * trained["full"] / (trained["full"] + trained["low"])  # type: ignore


def _groups(groups: Sequence[Sequence[GroupOfUsers]], k: int, what: str, width: float) -> "Figure":
    figure, panel = axes(width, 0.5 if width > 5 else 0.85)
    step = 0.5 / max(1, len(groups))
    for number, of_run in enumerate(groups):
        color, marker, _ = SERIES[number % len(SERIES)]
        places = [place + step * (number - (len(groups) - 1) / 2) for place in range(len(of_run))]
        means = [group.hit_ratio.mean for group in of_run]
        spread = [[group.hit_ratio.mean - group.hit_ratio.lower for group in of_run],
                  [group.hit_ratio.upper - group.hit_ratio.mean for group in of_run]]  # fmt: skip
        panel.errorbar(places, means, spread, color=color, marker=marker, markersize=5, linewidth=1.2, elinewidth=1.4,
                       capsize=2)  # fmt: skip
    labels = [_range(group, narrow=width < 5) for group in groups[0]]
    panel.set_xticks(range(len(labels)), labels, fontsize=10 if width > 5 else 9, color=INK)
    panel.set_xlabel(what)
    panel.set_ylabel(f"HR@{k}")
    panel.set_ylim(bottom=0)
    return figure


def _range(group: GroupOfUsers, *, narrow: bool) -> str:
    if group.lowest == group.highest:
        return f"{group.lowest:,}"
    return f"{group.lowest:,}\nto {group.highest:,}" if narrow else f"{group.lowest:,} to {group.highest:,}"
