"""Where the figures of a benchmark come from, written beside them."""

import json
import sys
from pathlib import Path
from typing import Any

_PACKAGES = (
    "ppt-ncf", "torch", "numba", "numpy", "implicit", "faiss-cpu", "onnxruntime", "uvicorn", "fastapi",
    "pandas", "polars", "duckdb",
)  # fmt: skip


def provenance() -> dict[str, Any]:
    """The command, the commit and the source, the processor, cores, threads and versions of packages: JSON values.

    The processor is as the system names it and, since "AMD EPYC" alone may be one of several, as compilers do: znver4.
    """
    from llvmlite.binding import get_host_cpu_name  # type: ignore[import-untyped]

    from ppt_core.runs.machine import found_version
    from ppt_core.runs.provenance import provenance as of_process  # imports torch, for which some scripts set up first

    found = of_process()
    script = Path(sys.argv[0]).stem
    return {
        "command": " ".join(["python -m", f"benchmarks.{script}", *sys.argv[1:]]),
        "commit": found["commit"],
        "source": found["source"],
        "processor": f"{found['cpu']} ({get_host_cpu_name()})",
        "cores": found["cores"],
        "threads": found["threads"],
        "versions": {name: version for name in _PACKAGES if (version := found_version(name))},
    }


def document(rows: Any) -> str:
    """One JSON object: ``rows``, and under ``about`` their `provenance`."""
    return json.dumps({"about": provenance(), "rows": rows})
