"""What makes torch, Numba and MKL run well together and everywhere; to be set before they are imported."""

import os
import sys
import warnings
from collections.abc import Callable

from ppt_core.kernel_cache import set_kernel_cache
from ppt_core.threads import affinity, usable_cores

ENVIRONMENT = {
    # Torch and Numba each have a pool of OpenMP threads. Left alone, an idle thread spins for long and takes the core
    # from the other pool: stalls of 8 ms were seen. Asleep at once, it takes some 50 us to wake, in each of the fifty
    # parallel regions of a training step: 18 ms a step instead of 13. So it spins for a moment, then sleeps.
    "OMP_WAIT_POLICY": "PASSIVE",
    "GOMP_SPINCOUNT": "20000",
    # MKL's sums must not depend on the number of threads.
    "MKL_CBWR": "AUTO,STRICT",
    # Rows of a large table lie on pages of 2 MB, not 4 kB: random reads take 10% less.
    "THP_MEM_ALLOC_ENABLE": "1",
}


def set_environment(tell: Callable[[str], None] = warnings.warn) -> None:
    """Set `ENVIRONMENT`, but for what is set already, and see that Numba finds its place and its cores.

    That is a folder for compiled kernels, and no more threads than a container's quota of processor time allows.

    The commands call this first of all. A Python user does the same before the first import of torch, numba or this
    project's modules of computation; afterwards it has no effect on what those have read.

    Args:
        tell: hears in one line what was done that the user may want to know; warns by default.

    Raises `DataError` where no folder for compiled kernels can be written.
    """
    if _is_crowded():
        os.environ.setdefault("GOMP_SPINCOUNT", "0")  # who spins takes the time of the thread that all wait for
    missing = {name: value for name, value in ENVIRONMENT.items() if name not in os.environ}
    os.environ.update(missing)
    first = sorted({"torch", "numba"} & set(sys.modules))
    if missing and first:
        tell(
            f"{' and '.join(first)} came first, so {', '.join(missing)} have no effect: training is slower; call "
            "set_environment() before the import"
        )
    if usable_cores() < affinity() and "numba" not in sys.modules:  # which starts a thread for each core it may run on
        os.environ.setdefault("NUMBA_NUM_THREADS", str(usable_cores()))
    set_kernel_cache(tell)


def _is_crowded() -> bool:
    """Whether more processes want to compute than there are cores for them."""
    return hasattr(os, "getloadavg") and os.getloadavg()[0] > usable_cores()
