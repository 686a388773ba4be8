import multiprocessing
from itertools import islice
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from data_prep.images.image_arrays import ImageArray
from data_prep.images.image_files import ImageFiles
from ppt_core.errors import DataError
from ppt_core.schedule import batches_per_epoch
from vision_ppt.batches import (
    Block,
    draw_blocks,
    evaluation_batches,
    training_batches,
    training_blocks,
)
from vision_ppt.sampling import ArraySampler, FileSampler


@given(st.integers(2, 400), st.integers(2, 150), st.integers(0, 3))
def test_the_batches_of_an_epoch_hold_every_sample_once(n_samples: int, batch_size: int, epoch: int) -> None:
    n_batches = batches_per_epoch(n_samples, batch_size)
    blocks = list(islice(training_blocks(n_samples, batch_size, start=epoch * n_batches), n_batches))
    assert [i for block in blocks for i in range(block.start, block.stop)] == list(range(n_samples))
    assert {block.epoch for block in blocks} == {epoch}
    sizes = [block.stop - block.start for block in blocks]
    assert all(size == batch_size for size in sizes[:-1])
    assert 2 <= sizes[-1] <= batch_size + 1


def test_a_rest_is_kept_and_a_rest_of_one_joins_the_batch_before() -> None:
    def sizes(n_samples: int) -> list[int]:
        blocks = islice(training_blocks(n_samples, 4, start=0), batches_per_epoch(n_samples, 4))
        return [block.stop - block.start for block in blocks]

    assert sizes(8) == [4, 4]
    assert sizes(9) == [4, 5]
    assert sizes(10) == [4, 4, 2]
    assert sizes(3) == [3]


def test_a_stream_started_later_goes_on_as_the_whole_one() -> None:
    whole = list(islice(training_blocks(10, 4, start=0), 9))
    assert whole[3] == Block(1, 0, 4)
    for start in range(9):
        assert list(islice(training_blocks(10, 4, start=start), 9 - start)) == whole[start:]


def arrays() -> ImageArray:
    images = np.random.default_rng(0).integers(0, 256, (11, 4, 4, 3), np.uint8)
    return ImageArray(images=images, labels=np.arange(11))


def test_batches_of_arrays() -> None:
    sampler = ArraySampler(source=arrays(), training=True, seed=1)
    batches = list(islice(training_batches(sampler, 4), 6))
    assert [len(batch.labels) for batch in batches] == [4, 4, 3] * 2
    labels = torch.cat([batch.labels for batch in batches[:3]]).tolist()
    assert sorted(labels) == list(range(11))
    assert labels != torch.cat([batch.labels for batch in batches[3:]]).tolist()
    (resumed,) = islice(training_batches(sampler, 4, start=5), 1)
    assert torch.equal(resumed.images, batches[5].images)

    tested = list(evaluation_batches(ArraySampler(source=arrays(), training=False), 5))
    assert [len(batch.labels) for batch in tested] == [5, 5, 1]
    assert torch.cat([batch.labels for batch in tested]).tolist() == list(range(11))


@pytest.fixture
def files(tmp_path: Path) -> ImageFiles:
    import pyarrow as pa

    for index in range(9):
        noise = np.random.default_rng(index).integers(0, 256, (20, 30, 3), np.uint8)
        Image.fromarray(noise).save(tmp_path / f"{index}.JPEG")
    return ImageFiles(root=tmp_path, paths=pa.array([f"{i}.JPEG" for i in range(9)]), labels=np.arange(9))


def test_any_number_of_workers_gives_the_same_batches(files: ImageFiles) -> None:
    sampler = FileSampler(source=files, training=True, image_size=8, seed=3)
    expected = list(islice(training_batches(sampler, 4, start=1), 5))
    for workers in (1, 2):
        stream = training_batches(sampler, 4, start=1, workers=workers)
        for found, batch in zip(islice(stream, 5), expected, strict=True):
            assert torch.equal(found.images, batch.images)
            assert torch.equal(found.labels, batch.labels)
        stream.close()  # type: ignore[attr-defined]
    tested = evaluation_batches(FileSampler(source=files, training=False, image_size=8), 4, workers=1)
    assert torch.cat([batch.labels for batch in tested]).tolist() == list(range(9))


def test_a_process_that_may_have_none_of_its_own_draws_itself(
    files: ImageFiles, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As the workers of a Dask cluster are."""
    monkeypatch.setitem(multiprocessing.current_process()._config, "daemon", True)  # type: ignore[attr-defined]
    tested = evaluation_batches(FileSampler(source=files, training=False, image_size=8), 4, workers=2)
    assert torch.cat([batch.labels for batch in tested]).tolist() == list(range(9))


@pytest.mark.parametrize("workers", [0, 1])
def test_a_file_that_broke_since_is_named_in_one_line(files: ImageFiles, workers: int) -> None:
    files.path(5).write_bytes(b"")
    stream = evaluation_batches(FileSampler(source=files, training=False, image_size=8), 4, workers=workers)
    assert next(stream).labels.tolist() == [0, 1, 2, 3]
    with pytest.raises(DataError) as raised:
        next(stream)
    assert str(raised.value) == f"{files.path(5)} cannot be read (it has zero bytes); prepare the images again"


@pytest.mark.parametrize(
    ("n_samples", "batch_size", "message"),
    [(1, 4, "n_samples is 1; it must be at least 2"), (9, 1, "batch_size is 1; it must be at least 2")],
)
def test_refuses_batches_of_one(n_samples: int, batch_size: int, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        next(training_blocks(n_samples, batch_size, start=0))


def test_refuses_impossible_settings() -> None:
    sampler = ArraySampler(source=arrays(), training=False)
    with pytest.raises(ValueError, match="batch_size is 0; it must be at least 1"):
        evaluation_batches(sampler, 0)
    with pytest.raises(ValueError, match="workers is -1; it must be 0 or above"):
        next(draw_blocks(sampler, [Block(0, 0, 1)], workers=-1))
