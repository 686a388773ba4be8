"""A study's report as files: pictures, numbers, and one HTML page that needs nothing else."""

import re
from collections.abc import Iterator, Sequence
from html import escape
from pathlib import Path

from ppt_core.json_text import json_text
from ppt_core.runs.files import new_directory, refuse_existing
from ppt_core.runs.provenance import in_words
from ppt_core.study.curves import LOWEST_SHARE, N_TARGETS
from ppt_core.study.figures import NARROW, WIDE, draw, save, to_svg
from ppt_core.study.report import COST_NAMES, MethodSpeedUp, Point, StudyReport

_STYLE = """
:root { color-scheme: light dark; --full: #0072b2; --ppt: #c35400; --low: #00805d; --line: #8884; --soft: #8881; }
@media (prefers-color-scheme: dark) { :root { --full: #6cc3f5; --ppt: #ff9a56; --low: #3fd3a5; } }
* { box-sizing: border-box; }
body { margin: 0 auto; max-width: 860px; padding: 28px 20px 60px; font: 16px/1.55 system-ui, sans-serif;
  color: light-dark(#1c1d1f, #e8e6e3); background: light-dark(#fdfdfc, #17181b); overflow-wrap: break-word; }
h1 { font-size: clamp(1.5rem, 5vw, 2.1rem); line-height: 1.2; margin: 0 0 .4em; }
h2 { font-size: 1.2rem; margin: 2.4em 0 .3em; }
p { margin: .5em 0; } small, figcaption, .about { color: light-dark(#55575c, #a9abb0); }
.cards { display: grid; grid-template-columns: repeat(auto-fit, minmax(210px, 1fr)); gap: 12px; margin: 22px 0; }
.card { border: 1px solid var(--line); border-radius: 10px; padding: 12px 16px; background: var(--soft); }
.card b { display: block; font-size: 2rem; line-height: 1.25; color: var(--ppt); font-variant-numeric: tabular-nums; }
figure { margin: 12px 0; } figure svg { display: block; width: 100%; height: auto; overflow: visible; }
figure svg.narrow { display: none; }
.table { overflow-x: auto; } table { border-collapse: collapse; font-size: .9rem; font-variant-numeric: tabular-nums; }
th, td { text-align: right; padding: 4px 12px 4px 0; border-bottom: 1px solid var(--line); }
th:first-child, td:first-child { text-align: left; } thead th { font-weight: 600; vertical-align: bottom; }
th:last-child, td:last-child { padding-right: 0; }
@media (max-width: 620px) { figure svg.narrow { display: block; } figure svg.wide { display: none; }
  table { font-size: .8rem; } th, td { padding-right: 8px; } }
details { margin: 6px 0; } summary { cursor: pointer; } code { font-size: .88em; }
.about li { margin: .3em 0; }
"""
_OF_A_REPORT = re.compile(r"index\.html|report\.json|figure\w+\.(png|svg)")
_TITLES = {
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
    replace = replace and path.is_dir() and all(_OF_A_REPORT.fullmatch(file.name) for file in path.iterdir())
    if not replace:
        refuse_existing(path)
    wide, narrow = draw(report, WIDE), draw(report, NARROW)
    with new_directory(path, replace=replace) as folder:
        for name, figure in wide.items():
            for ending in ("png", "svg"):
                save(figure, folder / f"{name}.{ending}")
        (folder / "report.json").write_text(json_text(report.to_dict(), indent=2) + "\n", "utf-8")
        drawings = {
            name: "".join(
                to_svg(each[name], f"{name}-{kind}").replace("<svg ", f'<svg class="{kind}" role="img" ', 1)
                for kind, each in (("wide", wide), ("narrow", narrow))
            )
            for name in wide
        }
        (folder / "index.html").write_text(page(report, drawings), "utf-8")
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
        "<!doctype html>",
        '<html lang="en"><head><meta charset="utf-8">',
        '<meta name="viewport" content="width=device-width, initial-scale=1">',
        f"<title>Partial pre-training: a study</title><style>{_STYLE}</style></head><body><main>",
        "<h1>How much sooner does partial pre-training get there?</h1>",
        "<p>A binarized network can be trained at low precision from the start, or at full precision first and "
        "binarized on the way: <em>partial pre-training</em>. This page compares the two, beside full-precision "
        f"training.</p><p><small>{escape(about)}</small></p>",
        *_cards(report),
    ]
    for name, drawing in drawings.items():
        title, caption = _TITLES[name]
        parts.append(f"<h2>{escape(title)}</h2><figure>{drawing}<figcaption>{escape(caption)}</figcaption></figure>")
        if name == "figure2":
            parts += _curve_table(report)
    parts += [
        *_split_table(report),
        *_speed_table(report),
        *_speed_ups(report),
        *_origin(report),
        "</main></body></html>",
    ]
    return "\n".join(parts) + "\n"


def _cards(report: StudyReport) -> Iterator[str]:
    yield '<div class="cards">'
    for entry in report.speed_ups:
        if entry.split != report.speed_ups[0].split:
            break  # the others stand in the table
        what = f"speed-up in {COST_NAMES[entry.cost]}: {escape(entry.name)}"
        about = escape("; ".join(_reliance(entry)))
        yield f'<div class="card"><b>{_factor(entry)}</b>{what}<br><small>{about}</small></div>'
    if report.speed is not None:
        yield (
            f'<div class="card"><b>{report.speed.slowdown:.2f}×</b>slowdown of one low-precision iteration<br>'
            "<small>what partial pre-training saves on the clock, beside iterations</small></div>"
        )
    yield "</div>"


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


def _factor(entry: MethodSpeedUp) -> str:
    return "none" if entry.found.factor is None else f"{entry.found.factor:.2f}×"


def _curve_table(report: StudyReport) -> Iterator[str]:
    head = ("", "iterations", "seconds", "median", "lowest", "highest", "trials")
    rows = [
        (curve.name, f"{p.iterations:,.0f}", f"{p.seconds:,.1f}",
         *(f"{value:.4f}" for value in (p.median, p.lowest, p.highest)), f"{len(p.accuracies)}")
        for curve in report.curves for p in curve.points
    ]  # fmt: skip
    yield f"<details><summary>The numbers behind both figures</summary>{_table(head, rows)}</details>"


def _split_table(report: StudyReport) -> Iterator[str]:
    if report.splits:
        yield "<h2>Which split was best</h2>"
        rows = [
            (f"{each.epochs:g} epochs", f"{each.split:.2g}", *map(_short_range, (each.best, each.half)))
            for each in report.splits
        ]
        yield _table(("", "best split", "its accuracy", "split 0.5"), rows)
        yield (
            "<p><small>Medians (lowest-highest) of the splits that end in a binarized network. The best is chosen by "
            "the test set, so it bounds what a rule for choosing the split could gain.</small></p>"
        )


def _short_range(point: Point | None) -> str:
    if point is None:
        return ""
    return f"{_short(point.median)} ({_short(point.lowest)}-{_short(point.highest)})"


def _short(accuracy: float | None) -> str:
    return "" if accuracy is None else f"{accuracy:.3f}".lstrip("0")


def _speed_table(report: StudyReport) -> Iterator[str]:
    speed = report.speed
    if speed is not None:
        yield "<h2>Table 2. Iterations per second</h2>"
        steps = {"this project's step": speed, "1-bit layers simulated in plain PyTorch": speed.plain}
        rows = [
            (name, f"{found.full:.1f}", f"{found.low:.1f}", f"{found.slowdown:.2f}×")
            for name, found in steps.items()
            if found is not None
        ]
        yield _table(("", "full precision", "low precision", "slowdown"), rows)
        how = "{rule}. Batch size {batch_size:,}, threads: {threads}.".format_map(speed.origin)
        yield f"<p><small>{escape(how)}</small></p>"


def _speed_ups(report: StudyReport) -> Iterator[str]:
    yield "<h2>Speed-up over low-precision training</h2>"
    rows = [
        (
            entry.name,
            COST_NAMES[entry.cost],
            _factor(entry),
            "{:.2f} to {:.2f}".format(*entry.resamples.interval) if entry.resamples.interval is not None else "",
            "" if entry.found.factor is None else f"{_range_compared(entry)}; {_share_covered(entry)}",
        )
        for entry in report.speed_ups
    ]
    yield _table(("", "in", "factor", "95% interval", "between"), rows)
    for entry in report.speed_ups:
        if entry.found.note:
            text = f"{entry.name}, in {COST_NAMES[entry.cost]}: {entry}."
            yield f"<p><small>{escape(text)}</small></p>"
    yield (
        f"<p><small>Harmonic mean over {N_TARGETS} evenly spaced accuracies, from {LOWEST_SHARE:.0%} of the best that "
        "the binarized network reaches up to where the two techniques converge, or else the last accuracy that both "
        "reach; each cost by linear interpolation between the medians. The interval draws the trials of each point "
        "anew, with replacement: with few trials it is coarse. Computed seconds: the same iterations at the rates "
        "of Table 2's second row, not measured; a faster low-precision step shrinks the gain on the clock.</small></p>"
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
    yield "</ul>"
    settings = escape(json_text(dict(report.settings), indent=1))
    yield f"<details><summary>Every setting</summary><div class=table><pre>{settings}</pre></div></details>"


def _table(head: tuple[str, ...], rows: Sequence[tuple[str, ...]]) -> str:
    titles = "".join(f"<th>{escape(cell)}</th>" for cell in head)
    lines = "".join(f"<tr>{''.join(f'<td>{escape(cell)}</td>' for cell in row)}</tr>" for row in rows)
    return f'<div class="table"><table><thead><tr>{titles}</tr></thead><tbody>{lines}</tbody></table></div>'
