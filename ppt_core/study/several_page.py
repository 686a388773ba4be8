"""A report on several studies as files: the source's panels side by side, and one table for all."""

from collections.abc import Iterator
from functools import partial
from html import escape
from pathlib import Path

from ppt_core.html_pages import card, cards, details, figure, html_page, legend, note, table
from ppt_core.study.curves import Cost
from ppt_core.study.figures import LEGEND, draw_panels
from ppt_core.study.page import (
    TITLES,
    curve_table,
    factor_text,
    settings_table,
    speed_table,
    write_folder,
)
from ppt_core.study.report import COST_NAMES
from ppt_core.study.several import StudiesReport


def write_studies(studies: StudiesReport, path: Path) -> Path:
    """Write ``index.html``, ``report.json`` and the figures into the new folder ``path``; return it.

    Raises `DataError` if ``path`` exists.
    """
    return write_folder(path, studies.to_dict(), partial(draw_panels, studies.reports), partial(page, studies))


def page(studies: StudiesReport, drawings: dict[str, str]) -> str:
    """The HTML page, with ``drawings`` as inline SVG by figure."""
    parts = [
        "<h1>How much sooner does partial pre-training get there?</h1>",
        note(f"{len(studies.reports)} studies: {', '.join(studies.reports)}."),
        cards(_cards(studies)),
        "<h2>Speed-up over low-precision training</h2>",
        *_speed_ups(studies),
    ]
    for name, drawing in drawings.items():
        title, caption = TITLES[name]
        parts.append(figure(title, legend(LEGEND) + drawing, caption))
    for name, report in studies.reports.items():
        parts += curve_table(report, f"of {name}")
    parts += [*settings_table(studies.reports), *speed_table(studies.reports), *_origins(studies)]
    return html_page("Partial pre-training: several studies", parts)


def _cards(studies: StudiesReport) -> Iterator[str]:
    for cost, title in COST_NAMES.items():
        mean = studies.mean_speed_up(cost)
        if mean is not None:
            entries = {name: studies.speed_up(name, cost) for name in studies.reports}
            covered = [f"{each.found.range_covered:.0%} ({name})" for name, each in entries.items() if each is not None]
            about = f"over these shares of the paper's range: {', '.join(covered)}"
            yield card(f"{mean:.2f}×", f"mean speed-up in {title}", about)


def _speed_ups(studies: StudiesReport) -> Iterator[str]:
    costs = [cost for cost in COST_NAMES if any(studies.speed_up(name, cost) for name in studies.reports)]
    rows = [(name, *(_cell(studies, name, cost) for cost in costs)) for name in studies.reports]
    means = [studies.mean_speed_up(cost) for cost in costs]
    rows.append(("mean", *("" if mean is None else f"{mean:.2f}×" for mean in means)))
    yield f'<div class="lists">{table(("", *(COST_NAMES[cost] for cost in costs)), rows)}</div>'
    yield note(
        "Split 0.5; in brackets the 95% interval over trials, and how much of the paper's range of accuracies was "
        "compared. The mean is the arithmetic one, and stands only where every study has a factor."
    )
    notes = [
        note(f"{name}, {entry.name}, in {COST_NAMES[entry.cost]}: {entry}.")
        for name, report in studies.reports.items()
        for entry in report.speed_ups
        if entry.found.note
    ]
    if notes:
        yield details("What each was compared over", "".join(notes))


def _cell(studies: StudiesReport, name: str, cost: Cost) -> str:
    entry = studies.speed_up(name, cost)
    if entry is None or entry.found.factor is None:
        return "" if entry is None else "none"
    interval = entry.resamples.interval
    within = "" if interval is None else f"{interval[0]:.2f} to {interval[1]:.2f}; "
    return f"{factor_text(entry)} ({within}{entry.found.range_covered:.0%})"


def _origins(studies: StudiesReport) -> Iterator[str]:
    yield '<h2>How it was measured</h2><ul class="about">'
    for name, report in studies.reports.items():
        protocol = f" ({report.protocol})" if report.protocol else ""
        about = f"{report.metric['title']}{protocol}, {report.n_finished} of {report.n_planned} trials finished"
        machines = "; ".join(dict.fromkeys(f"{each['cpu']}, threads: {each['threads']}" for each in report.provenance))
        yield f"<li>{escape(f'{name}: {about}; {machines}')}.</li>"
    yield f"<li>Wall clock: {escape(next(iter(studies.reports.values())).wall_clock)}.</li></ul>"
