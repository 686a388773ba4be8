"""Light on imports: so are the processes that import it."""

import os
import time

import pytest

from ppt_core.study.jobs import cluster_workers, run_jobs, threads_of_a_job
from ppt_core.threads import usable_cores


def where(number: int) -> tuple[int, int]:
    time.sleep(0.3)
    return number, os.getpid()


def test_jobs_run_in_processes_of_their_own() -> None:
    assert {pid for _, pid in run_jobs(where, [(1,), (2,)])} == {os.getpid()}
    found = dict(run_jobs(where, [(number,) for number in range(4)], workers=2))
    assert sorted(found) == [0, 1, 2, 3]
    assert len(set(found.values())) == 2
    assert os.getpid() not in found.values()


def test_a_dask_cluster_takes_the_same_jobs(cluster: str) -> None:
    assert cluster_workers(cluster) == 2
    found = dict(run_jobs(where, [(number,) for number in range(4)], dask_address=cluster))
    assert sorted(found) == [0, 1, 2, 3]
    assert len(set(found.values())) == 2
    assert os.getpid() not in found.values()


def test_parallel_trials_share_no_cores() -> None:
    cores = usable_cores()
    assert threads_of_a_job(1, None) == cores
    assert threads_of_a_job(cores, None) == 1
    with pytest.raises(ValueError, match="would not be timed"):
        threads_of_a_job(cores, 2)
    with pytest.raises(ValueError, match="at least 1"):
        threads_of_a_job(0, None)
