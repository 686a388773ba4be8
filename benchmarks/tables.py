"""Every figure that the pages quote from `benchmarks/results`, written into them.

A page marks what is written here: ``<!-- result: NAME -->``, the table or the figure, ``<!-- end -->``. A test fails
where a page and the results differ.

    python -m benchmarks.tables            rewrite the pages
    python -m benchmarks.tables --check    only name the pages that would change
"""

import argparse
import functools
import re
import sys
from collections.abc import Callable
from pathlib import Path

from benchmarks.quality_tables import QUALITY_TABLES
from benchmarks.result_files import machine
from benchmarks.scaling_tables import MEASURED_SCALING, SCALING_TABLES
from benchmarks.speed_tables import MEASURED, SPEED_TABLES
from benchmarks.study_tables import STUDY_TABLES
from benchmarks.warm_tables import WARM_TABLES

ROOT = Path(__file__).parent.parent
TABLES: dict[str, Callable[[], str]] = {
    **QUALITY_TABLES,
    **STUDY_TABLES,
    **SPEED_TABLES,
    **WARM_TABLES,
    **SCALING_TABLES,
    **{f"{name}-machine": functools.partial(machine, name) for name in (*MEASURED_SCALING, *MEASURED)},
}

_MARKED = re.compile(r"(<!-- result: ([\w-]+) -->)(.*?)(<!-- end -->)", re.DOTALL)


def pages() -> list[Path]:
    """Every page that people read."""
    return [ROOT / "README.md", ROOT / "benchmarks" / "README.md", *sorted((ROOT / "docs").glob("*.md"))]


def filled(text: str) -> str:
    """Write into a page what its marks name. Raises KeyError for a name that is none."""
    return _MARKED.sub(lambda found: found[1] + TABLES[found[2]]() + found[4], text)


def main() -> None:
    """Rewrite the pages, or name those that differ from the results."""
    parser = argparse.ArgumentParser(description="Write the figures of benchmarks/results into the pages.")
    parser.add_argument("--check", action="store_true", help="change nothing; name the pages that would change")
    check = parser.parse_args().check
    changed = [(path, text) for path in pages() if (text := filled(path.read_text("utf-8"))) != path.read_text("utf-8")]
    for path, text in changed:
        if not check:
            path.write_text(text, "utf-8")
        print(path.relative_to(ROOT))
    sys.exit(1 if check and changed else 0)


if __name__ == "__main__":
    main()
