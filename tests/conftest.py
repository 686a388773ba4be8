"""What the command line sets too, before torch and Numba load: see `commands.group`."""

import os

from ppt_core.threads import THREAD_SETTINGS

os.environ.update({**THREAD_SETTINGS, **os.environ})

from pathlib import Path

import pytest

from ncf_ppt.interactions import PreparedData


@pytest.fixture(scope="session")
def tiny_data() -> PreparedData:
    """120 users with planted tastes, small enough to train on within a second."""
    from data_prep.prepare import prepare
    from data_prep.synthetic import synthesize

    return prepare(synthesize(120, 150, 4000, seed=3), n_negatives=50, source={"name": "synthetic"})


@pytest.fixture
def real_data() -> Path:
    """The folder of real data sets, if there is one."""
    folder = os.environ.get("PPT_TEST_DATA")
    if not folder:
        pytest.skip("PPT_TEST_DATA is not set: no real data")
    return Path(folder)
