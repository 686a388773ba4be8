"""What made a result: the code, the libraries, the processor and the threads."""

import os
import platform
import subprocess
import warnings
from collections.abc import Mapping
from functools import cache
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path
from typing import Any

from ppt_core.errors import DataWarning
from ppt_core.identity import content_identity
from ppt_core.runs.files import file_sha256
from ppt_core.runs.machine import cpu_name, found_version
from ppt_core.threads import threads_in_use, usable_cores

DISTRIBUTION = "ppt-ncf"
_ROOT = Path(__file__).parents[2]
_ON_WHICH_BYTES_DEPEND = ("source", "torch", "numba", "numpy", "cpu", "gpu", "mkl_cbwr")


def provenance() -> dict[str, Any]:
    """Code, libraries and machine of this process, as JSON values; no time of day, so that the same run says the same.

    ``version`` of the distribution, ``source`` and ``commit`` (see `source_identity` and `commit`), ``python``,
    ``torch``, ``numba`` and ``numpy``; ``system``, ``cpu``, ``gpu`` (None without one), ``cores`` that may be used,
    ``threads`` that compute, and ``mkl_cbwr``, the environment variable MKL_CBWR.
    """
    import torch

    return {
        "version": found_version(DISTRIBUTION),
        "source": source_identity(),
        "commit": commit(),
        "python": platform.python_version(),
        **{name: found_version(name) for name in ("torch", "numba", "numpy")},
        "system": platform.system(),
        "cpu": cpu_name(),
        "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
        "cores": usable_cores(),
        "threads": threads_in_use(),
        "mkl_cbwr": os.environ.get("MKL_CBWR"),
    }


@cache
def source_identity(root: Path = _ROOT) -> str:
    """SHA-256 over the Python files of the distribution's packages, 64 hexadecimal digits; of the core's alone where
    no distribution is installed. A process computes it once, since it runs the code that it loaded.
    """
    try:
        names = (distribution(DISTRIBUTION).read_text("top_level.txt") or "").split()
    except PackageNotFoundError:
        names = []
    names = names or [Path(__file__).parents[1].name]
    files = [path for name in names for path in [root / f"{name}.py", *(root / name).rglob("*.py")] if path.exists()]
    found = content_identity({path.relative_to(root).as_posix(): file_sha256(path) for path in files})
    assert found is not None
    return found


@cache
def commit(root: Path = _ROOT) -> str | None:
    """What `git describe` calls the code, with ``-dirty`` for changes; None where the code lies in no repository."""
    if not (root / ".git").exists():
        return None
    command = ["git", "-C", str(root), "describe", "--always", "--dirty"]
    try:
        found = subprocess.run(command, capture_output=True, text=True, check=False).stdout.strip()
    except OSError:  # there is no git
        return None
    return found or None


def warn_of_other_code(
    name: str, before: Mapping[str, Any], now: Mapping[str, Any], *, threads_matter: bool = False
) -> bool:
    """Warn (`DataWarning`) if what went on as ``before`` goes on as ``now``, by other code or elsewhere.

    It may, but the promise of the same bytes is for one version of the code and its libraries on one kind of
    processor; with ``threads_matter`` it is for one number of threads, too. Nothing is said of what ``before`` does not
    name, as runs that are older than this record.

    Returns:
        whether they differ in what the bytes depend on.
    """
    keys = (*_ON_WHICH_BYTES_DEPEND, "threads") if threads_matter else _ON_WHICH_BYTES_DEPEND
    changed = [key for key in keys if key in before and before[key] != now[key]]
    if not changed:
        return False
    how = "; ".join(f"{key} {_short(key, before[key])}, now {_short(key, now[key])}" for key in changed)
    warnings.warn(
        f"{name} was started by other code or on another machine ({how}); it goes on, but its bytes may differ from "
        "those of an uninterrupted run",
        DataWarning,
        stacklevel=2,
    )
    return True


def in_words(found: Mapping[str, Any]) -> str:
    """What a `provenance` says, for people: the processor and threads, the version of the code, and of libraries."""
    gpu = f", {found['gpu']}" if found["gpu"] else ""
    code = [f", {key} {_short(key, found[key])}" for key in ("commit", "source") if found.get(key)]
    return (
        f"{found['cpu']}{gpu}, {found['threads']} of {found['cores']} cores; ppt-ncf {found['version']}"
        f"{''.join(code)}, torch {found['torch']}, numba {found['numba']}, "
        f"Python {found['python']}"
    )


def _short(key: str, value: Any) -> str:
    return str(value)[:12] if key == "source" else str(value)
