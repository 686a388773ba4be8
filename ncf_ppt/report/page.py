"""A report on runs as one HTML page that needs nothing else."""

from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from html import escape
from pathlib import Path

from ncf_ppt.paired_tests import Interval
from ncf_ppt.report.figures import SERIES, draw
from ncf_ppt.report.measured import GroupOfUsers, MeasuredRun, RunReport
from ppt_core.drawings import drawn
from ppt_core.html_pages import card, cards, details, figure, html_page, legend, note, preformatted, table
from ppt_core.json_text import json_text
from ppt_core.runs.files import refuse_existing, replaced_file
from ppt_core.runs.provenance import in_words
from ppt_core.runs.settings import published_settings, settings_by_name

_CAPTIONS = {
    "curves": (
        "Learning curves",
        "Each point is an evaluation among the frozen negatives. A dashed line is where a network was binarized; a "
        "dotted curve is on validation items.",
    ),
    "popularity": (
        "By how popular the held-out item is",
        "Users in groups of about equal size, by the number of train positives of the item that was held out. Bars are "
        "95% intervals over users.",
    ),
    "activity": (
        "By how active the user is",
        "The same, by the number of the user's own train positives.",
    ),
}


def write_report(report: RunReport, path: Path | str) -> Path:
    """Write the page to the new file ``path`` and return it. Raises `DataError` if it exists."""
    path = Path(path)
    refuse_existing(path)
    text = page(report, drawn(partial(draw, report)))
    with replaced_file(path, new=True) as file:
        file.write_text(text, "utf-8")
    return path


def page(report: RunReport, drawings: Mapping[str, str]) -> str:
    """The HTML page, with ``drawings`` as inline SVG by figure."""
    title = report.runs[0].name if len(report.runs) == 1 else f"{len(report.runs)} runs"
    about = f"{report.n_users:,} users, each with one held-out item: {report.protocol}; ties lost"
    parts = [
        f"<h1>{escape(title)}</h1>",
        note(about),
        _legend(report),
        cards(_cards(report)),
        *_metrics(report),
    ]
    for name, (heading, caption) in _CAPTIONS.items():
        parts.append(figure(heading, _legend(report) + drawings[name], caption))
        if name == "popularity":
            parts.append(_group_table(report, [run.by_popularity for run in report.runs]))
        if name == "activity":
            parts.append(_group_table(report, [run.by_activity for run in report.runs]))
    parts += [*_lists(report), *_settings(report)]
    return html_page(f"Report: {title}", parts)


def _legend(report: RunReport) -> str:
    """Which marker is which run; nothing where there is one."""
    if len(report.runs) == 1:
        return ""
    series = [SERIES[number % len(SERIES)] for number in range(len(report.runs))]
    return legend((color, letter, run.name) for (color, _, letter), run in zip(series, report.runs, strict=True))


def _cards(report: RunReport) -> Iterator[str]:
    for run in report.runs:
        found = run.metrics["hit_ratio"]
        yield card(_share(found.mean), f"HR@{report.k}: {run.name}", f"95% interval {_range(found)}")


def _metrics(report: RunReport) -> Iterator[str]:
    k = report.k
    yield "<h2>How good they are</h2>" if len(report.runs) > 1 else "<h2>How good it is</h2>"
    rows = [
        (run.name, *(f"{_share(found.mean)} ({_range(found)})" for found in run.metrics.values()), *_times(run))
        for run in report.runs
    ]
    yield table(("", f"HR@{k} (95% interval)", f"NDCG@{k} (95% interval)", "epochs", "seconds"), rows)
    ties = [
        (run.name, *(_share(value) for value in (found["hit_ratio"], found["expected_hit_ratio"])),
         f"{found['tie_rate']:.1%}")
        for run in report.runs for found in [run.evaluation.ranks.metrics(k)]
    ]  # fmt: skip
    yield table(("ties", f"HR@{k}, ties lost", "in any order, on average", "users with a tie"), ties)
    yield note(
        "The held-out item loses every tie, so a constant score gets 0. Where the two columns differ much, equal "
        "scores decide the result: 1-bit layers give more of them."
    )
    whole = [(run.name, run.catalogue.metrics(k)) for run in report.runs if run.catalogue is not None]
    if whole:
        rows = [
            (name, *(_share(found[key]) for key in ("hit_ratio", "ndcg", "mrr")), f"{found['coverage']:.1%}")
            for name, found in whole
        ]
        yield table(("whole catalogue", f"HR@{k}", f"NDCG@{k}", "MRR", "coverage"), rows)
        yield note(f"Coverage is the share of the catalogue that is among the best {k} of at least one user.")


def _times(run: MeasuredRun) -> tuple[str, str]:
    last = run.history[-1]
    return f"{last['epochs']:.2f}", f"{last['seconds']:,.1f}"


def _group_table(report: RunReport, groups: Sequence[Sequence[GroupOfUsers]]) -> str:
    k = report.k
    rows = [
        (run.name, f"{group.lowest:,} to {group.highest:,}", f"{group.n_users:,}",
         f"{_share(group.hit_ratio.mean)} ({_range(group.hit_ratio)})", _share(group.ndcg.mean),
         f"{group.median_rank:,.1f}".removesuffix(".0"))
        for run, of_run in zip(report.runs, groups, strict=True) for group in of_run
    ]  # fmt: skip
    head = ("", "train positives", "users", f"HR@{k} (95% interval)", f"NDCG@{k}", "median rank")
    return details("The numbers behind the figure", table(head, rows))


def _lists(report: RunReport) -> Iterator[str]:
    yield "<h2>What some users would get</h2>"
    for sample in report.samples:
        last = f"; last: {'; '.join(sample.last)}" if sample.last else ""
        yield f"<h3>User {escape(sample.user)}</h3>"
        yield note(f"{sample.n_known:,} items known{last}. Held out: {sample.held_out}")
        rows = [
            (f"{place + 1}.", *(f"{found[place]}{' ✓' if place == at else ''}" if place < len(found) else ""
                                for found, at in zip(sample.lists, sample.held_out_at, strict=True)))
            for place in range(max(map(len, sample.lists)))
        ]  # fmt: skip
        yield f'<div class="lists">{table(("", *(run.name for run in report.runs)), rows)}</div>'


def _settings(report: RunReport) -> Iterator[str]:
    yield (
        '<h2>How they were made</h2><ul class="about">'
        if len(report.runs) > 1
        else ('<h2>How it was made</h2><ul class="about">')
    )
    for run in report.runs:
        made = in_words(run.provenance) if run.provenance else "by a version that kept no record of code and machine"
        yield f"<li>{escape(f'{run.name}: {made}')}.</li>"
    yield "</ul>"
    if len(report.runs) > 1:
        flat = [settings_by_name(run.settings) for run in report.runs]
        names = dict.fromkeys(name for each in flat for name in each)
        rows = [
            (name, *(each.get(name, "") for each in flat))
            for name in names
            if len({each.get(name, "") for each in flat}) > 1
        ]
        if rows:
            yield table(("settings that differ", *(run.name for run in report.runs)), rows)
    for run in report.runs:
        text = json_text(published_settings(run.settings), indent=1)
        yield details(f"Every setting of {run.name}", preformatted(text))


def _share(value: float) -> str:
    return f"{value:.3f}".removeprefix("0")


def _range(found: Interval) -> str:
    return f"{_share(found.lower)} to {_share(found.upper)}"
