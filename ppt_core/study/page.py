"""A study's report as files: pictures, numbers, and one HTML page that needs nothing else."""

import re
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ppt_core.drawings import WIDE, drawn, save
from ppt_core.html_pages import card, cards, details, figure, html_page, note, preformatted, table
from ppt_core.json_text import json_text
from ppt_core.runs.files import new_directory, refuse_existing
from ppt_core.runs.provenance import in_words
from ppt_core.runs.settings import settings_by_name
from ppt_core.study.curves import LOWEST_SHARE, N_TARGETS
from ppt_core.study.figures import draw
from ppt_core.study.report import COST_NAMES, MethodSpeedUp, Point, StudyReport

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_OF_A_REPORT = re.compile(r"index\.html|report\.json|figure\w+\.(png|svg)")
TITLES = {
    "figure1": (
        "Figure 1. Accuracy against training iterations",
        "Each point is the median of independent trainings, each with its whole schedule compressed to that many "
        "iterations; the band spans the lowest and the highest of them. The further left a curve reaches an "
        "accuracy, the sooner.",
    ),
    "figure2": (
        "Figure 2. Accuracy against training time",
        "The same trainings on the clock: from just before the first iteration to just after the last, the switch "
        "to low precision included.",
    ),
    "figure3a": (
        "Figure 3a. Accuracy over full and low iterations",
        "Median accuracy after so many epochs at full precision and then so many at low precision.",
    ),
    "figure3b": (
        "Figure 3b. The same budget, split in different ways",
        "Each line is one budget, a diagonal of the grid of full and low lengths. Left is low precision throughout, "
        "right full precision throughout, which is not a binarized network.",
    ),
}


def write_report(report: StudyReport, path: Path, *, replace: bool = False) -> Path:
    """Write ``index.html``, ``report.json`` and every figure as PNG and SVG into the folder ``path``; return it.

    Whenever that is interrupted, ``path`` holds the old report or the new one.

    Raises `DataError` if ``path`` exists, unless it is an earlier report, whole or not, and ``replace`` is true.
    """
    return write_folder(path, report.to_dict(), partial(draw, report), partial(page, report), replace=replace)


def write_folder(
    path: Path,
    document: dict[str, Any],
    draw: Callable[[float], dict[str, "Figure"]],
    page: Callable[[dict[str, str]], str],
    *,
    replace: bool = False,
) -> Path:
    """Write the folder of a report, see `write_report`: of what ``draw`` draws at a width, ``page`` makes HTML."""
    replace = replace and path.is_dir() and all(_OF_A_REPORT.fullmatch(file.name) for file in path.iterdir())
    if not replace:
        refuse_existing(path)
    with new_directory(path, replace=replace) as folder:
        for name, drawing in draw(WIDE).items():
            for ending in ("png", "svg"):
                save(drawing, folder / f"{name}.{ending}")
        (folder / "report.json").write_text(json_text(document, indent=2) + "\n", "utf-8")
        (folder / "index.html").write_text(page(drawn(draw)), "utf-8")
    return path


def page(report: StudyReport, drawings: dict[str, str]) -> str:
    """The HTML page, with ``drawings`` as inline SVG by figure."""
    data = report.settings.get("data", {})
    protocol = f", {report.protocol}" if report.protocol else ""
    about = (
        f"{report.n_finished} of {report.n_planned} trials finished. Accuracy is {report.metric['title']} on the "
        f"test set{protocol}. Data: {data.get('name') or ''}"
    )
    parts = [
        "<h1>How much sooner does partial pre-training get there?</h1>",
        "<p>A binarized network can be trained at low precision from the start, or at full precision first and "
        "binarized on the way: <em>partial pre-training</em>. This page compares the two, beside full-precision "
        f"training.</p><p><small>{escape(about)}</small></p>",
        cards(_cards(report)),
    ]
    for name, drawing in drawings.items():
        title, caption = TITLES[name]
        parts.append(figure(title, drawing, caption))
        if name == "figure2":
            parts += curve_table(report)
    parts += [
        *_split_table(report),
        *settings_table({"": report}),
        *speed_table({"": report}),
        *_speed_ups(report),
        *_origin(report),
    ]
    return html_page("Partial pre-training: a study", parts)


def _cards(report: StudyReport) -> Iterator[str]:
    for entry in report.speed_ups:
        if entry.split != report.speed_ups[0].split:
            break  # the others stand in the table
        yield card(
            factor_text(entry), f"speed-up in {COST_NAMES[entry.cost]}: {entry.name}", "; ".join(_reliance(entry))
        )
    if report.speed is not None:
        about = "what partial pre-training saves on the clock, beside iterations"
        yield card(f"{report.speed.slowdown:.2f}×", "slowdown of one low-precision iteration", about)


def _reliance(entry: MethodSpeedUp) -> Iterator[str]:
    """What a speed-up rests on: its interval, and the accuracies that it was taken over."""
    if entry.found.factor is None:
        yield entry.found.note
        return
    if entry.resamples.interval is not None:
        yield "95% interval {:.2f} to {:.2f}".format(*entry.resamples.interval)
    else:
        yield "no interval: see below" if entry.resamples.n_resamples else "no interval: one trial at some budget"
    yield f"over accuracies from {_range_compared(entry)}: {_share_covered(entry)}"


def _share_covered(entry: MethodSpeedUp) -> str:
    return f"{entry.found.range_covered:.0%} of the paper's range"


def factor_text(entry: MethodSpeedUp) -> str:
    """How many times as soon, or none."""
    return "none" if entry.found.factor is None else f"{entry.found.factor:.2f}×"


def curve_table(report: StudyReport, of: str = "behind both figures") -> Iterator[str]:
    """The points of the curves, behind a click."""
    head = ("", "iterations", "seconds", "median", "lowest", "highest", "trials")
    rows = [
        (curve.name, f"{p.iterations:,.0f}", f"{p.seconds:,.1f}",
         *(f"{value:.4f}" for value in (p.median, p.lowest, p.highest)), f"{len(p.accuracies)}")
        for curve in report.curves for p in curve.points
    ]  # fmt: skip
    yield details(f"The numbers {of}", table(head, rows))


def _split_table(report: StudyReport) -> Iterator[str]:
    if report.splits:
        yield "<h2>Which split was best</h2>"
        rows = [
            (f"{each.epochs:g} epochs", f"{each.split:.2g}", *map(_short_range, (each.best, each.half)))
            for each in report.splits
        ]
        yield table(("", "best split", "its accuracy", "split 0.5"), rows)
        how = {
            "test": "The best is chosen by the test set, so it bounds what a rule for choosing the split could gain.",
            "validation": "The best is chosen by the validation set; the accuracies are those on the test set.",
        }[report.splits[0].chosen_on]
        yield note(f"Medians (lowest-highest) of the splits that end in a binarized network. {how}")


def _short_range(point: Point | None) -> str:
    if point is None:
        return ""
    return f"{_short(point.median)} ({_short(point.lowest)}-{_short(point.highest)})"


def _short(accuracy: float | None) -> str:
    return "" if accuracy is None else f"{accuracy:.3f}".lstrip("0")


def settings_table(reports: Mapping[str, StudyReport]) -> Iterator[str]:
    """Table 1: what the trials of each study share, with the lengths that were tried."""
    columns = [_settings(report) for report in reports.values()]
    names = dict.fromkeys(name for column in columns for name in column)
    yield "<h2>Table 1. Settings</h2>"
    yield table(("", *reports), [(name, *(column.get(name, "") for column in columns)) for name in names])


def _settings(report: StudyReport) -> dict[str, str]:
    hashes = ("data.sha256", "data.content")  # they stand under "Every setting"
    found = {name: text for name, text in settings_by_name(report.settings).items() if name not in hashes}
    points = [point for curve in report.curves for point in curve.points]
    lengths = sorted({round(point.epochs, 9): point.iterations for point in points}.items())
    if lengths:
        found["budgets, epochs"] = ", ".join(f"{epochs:.4g}" for epochs, _ in lengths)
        found["budgets, iterations"] = ", ".join(f"{iterations:,.0f}" for _, iterations in lengths)
        n_trials = {len(point.accuracies) for point in points}
        found["trials of each"] = " to ".join(map(str, sorted({min(n_trials), max(n_trials)})))
    return found


def speed_table(reports: Mapping[str, StudyReport]) -> Iterator[str]:
    """Table 2 of each study whose speed was measured."""
    rows = []
    for name, report in reports.items():
        speed = report.speed
        steps = (
            {}
            if speed is None
            else {"this project's step": speed, "1-bit layers simulated in plain PyTorch": speed.plain}
        )
        rows += [
            (f"{name}: {step}" if name else step, f"{found.full:.1f}", f"{found.low:.1f}", f"{found.slowdown:.2f}×")
            for step, found in steps.items()
            if found is not None
        ]
    if rows:
        yield "<h2>Table 2. Iterations per second</h2>"
        yield table(("", "full precision", "low precision", "slowdown"), rows)
        for name, report in reports.items():
            if report.speed is not None:
                how = "{rule}. Batch size {batch_size:,}, threads: {threads}.".format_map(report.speed.origin)
                yield note(f"{name}: {how}" if name else how)


def _speed_ups(report: StudyReport) -> Iterator[str]:
    yield "<h2>Speed-up over low-precision training</h2>"
    rows = [
        (
            entry.name,
            COST_NAMES[entry.cost],
            factor_text(entry),
            "{:.2f} to {:.2f}".format(*entry.resamples.interval) if entry.resamples.interval is not None else "",
            "" if entry.found.factor is None else f"{_range_compared(entry)}; {_share_covered(entry)}",
        )
        for entry in report.speed_ups
    ]
    yield table(("", "in", "factor", "95% interval", "between"), rows)
    for entry in report.speed_ups:
        if entry.found.note:
            yield note(f"{entry.name}, in {COST_NAMES[entry.cost]}: {entry}.")
    yield note(
        f"Harmonic mean over {N_TARGETS} evenly spaced accuracies, from {LOWEST_SHARE:.0%} of the best that "
        "the binarized network reaches up to where the two techniques converge, or else the last accuracy that both "
        "reach; each cost by linear interpolation between the medians. The interval draws the trials of each point "
        "anew, with replacement: with few trials it is coarse. Computed seconds: the same iterations at the rates "
        "of Table 2's second row, not measured; a faster low-precision step shrinks the gain on the clock."
    )


def _range_compared(entry: MethodSpeedUp) -> str:
    found = entry.found
    end = "where they meet" if found.until == "convergence" else "the last both reach"
    return f"{_short(found.lowest)} to {_short(found.highest)}, {end}"


def _origin(report: StudyReport) -> Iterator[str]:
    yield '<h2>How it was measured</h2><ul class="about">'
    yield f"<li>Wall clock: {escape(report.wall_clock)}.</li>"
    for entry in report.provenance:
        yield f"<li>{entry['n_trials']} trials: {escape(in_words(entry))}.</li>"
    if len({(entry["cpu"], entry["gpu"], entry["threads"]) for entry in report.provenance}) > 1:
        yield "<li><strong>The trials ran on different machines or threads: their seconds do not compare.</strong></li>"
    if report.n_resumed:
        yield f"<li>{report.n_resumed} trials were interrupted and resumed.</li>"
    if report.n_shared:
        yield (
            f"<li>{report.n_shared} trials began with the network of the full-precision trial that is their first "
            "phase, bit for bit; its seconds are among theirs.</li>"
        )
    yield "</ul>"
    yield details("Every setting", preformatted(json_text(dict(report.settings), indent=1)))
