from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from data_prep.ratings.interactions import PreparedData
from ncf_ppt.ranking import rank_test_items
from ppt_core.mapped import release_pages


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


def test_ranking_holds_no_mapped_negatives(tiny_data: PreparedData, tmp_path: Path) -> None:
    tiny_data.save(tmp_path / "data")
    data = PreparedData.load(tmp_path / "data")

    def score(users: NDArray[np.int64], candidates: NDArray[np.int32]) -> NDArray[np.float32]:
        return candidates.astype(np.float32)

    found = rank_test_items(score, data)
    assert resident(tmp_path / "data" / "test_negatives.npy") == 0
    assert found.metrics() == rank_test_items(score, tiny_data).metrics()
