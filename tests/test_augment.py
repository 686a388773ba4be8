import time
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from data_prep.images.normalization import Normalization
from tests import reference
from vision_ppt.augment import pad_crop_flip


def random_images(n: int, height: int, width: int, seed: int = 0) -> Any:
    return np.random.default_rng(seed).integers(0, 256, (n, height, width, 3), np.uint8)


@settings(deadline=None, max_examples=30)
@given(st.data())
def test_pad_crop_flip_is_what_the_reference_does(data: st.DataObject) -> None:
    n, height, width, padding = (data.draw(st.integers(*bounds)) for bounds in ((1, 4), (1, 5), (1, 5), (0, 4)))
    images = random_images(n, height, width, data.draw(st.integers(0, 99)))
    offsets = st.lists(st.integers(0, 2 * padding), min_size=n, max_size=n)
    tops, lefts = np.array(data.draw(offsets)), np.array(data.draw(offsets))
    flipped = np.array(data.draw(st.lists(st.booleans(), min_size=n, max_size=n)))
    before = images.copy()
    result = pad_crop_flip(images, tops, lefts, flipped, padding=padding, color=(1, 2, 3))
    assert np.array_equal(images, before)
    assert result.shape == images.shape
    for row in range(n):
        expected = reference.pad_crop_flip(images[row], tops[row], lefts[row], flipped[row], padding, (1, 2, 3))
        assert np.array_equal(result[row], expected)


@pytest.mark.parametrize("channels_last", [True, False])
def test_normalization(channels_last: bool) -> None:
    images = random_images(3, 4, 5)
    normalization = Normalization(mean=(0.1, 0.2, 0.3), deviation=(0.5, 0.25, 2))
    result = normalization(torch.from_numpy(images), channels_last=channels_last)
    assert (result.shape, result.dtype) == ((3, 3, 4, 5), torch.float32)
    order = torch.channels_last if channels_last else torch.contiguous_format
    assert result.is_contiguous(memory_format=order)
    for channel in range(3):
        expected = (images[..., channel] / 255 - normalization.mean[channel]) / normalization.deviation[channel]
        np.testing.assert_allclose(result[:, channel].numpy(), expected, rtol=1e-5, atol=1e-6)


def test_normalization_of_images() -> None:
    images = random_images(2003, 3, 2)
    images[..., 2] = 51
    normalization = Normalization.of(images)
    np.testing.assert_allclose(normalization.mean, (images / 255).mean((0, 1, 2)))
    np.testing.assert_allclose(normalization.deviation[:2], (images / 255).std((0, 1, 2))[:2])
    assert normalization.deviation[2] == 1
    assert normalization.color == (*np.round(images.mean((0, 1, 2))[:2]), 51)
    result = normalization(torch.from_numpy(images))
    np.testing.assert_allclose(result.mean((0, 2, 3)), 0, atol=1e-6)
    np.testing.assert_allclose(result.std((0, 2, 3), correction=0), [1, 1, 0], atol=1e-5)


@pytest.mark.parametrize("deviation", [(1, 1, 0), (1, 1), (1, 1, -1)])
def test_refuses_a_normalization_that_divides_by_nothing(deviation: Any) -> None:
    with pytest.raises(ValueError, match="needs three means and three deviations above 0"):
        Normalization(mean=(0, 0, 0), deviation=deviation)


@pytest.mark.parametrize("value", ["0.5", None, float("nan")])
def test_refuses_means_that_are_no_numbers(value: Any) -> None:
    with pytest.raises(ValueError, match="needs three means"):
        Normalization(mean=(0, value, 0), deviation=(1, 1, 1))


def test_a_batch_of_cifar_takes_half_the_time_of_one_image_after_the_other_at_most() -> None:
    images = random_images(128, 32, 32)
    offsets, flipped = np.arange(128) % 9, np.arange(128) % 2 == 0
    normalization = Normalization(mean=(0.5, 0.5, 0.5), deviation=(0.25, 0.25, 0.25))

    def one_kernel() -> None:
        changed = pad_crop_flip(images, offsets, offsets, flipped, padding=4, color=(125, 123, 114))
        normalization(torch.from_numpy(changed))

    def image_by_image() -> None:
        changed = []
        for image, n, flip in zip(images, offsets.tolist(), flipped.tolist(), strict=True):
            padded = np.full((40, 40, 3), (125, 123, 114), np.uint8)
            padded[4:36, 4:36] = image
            crop = padded[n : n + 32, n : n + 32]
            crop = np.ascontiguousarray(crop[:, ::-1] if flip else crop)
            changed.append(torch.from_numpy(crop).permute(2, 0, 1).float().div(255).sub(0.5).div(0.25))
        torch.stack(changed)

    times: dict[Any, list[float]] = {one_kernel: [], image_by_image: []}
    for _ in range(30):
        for way, taken in times.items():
            start = time.thread_time()  # processor time: other processes do not count
            way()
            taken.append(time.thread_time() - start)
    assert min(times[one_kernel]) < min(times[image_by_image]) / 2
