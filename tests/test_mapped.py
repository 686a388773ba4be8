from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as npy
from numpy.typing import NDArray

from data_prep.ratings.interactions import PreparedData
from ncf_ppt.ranking import rank_test_items
from ppt_core.mapped import extent, release_pages


def resident(path: Path) -> int:
    """Bytes of a file that this process has mapped and holds in memory."""
    maps = Path("/proc/self/smaps")
    if not maps.exists():
        pytest.skip("this system does not say which mapped pages are in memory")
    total, is_of_file = 0, False
    for line in maps.read_text().splitlines():
        if "-" in line.split(" ")[0]:
            is_of_file = line.endswith(str(path))
        elif is_of_file and line.startswith("Rss:"):
            total += int(line.split()[1]) * 1024
    return total


@pytest.fixture
def path(tmp_path: Path) -> Path:
    np.save(tmp_path / "a.npy", np.arange(100_000))
    return tmp_path / "a.npy"


def test_pages_are_given_back_and_read_again(path: Path) -> None:
    array = np.load(path, mmap_mode="r")
    assert array.sum() == 99_999 * 50_000
    assert resident(path) >= array.nbytes
    release_pages(array[10:20].view(np.uint64))
    assert resident(path) == 0
    assert array.sum() == 99_999 * 50_000


def test_other_arrays_keep_what_was_written(path: Path) -> None:
    changed = np.load(path, mmap_mode="c")
    changed[:] = 1
    view = changed[:5]
    view.flags.writeable = False
    for array in (changed, view, np.ones(3), np.frombuffer(b"abcd", np.uint8)):
        before = array.copy()
        release_pages(array)
        assert np.array_equal(array, before)


@given(npy.arrays(st.sampled_from([np.int32, np.int64]), npy.array_shapes(max_dims=2, min_side=1, max_side=40)))
@settings(deadline=None)
def test_extent(array: NDArray[np.int64]) -> None:
    assert extent(array) == (array.min(), array.max())


def test_extent_of_what_is_larger_than_a_block(tmp_path: Path) -> None:
    array = np.zeros((2_500_000, 1), np.int64)
    array[1_200_000], array[-1] = -7, 5
    np.save(tmp_path / "a.npy", array)
    assert extent(np.load(tmp_path / "a.npy", mmap_mode="r")) == extent(array) == (-7, 5)


def test_prepared_data_are_checked_and_not_held(tiny_data: PreparedData, tmp_path: Path) -> None:
    tiny_data.save(tmp_path / "data")
    data = PreparedData.load(tmp_path / "data")
    for name in ("items", "history", "test_items", "test_negatives"):
        assert resident(tmp_path / "data" / f"{name}.npy") == 0
    assert np.array_equal(data.train.items, tiny_data.train.items)


def test_ranking_holds_no_mapped_negatives(tiny_data: PreparedData, tmp_path: Path) -> None:
    tiny_data.save(tmp_path / "data")
    data = PreparedData.load(tmp_path / "data")

    def score(users: NDArray[np.int64], candidates: NDArray[np.int32]) -> NDArray[np.float32]:
        return candidates.astype(np.float32)

    found = rank_test_items(score, data)
    assert resident(tmp_path / "data" / "test_negatives.npy") == 0
    assert found.metrics() == rank_test_items(score, tiny_data).metrics()
