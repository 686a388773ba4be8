"""What is set before the libraries load."""

import os

import pytest

from ppt_core import environment
from ppt_core.environment import ENVIRONMENT, set_environment


@pytest.fixture
def unset(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    """None of the variables is set, and the machine has 4 cores."""
    monkeypatch.setattr(environment, "usable_cores", lambda: 4)
    monkeypatch.setattr(environment, "affinity", lambda: 4)
    for name in (*ENVIRONMENT, "NUMBA_NUM_THREADS"):
        monkeypatch.setenv(name, "")  # so that it is put back whatever happens
        monkeypatch.delenv(name)
    return monkeypatch


@pytest.mark.parametrize(("load", "spins"), [(0.5, "20000"), (4.0, "20000"), (4.1, "0"), (40.0, "0")])
def test_no_thread_spins_where_others_wait_for_cores(load: float, spins: str, unset: pytest.MonkeyPatch) -> None:
    unset.setattr(os, "getloadavg", lambda: (load, 0.0, 0.0), raising=False)
    set_environment(lambda message: None)
    assert {name: os.environ[name] for name in ENVIRONMENT} == ENVIRONMENT | {"GOMP_SPINCOUNT": spins}


def test_the_users_variables_stay(unset: pytest.MonkeyPatch) -> None:
    unset.setattr(os, "getloadavg", lambda: (40.0, 0.0, 0.0), raising=False)
    unset.setenv("GOMP_SPINCOUNT", "7")
    unset.setenv("MKL_CBWR", "COMPATIBLE")
    set_environment(lambda message: None)
    assert os.environ["GOMP_SPINCOUNT"] == "7"
    assert os.environ["MKL_CBWR"] == "COMPATIBLE"


def test_a_quota_bounds_the_threads_that_numba_starts(unset: pytest.MonkeyPatch) -> None:
    unset.setattr(environment, "usable_cores", lambda: 2)
    unset.setattr(environment, "sys", type("sys", (), {"modules": {}}))  # as before Numba is imported
    set_environment(lambda message: None)
    assert os.environ["NUMBA_NUM_THREADS"] == "2"
    unset.setenv("NUMBA_NUM_THREADS", "1")
    set_environment(lambda message: None)
    assert os.environ["NUMBA_NUM_THREADS"] == "1"
