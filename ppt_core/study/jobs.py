"""Independent jobs on the cores of this machine or on a Dask cluster, by joblib."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from typing import Any

from ppt_core.errors import DataError
from ppt_core.threads import usable_cores


def threads_of_a_job(workers: int, threads: int | None) -> int:
    """Threads of each of ``workers`` jobs, so that they share no cores: by default all that there are.

    Raises ValueError if they need more cores than this process may use.
    """
    n_cores = usable_cores()
    if workers < 1 or (threads is not None and threads < 1):
        raise ValueError(f"workers is {workers} and threads is {threads}; both must be at least 1")
    wanted = max(1, n_cores // workers) if threads is None else threads
    if workers * wanted > n_cores:
        raise ValueError(
            f"{workers} workers of {wanted} threads need {workers * wanted} cores and there are {n_cores}; "
            "trials that share cores would not be timed, so ask for fewer"
        )
    return wanted


def run_jobs(
    function: Callable[..., Any],
    jobs: Sequence[tuple[Any, ...]],
    *,
    workers: int = 1,
    threads: int = 1,
    dask_address: str | None = None,
) -> Iterator[Any]:
    """Yield ``function(*job)`` of each job as it finishes, in any order.

    Args:
        function: importable by name where the jobs run, as are the types of its arguments and results.
        jobs: the arguments of each call.
        workers: processes at a time; 1 stays in this one.
        threads: what each may use.
        dask_address: run on the workers of this Dask scheduler in place of processes of this machine. They must
            have one thread each (`dask worker --nthreads 1`), or jobs would share a process.

    Raises `DataError` if there is no usable cluster, and what a job raises.
    """
    from joblib import Parallel, delayed, parallel_config

    if not jobs:
        return
    with ExitStack() as stack:
        if dask_address is None:
            config = parallel_config("loky", n_jobs=workers, inner_max_num_threads=threads)
        else:
            client = stack.enter_context(_connected(dask_address))
            config = parallel_config("dask", n_jobs=-1, client=client)
        with config:
            parallel = Parallel(return_as="generator_unordered", batch_size=1, pre_dispatch="all")
        yield from parallel(delayed(function)(*job) for job in jobs)


def cluster_workers(address: str) -> int:
    """How many jobs the Dask cluster at ``address`` takes at a time. Raises `DataError` if there is no usable one."""
    with _connected(address) as client:
        return len(client.nthreads())


def _connected(address: str) -> Any:
    try:
        from distributed import Client
    except ImportError:
        raise DataError("dask_address needs Dask; install it with pip install 'ppt-ncf[dask]'") from None
    try:
        client = Client(address, timeout=10)
    except (OSError, ValueError) as error:
        raise DataError(f"no Dask scheduler answers at {address} ({error}); start one with `dask scheduler`") from None
    threads = set(client.nthreads().values())
    if threads != {1}:
        client.close()
        found = f"with {max(threads)} threads" if threads else "none"
        raise DataError(f"the Dask workers at {address} are {found}; start some with `dask worker --nthreads 1`")
    return client
