from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from data_prep.images.decoding import N_CROP_WORDS, evaluation_view, read_image, training_view
from data_prep.images.image_arrays import ImageArray, PreparedImages
from data_prep.images.image_files import ImageFiles, PreparedFolders
from data_prep.images.normalization import IMAGENET_NORMALIZATION
from ppt_core.random_words import random_words
from tests import reference
from vision_ppt.sampling import ArraySampler, FileSampler, epoch_order, evaluation_sampler, training_sampler

SIZE = 12


def numbered(n: int) -> ImageArray:
    """Images whose pixels tell their row, their column and their image, all from 1."""
    images = np.empty((n, SIZE, SIZE, 3), np.uint8)
    images[..., 0] = np.arange(1, SIZE + 1)[:, None]
    images[..., 1] = np.arange(1, SIZE + 1)
    images[..., 2] = np.arange(1, n + 1)[:, None, None]
    return ImageArray(images=images, labels=np.arange(n) % 7)


def sampler(n: int = 50, *, seed: int = 0, training: bool = True) -> ArraySampler:
    return ArraySampler(source=numbered(n), training=training, seed=seed)


def test_an_epoch_holds_every_image_once_in_an_order_of_its_own() -> None:
    orders = [epoch_order(1000, seed=seed, epoch=epoch) for seed in (0, 1) for epoch in (0, 1)]
    for order in orders:
        assert np.array_equal(np.sort(order), np.arange(1000))
    assert len({tuple(order.tolist()) for order in orders}) == 4
    positions = np.array([np.argsort(epoch_order(10, seed=0, epoch=epoch)) for epoch in range(3000)])
    assert np.abs(positions.mean(axis=0) - 4.5).max() < 0.25  # the deviation of a mean is 0.052
    with pytest.raises(ValueError, match="read-only"):
        epoch_order(10, seed=0, epoch=0)[0] = 1


def test_a_sample_does_not_depend_on_the_batch_it_is_in() -> None:
    whole = sampler().draw(3, 0, 50)
    assert whole.images.shape == (50, SIZE, SIZE, 3)
    assert (whole.images.dtype, whole.labels.dtype) == (torch.uint8, torch.int64)
    for start, stop in ((0, 7), (7, 8), (8, 50), (50, 50)):
        part = sampler().draw(3, start, stop)
        assert torch.equal(part.images, whole.images[start:stop])
        assert torch.equal(part.labels, whole.labels[start:stop])
    assert not torch.equal(sampler().draw(4, 0, 50).images, whole.images)
    assert not torch.equal(sampler(seed=1).draw(3, 0, 50).images, whole.images)


def test_training_images_are_windows_of_the_padded_ones_and_every_window_is_as_likely() -> None:
    source, counts = numbered(100), np.zeros((9, 9, 2), int)
    places = np.empty((20, 100, 2), int)
    for epoch in range(20):
        batch = sampler(100).draw(epoch, 0, 100)
        order = epoch_order(100, seed=0, epoch=epoch)
        assert batch.labels.tolist() == source.labels[order].tolist()
        for image, index in zip(batch.images.numpy().astype(int), order.tolist(), strict=True):
            middle, next_to_it = image[6, 6], image[6, 7]
            is_flipped = next_to_it[1] < middle[1]
            top, left = middle[0] - 1 - 6 + 4, middle[1] - 1 - (SIZE - 1 - 6 if is_flipped else 6) + 4
            expected = reference.pad_crop_flip(source.images[index], top, left, is_flipped, 4, (0, 0, 0))
            assert np.array_equal(image, expected)
            counts[top, left, int(is_flipped)] += 1
            places[epoch, index] = top, left
    for axes, n_values in (((1, 2), 9), ((0, 2), 9), ((0, 1), 2)):
        expected_count = counts.sum() / n_values
        chi_square = ((counts.sum(axis=axes) - expected_count) ** 2 / expected_count).sum()
        assert chi_square < (26.1 if n_values == 9 else 10.8)  # 99.9%
    # Nor does one image tell about the next: the one's column is the other's row in a ninth of all cases.
    for one, other in ((0, 0), (0, 1), (1, 0), (1, 1)):
        assert (places[:, :-1, one] == places[:, 1:, other]).mean() == pytest.approx(1 / 9, abs=0.03)
    assert (places[:-1] == places[1:]).mean() == pytest.approx(1 / 9, abs=0.03)


def test_evaluation_takes_the_images_as_they_are() -> None:
    batch = sampler(training=False, seed=3).draw(0, 10, 20)
    assert np.array_equal(batch.images.numpy(), numbered(50).images[10:20])
    assert batch.labels.tolist() == numbered(50).labels[10:20].tolist()


@pytest.mark.parametrize(("epoch", "start", "stop"), [(0, 0, 51), (0, -1, 3), (0, 4, 3), (-1, 0, 3)])
def test_refuses_samples_that_do_not_exist(epoch: int, start: int, stop: int) -> None:
    with pytest.raises(ValueError, match=r"samples .* are outside 0\.\.50|epoch is -1; epochs count from 0"):
        sampler().draw(epoch, start, stop)


def test_refuses_impossible_settings(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="seed is -1"):
        sampler(seed=-1)
    with pytest.raises(ValueError, match="image_size is 0; it must be at least 1"):
        FileSampler(source=files(tmp_path), training=True, image_size=0)
    with pytest.raises(ValueError, match="seed is -1"):
        FileSampler(source=files(tmp_path), training=True, seed=-1)


def files(root: Path, n: int = 5) -> ImageFiles:
    import pyarrow as pa

    rng = np.random.default_rng(0)
    for index in range(n):
        noise = rng.integers(0, 256, (40 + index, 60 - index, 3), np.uint8)
        Image.fromarray(noise).save(root / f"{index}.JPEG")
    return ImageFiles(root=root, paths=pa.array([f"{index}.JPEG" for index in range(n)]), labels=np.arange(n))


def test_files_are_drawn_as_their_views(tmp_path: Path) -> None:
    source = files(tmp_path)
    order = epoch_order(5, seed=2, epoch=1)
    batch = FileSampler(source=source, training=True, image_size=32, seed=2).draw(1, 1, 5)
    assert batch.images.shape == (4, 32, 32, 3)
    assert batch.labels.tolist() == order[1:].tolist()
    for image, index in zip(batch.images.numpy(), order[1:].tolist(), strict=True):
        words = random_words(2, "crop", 1, index * N_CROP_WORDS + np.arange(N_CROP_WORDS))
        assert np.array_equal(image, training_view(read_image(source.path(index)), words, 32))

    batch = FileSampler(source=source, training=False, image_size=32).draw(0, 0, 5)
    assert batch.labels.tolist() == [0, 1, 2, 3, 4]
    for image, index in zip(batch.images.numpy(), range(5), strict=True):
        assert np.array_equal(image, evaluation_view(read_image(source.path(index)), 32))


def test_samplers_of_either_kind_of_data(tmp_path: Path) -> None:
    arrays = PreparedImages(
        train=numbered(20),
        test=numbered(10),
        class_names=tuple("abcdefg"),
        normalization=IMAGENET_NORMALIZATION,
        manifest={},
    )
    assert training_sampler(arrays, seed=4) == ArraySampler(
        source=arrays.train, training=True, color=(124, 116, 104), seed=4
    )
    assert evaluation_sampler(arrays.test) == ArraySampler(source=arrays.test, training=False)
    folders = PreparedFolders(train=files(tmp_path), test=files(tmp_path, 2), class_names=tuple("abcde"), manifest={})
    assert training_sampler(folders, seed=4, image_size=64) == FileSampler(
        source=folders.train, training=True, image_size=64, seed=4
    )
    assert evaluation_sampler(folders.test) == FileSampler(source=folders.test, training=False, image_size=224)
