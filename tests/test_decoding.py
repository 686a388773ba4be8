import io
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from data_prep.images.decoding import N_CROP_WORDS, evaluation_view, find_fault, random_crop, read_image, training_view
from ppt_core.errors import DataError
from ppt_core.random_words import random_words


def gradient(width: int, height: int) -> Image.Image:
    """Red grows with the column, green with the row."""
    x, y = np.meshgrid(np.linspace(0, 255, width), np.linspace(0, 255, height))
    return Image.fromarray(np.stack([x, y, np.full_like(x, 99)], axis=2).astype(np.uint8))


def encode(image: Image.Image, kind: str = "JPEG") -> bytes:
    stream = io.BytesIO()
    image.save(stream, kind, quality=95)
    return stream.getvalue()


def words(index: int) -> np.ndarray[tuple[int], np.dtype[np.uint64]]:
    result = random_words(0, "test", 0, index * N_CROP_WORDS + np.arange(N_CROP_WORDS))
    assert result.shape == (N_CROP_WORDS,)
    return result


@pytest.mark.parametrize("mode", ["RGB", "L", "CMYK"])
def test_every_colour_model_becomes_rgb(tmp_path: Path, mode: str) -> None:
    path = tmp_path / "image.JPEG"
    path.write_bytes(encode(gradient(40, 30).convert(mode)))
    with Image.open(path) as image:
        assert image.mode == mode
    result = read_image(path)
    assert (result.mode, result.size) == ("RGB", (40, 30))
    expected = np.asarray(gradient(40, 30).convert(mode).convert("RGB"), int)
    assert np.abs(np.asarray(result, int) - expected).mean() < 3


def test_a_png_under_the_name_of_a_jpeg_is_read(tmp_path: Path) -> None:
    path = tmp_path / "image.JPEG"
    path.write_bytes(encode(gradient(8, 8), "PNG"))
    assert np.array_equal(np.asarray(read_image(path)), np.asarray(gradient(8, 8)))


WHOLE = encode(gradient(100, 80))
BROKEN = {
    "empty": (b"", "it has zero bytes"),
    "truncated": (WHOLE[: len(WHOLE) // 2], "truncated"),
    "cut in its header": (WHOLE[:30], "Truncated"),
    "text": (b"not an image", "it is neither a JPEG nor a PNG image"),
    "gif": (encode(gradient(8, 8), "GIF"), "it is neither a JPEG nor a PNG image"),
    "truncated png": (encode(gradient(100, 80), "PNG")[:-200], ""),
}


@pytest.mark.parametrize("name", BROKEN)
def test_a_broken_file_is_named_in_one_line(tmp_path: Path, name: str) -> None:
    content, reason = BROKEN[name]
    path = tmp_path / "image.JPEG"
    path.write_bytes(content)
    fault = find_fault(content)
    assert fault is not None
    assert reason in fault
    with pytest.raises(DataError, match=r"image\.JPEG cannot be read \(") as raised:
        read_image(path)
    assert reason in str(raised.value)
    assert "\n" not in str(raised.value) + fault


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"^\S+gone\.JPEG does not exist$"):
        read_image(tmp_path / "gone.JPEG")


def test_a_whole_file_has_no_fault() -> None:
    assert find_fault(WHOLE) is None
    assert find_fault(encode(gradient(1, 1))) is None


def test_training_crops_have_the_areas_ratios_and_places_asked_for() -> None:
    width, height = 500, 375
    boxes = np.array([random_crop(width, height, words(index)) for index in range(4000)])
    sizes = boxes[:, 2:] - boxes[:, :2]
    assert (boxes[:, :2] >= 0).all()
    assert (boxes[:, 2:] <= (width, height)).all()
    areas, ratios = sizes.prod(axis=1) / (width * height), sizes[:, 0] / sizes[:, 1]
    assert 0.078 < areas.min() < 0.09
    assert 0.98 < areas.max() <= 1
    assert 0.74 < ratios.min() < 0.76
    assert 1.32 < ratios.max() < 1.35
    small = areas < 0.4  # there every shape fits, so nothing is drawn again
    assert np.median(np.log(ratios[small])) == pytest.approx(0, abs=0.03)
    assert areas[small].mean() == pytest.approx(0.24, abs=0.01)
    free = (width, height) - sizes[small]
    assert (boxes[small, :2] / free).mean(axis=0) == pytest.approx([0.5, 0.5], abs=0.03)


@pytest.mark.parametrize(
    ("numbers", "box"),
    [
        # Area, ratio, left and top, each as a fraction of its range.
        ([(0.5, 0.5, 0.5, 0.25)], (14, 7, 87, 80)),  # 54% of the area, square: 73 x 73, 28 places each way
        ([(0.0, 0.0, 0.0, 1.0)], (0, 67, 24, 100)),  # 8%, 3:4
        ([(0.0, 1.0, 1.0, 0.0)], (67, 0, 100, 24)),  # 8%, 4:3
        ([(1.0, 0.5, 0.9, 0.9)], (0, 0, 100, 100)),  # everything
        ([(1.0, 1.0, 0.5, 0.5), (0.0, 0.5, 0.0, 0.0)], (0, 0, 28, 28)),  # the first is too wide
    ],
)
def test_known_crops(numbers: list[tuple[float, ...]], box: tuple[int, ...]) -> None:
    chosen = words(0)
    for attempt, fractions in enumerate(numbers):
        chosen[4 * attempt : 4 * attempt + 4] = [min(int(fraction * 2**64), 2**64 - 1) for fraction in fractions]
    assert random_crop(100, 100, chosen) == box


@pytest.mark.parametrize(
    ("width", "height", "box"),
    [
        (1000, 10, (493, 0, 506, 10)),  # a strip: no ratio fits, so the centre with the ratio 4/3
        (10, 1000, (0, 493, 10, 506)),
        (1, 1, (0, 0, 1, 1)),
    ],
)
def test_extreme_images_are_cropped_in_the_middle(width: int, height: int, box: tuple[int, ...]) -> None:
    assert random_crop(width, height, words(0)) == box


def test_the_training_view_is_the_crop_scaled_and_half_of_them_are_mirrored() -> None:
    image = gradient(300, 200)
    n_mirrored = 0
    for index in range(60):
        view = training_view(image, words(index), 64).astype(float)
        left, top, right, bottom = random_crop(300, 200, words(index))
        assert view.shape == (64, 64, 3)
        mirrored = view[0, 0, 0] > view[0, -1, 0]
        n_mirrored += mirrored
        if mirrored:
            view = view[:, ::-1]
        centres = (np.arange(64) + 0.5) / 64
        columns, rows = left + centres * (right - left) - 0.5, top + centres * (bottom - top) - 0.5
        np.testing.assert_allclose(view[10, 4:-4, 0], columns[4:-4] * 255 / 299, atol=2)
        np.testing.assert_allclose(view[4:-4, 10, 1], rows[4:-4] * 255 / 199, atol=2)
    assert 18 < n_mirrored < 42


@pytest.mark.parametrize(("width", "height"), [(400, 300), (300, 400), (100, 100), (2000, 257)])
def test_the_evaluation_view_is_the_centre_at_224_of_256(width: int, height: int) -> None:
    view = evaluation_view(gradient(width, height), 224)
    assert view.shape == (224, 224, 3)
    short = min(width, height)
    for pixels, length in ((view[112, :, 0], width), (view[:, 112, 1], height)):
        centres = length / 2 + (np.arange(224) + 0.5 - 112) * short / 256 - 0.5
        np.testing.assert_allclose(pixels, centres * 255 / (length - 1), atol=3)


def test_the_evaluation_view_is_what_the_usual_two_steps_give() -> None:
    noise = Image.fromarray(np.random.default_rng(0).integers(0, 256, (300, 400, 3), np.uint8))
    scaled = noise.resize((341, 256), Image.Resampling.BILINEAR)  # 256 * 400 / 300 = 341.3
    expected = np.asarray(scaled)[16:240, 58:282]  # (341 - 224) / 2 = 58.5, to the even number
    assert np.array_equal(evaluation_view(noise, 224), expected)
