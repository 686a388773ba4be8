"""What MkDocs does not do by itself: pages also link to files beside `docs/`, as they can where the code is hosted."""

import re
from pathlib import Path
from typing import Any

from mkdocs.structure.files import File, Files

ROOT = Path(__file__).parent.parent


def on_files(files: Files, config: Any) -> Files:
    """Add the figures of the results to the site."""
    for path in sorted((ROOT / "benchmarks" / "results").rglob("*.svg")):
        source = path.relative_to(ROOT).as_posix()
        files.append(File(source, str(ROOT), config.site_dir, config.use_directory_urls))
    return files


def on_page_markdown(markdown: str, **_: Any) -> str:
    """Let links to them begin at the site's root."""
    return re.sub(r"\]\(\.\./(benchmarks/results/[^)]+)\)", r"](\1)", markdown)
