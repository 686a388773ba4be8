"""What the command line sets too, before torch and Numba load: see `ppt_commands.group`."""

import os

from ppt_core.environment import ENVIRONMENT

os.environ.update({**ENVIRONMENT, **os.environ})
if "PYTEST_XDIST_WORKER" in os.environ:  # several processes share the cores: a thread that spins takes another's
    os.environ["GOMP_SPINCOUNT"] = "0"

from collections.abc import Iterable, Iterator
from pathlib import Path

import pytest

from data_prep.ratings.interactions import Interactions, PreparedData


@pytest.fixture(scope="session")
def tiny_data() -> PreparedData:
    """120 users with planted tastes, small enough to train on within a second."""
    from data_prep.ratings.prepare import prepare
    from data_prep.ratings.synthetic import synthesize

    return prepare(synthesize(120, 150, 4000, seed=3), n_negatives=50, source={"name": "synthetic"})


@pytest.fixture(scope="session")
def checkerboard() -> PreparedData:
    """User u likes the 25 items of u's parity; item u is held out, and the negatives are the other parity."""
    import numpy as np

    numbers = np.arange(50)
    users, items = np.nonzero((numbers[:, None] % 2 == numbers % 2) & (numbers[:, None] != numbers))
    return PreparedData(
        train=Interactions.from_pairs(users, items, n_users=50, n_items=50),
        history=items.astype(np.int32),
        test_items=numbers.astype(np.int32),
        test_negatives=np.stack([numbers[numbers % 2 != user % 2] for user in numbers]).astype(np.int32),
        user_ids=numbers,
        item_ids=numbers,
        protocol="strict",
        manifest={},
    )


@pytest.fixture
def real_data() -> Path:
    """The folder of real data sets, if there is one."""
    folder = os.environ.get("PPT_TEST_DATA")
    if not folder:
        pytest.skip("PPT_TEST_DATA is not set: no real data")
    return Path(folder)


@pytest.fixture
def one_and_two_threads() -> Iterator[Iterable[int]]:
    """Let Numba and torch compute with one thread, then with two: ``for n in one_and_two_threads``.

    Where Numba has one thread (one core, or NUMBA_NUM_THREADS=1), only torch has two in the second round.
    """
    import numba
    import torch

    def rounds() -> Iterator[int]:
        for n in (1, 2):
            numba.set_num_threads(min(n, numba.config.NUMBA_NUM_THREADS))
            torch.set_num_threads(n)
            yield n

    before = numba.get_num_threads(), torch.get_num_threads()
    yield rounds()
    numba.set_num_threads(before[0])
    torch.set_num_threads(before[1])


@pytest.fixture
def cluster() -> Iterator[str]:
    """The address of a Dask cluster of two worker processes."""
    distributed = pytest.importorskip("distributed", reason="the extra `dask` is not installed")
    with distributed.LocalCluster(n_workers=2, threads_per_worker=1, processes=True, dashboard_address=None) as found:
        yield found.scheduler_address
