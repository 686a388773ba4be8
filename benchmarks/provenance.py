"""Where the figures of a benchmark come from, written beside them."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

from ppt_core.threads import threads_in_use, usable_cores

_PACKAGES = ("ppt-ncf", "torch", "numba", "numpy", "implicit", "faiss-cpu", "onnxruntime")


def provenance() -> dict[str, Any]:
    """The command, the commit, the processor, cores and threads, and the versions of packages, as JSON values."""
    from ppt_core.runs.machine import cpu_name, found_version  # imports torch, for which some scripts set up first

    git = ["git", "describe", "--always", "--dirty"]
    here = Path(__file__).parent
    commit = subprocess.run(git, cwd=here, capture_output=True, text=True, check=False).stdout.strip()
    script = Path(sys.argv[0]).stem
    return {
        "command": " ".join(["python -m", f"benchmarks.{script}", *sys.argv[1:]]),
        "commit": commit or None,
        "processor": cpu_name(),
        "cores": usable_cores(),
        "threads": threads_in_use(),
        "versions": {name: version for name in _PACKAGES if (version := found_version(name))},
    }


def document(rows: Any) -> str:
    """One JSON object: ``rows``, and under ``about`` their `provenance`."""
    return json.dumps({"about": provenance(), "rows": rows})
