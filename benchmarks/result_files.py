"""What lies in `benchmarks/results`, and how its figures are written."""

import json
import re
import statistics
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

RESULTS = Path(__file__).parent / "results"
TECHNIQUES = {1.0: "full precision", 0.5: "partial pre-training", 0.0: "low precision"}

Row = dict[str, Any]


def rows(name: str) -> list[Row]:
    """The lines of a ``.jsonl`` file of results."""
    return [json.loads(line) for line in (RESULTS / f"{name}.jsonl").read_text().splitlines()]


def report(study: str) -> Row:
    """The report of a study."""
    found: Row = json.loads((RESULTS / f"study-{study}" / "report.json").read_text())
    return found


def pooled(studies: Sequence[str]) -> dict[float, dict[float, list[float]]]:
    """The accuracies of every trial of several studies of one thing, by split and by iterations, short ones first."""
    found: dict[float, dict[float, list[float]]] = {}
    for study in studies:
        for curve in report(study)["curves"]:
            points = found.setdefault(curve["split"], {})
            for point in curve["points"]:
                points.setdefault(point["iterations"], []).extend(point["accuracies"])
    return {split: dict(sorted(points.items())) for split, points in found.items()}


def share(value: float) -> str:
    """Write a share to three places: .725."""
    return f"{value:.3f}".removeprefix("0")


def spread(values: Iterable[float], form: Callable[[float], str] = share) -> str:
    """Write a median [lowest, highest], or the one value alone."""
    values = sorted(values)
    middle = form(statistics.median(values))
    return middle if len(values) == 1 else f"{middle} [{form(values[0])}, {form(values[-1])}]"


def table(head: Sequence[str], body: Iterable[Sequence[str]]) -> str:
    """Write a Markdown table between blank lines."""
    lines = ["| " + " | ".join(line) + " |" for line in (head, *body)]
    text = "\n".join([lines[0], "|---" * len(head) + "|", *lines[1:]])
    return "\n\n" + re.sub(r"\|  (?=\|)", "| ", text) + "\n\n"


def measured(name: str) -> Any:
    """The rows of a benchmark's ``--json``."""
    found: Any = json.loads((RESULTS / f"{name}.json").read_text())["rows"]
    return found


def machine(name: str) -> str:
    """Where a benchmark's rows come from."""
    about = json.loads((RESULTS / f"{name}.json").read_text())["about"]
    command, cores = (
        about["command"].replace(" --json", ""),
        f"{about['cores']} core{'s' * (about['cores'] > 1)} of an {about['processor']}",
    )
    return f"`{command}`, {cores}, torch {about['versions']['torch']}, commit {about['commit']}"
