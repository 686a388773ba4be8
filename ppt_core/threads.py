"""How many threads compute: no more than the cores that this process may really use, or as many as it is told."""

import math
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

_chosen: int | None = None  # a process has one number of threads, as PyTorch and Numba do
_exported = False  # whether OMP_NUM_THREADS was set here, and not by who started this process


def usable_cores(root: Path = Path("/")) -> int:
    """How many cores this process may use: the smallest of its affinity, its control group's quota and the machine's.

    A quota of 1.5 cores counts as 2, since one thread would leave a part of it unused.

    Args:
        root: where ``proc`` and the mounted control groups are found.
    """
    return max(1, min([affinity(), *map(math.ceil, quotas(root))]))


def affinity() -> int:
    """How many cores the system may run this process on."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def quotas(root: Path = Path("/")) -> list[float]:
    """The cores' worth of time that control groups allow this process, one number for each group that has a limit.

    Of version 2 (``cpu.max``) and of version 1 (``cpu.cfs_quota_us``): the process's own group and those it lies in.
    What cannot be read limits nothing.

    Args:
        root: where ``proc`` and the mounted control groups are found.
    """
    groups = {}  # names of controllers, "" for version 2: the path of the group
    for line in _lines(root / "proc/self/cgroup"):
        _, controllers, path = line.split(":", 2)
        groups.update(dict.fromkeys(controllers.split(","), path))
    found = []
    for line in _lines(root / "proc/self/mountinfo"):
        mount, _, system = line.partition(" - ")
        top, point = mount.split()[3:5]
        kind, _, options = system.split(maxsplit=2)
        if kind == "cgroup2" and "" in groups:
            found += [_lines(folder / "cpu.max") for folder in _folders(root, point, top, groups[""])]
        elif kind == "cgroup" and "cpu" in options.split(",") and "cpu" in groups:
            for folder in _folders(root, point, top, groups["cpu"]):
                found.append(_lines(folder / "cpu.cfs_quota_us") + _lines(folder / "cpu.cfs_period_us"))
    limits = [" ".join(lines).split() for lines in found]
    return [int(limit[0]) / int(limit[1]) for limit in limits if len(limit) == 2 and all(map(_is_limit, limit))]


def default_threads() -> int:
    """The threads that compute unless something else is asked for: `usable_cores`, or OMP_NUM_THREADS if it is less."""
    wanted = os.environ.get("OMP_NUM_THREADS", "").split(",")[0].strip()  # a list holds a number for each nested level
    return min(usable_cores(), int(wanted)) if wanted.isdigit() and int(wanted) else usable_cores()


def set_threads(threads: int | None = None) -> int:
    """Let PyTorch, Numba and BLAS compute on ``threads`` threads, at most `usable_cores`; return their number.

    Results do not depend on it, but for image networks and batches of more than 32,768 samples. It may be called before
    those libraries are imported, or after.

    Args:
        threads: None takes `default_threads`.

    Raises ValueError for fewer than one.
    """
    global _chosen, _exported
    if threads is not None and threads < 1:
        raise ValueError(f"threads is {threads}; it must be at least 1")
    count = default_threads() if threads is None else min(threads, usable_cores())
    if threads is None and count == affinity():
        return count  # the libraries take as many by themselves
    from threadpoolctl import threadpool_limits

    _exported = _exported or "OMP_NUM_THREADS" not in os.environ
    os.environ["OMP_NUM_THREADS"] = str(count)  # for what is not imported yet
    use_threads(count)
    # BLAS's, and OpenMP's once more: Numba, as it starts, sets those of the process to all its own, and PyTorch takes
    # them if it is imported later.
    threadpool_limits(count)
    if threads is not None:
        _chosen = count
    return count


def threads_in_use() -> int:
    """The threads that compute now: what `set_threads` or `limited_threads` chose, or `default_threads`."""
    return _chosen or default_threads()


def are_chosen() -> bool:
    """Whether somebody said how many threads compute, so that nothing may try other numbers."""
    return _chosen is not None or ("OMP_NUM_THREADS" in os.environ and not _exported)


def all_threads() -> int:
    """As many threads as PyTorch and Numba have both been given, and at most `default_threads`."""
    import numba
    import torch

    return min(default_threads(), torch.get_num_threads(), int(numba.get_num_threads()))


def use_threads(threads: int) -> None:
    """Let Numba and, if it is imported, PyTorch compute on ``threads`` threads from now on. It takes microseconds."""
    import numba

    numba.set_num_threads(min(threads, numba.config.NUMBA_NUM_THREADS))
    if torch := sys.modules.get("torch"):
        torch.set_num_threads(threads)


@contextmanager
def limited_threads(threads: int) -> Iterator[None]:
    """Let PyTorch and Numba compute on just ``threads`` threads in the block."""
    global _chosen
    import numba
    import torch

    before = _chosen, torch.get_num_threads(), numba.get_num_threads()
    _chosen = threads
    use_threads(threads)
    try:
        yield
    finally:
        _chosen = before[0]
        torch.set_num_threads(before[1])
        numba.set_num_threads(before[2])


def _folders(root: Path, point: str, top: str, group: str) -> list[Path]:
    """The folders of a group and of those it lies in, where the group ``top`` is mounted at ``point``."""
    mounted = root / point.lstrip("/")
    try:
        below = Path(group).relative_to(top)
    except ValueError:  # the group lies outside what this process sees: the mount is what is left of it
        below = Path()
    folder = mounted if ".." in below.parts else mounted / below
    return [folder, *(parent for parent in folder.parents if parent == mounted or mounted in parent.parents)]


def _lines(path: Path) -> list[str]:
    try:
        return path.read_text().splitlines()
    except OSError:
        return []


def _is_limit(microseconds: str) -> bool:
    """No limit reads "max" or "-1"."""
    return microseconds.isdigit() and int(microseconds) > 0
