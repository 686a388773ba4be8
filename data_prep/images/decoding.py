"""From image files to arrays: decoding with Pillow, ImageNet's crops for training and for evaluation."""

import io
import math
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError

from ppt_core.errors import DataError
from ppt_core.random_words import below, fractions
from ppt_core.runs.files import read_bytes

N_CROP_WORDS = 41
"""Random words that a training crop takes: four for each of ten attempts, one for the flip."""

# A few files of ImageNet are PNG under the name of a JPEG. Pillow's other decoders are of no use here.
_FORMATS = ("JPEG", "PNG")
_ATTEMPTS = 10
_SCALE = (0.08, 1.0)
_LOG_RATIO = (math.log(3 / 4), math.log(4 / 3))


def read_image(path: Path) -> Image.Image:
    """Decode an image file as red, green and blue; greyscale and CMYK are converted.

    Raises `DataError` that names the file if it is missing, empty, truncated or no image.
    """
    content = read_bytes(path)
    try:
        return _open_image(content).convert("RGB")
    except Exception as error:  # a damaged file can fail in any way
        raise DataError(f"{path} cannot be read ({_one_line(error)}); prepare the images again") from None


def find_fault(content: bytes) -> str | None:
    """Return why `read_image` would fail on this content of a file, or None.

    JPEG files are decoded at an eighth of their size: their bytes are all read, and it takes two thirds of the time.
    """
    try:
        image = _open_image(content)
        image.draft("RGB", (max(1, image.width // 8), max(1, image.height // 8)))
        image.load()
    except Exception as error:  # a damaged file can fail in any way
        return _one_line(error)
    return None


def _open_image(content: bytes) -> Image.Image:
    if not content:
        raise ValueError("it has zero bytes")
    try:
        return Image.open(io.BytesIO(content), formats=_FORMATS)
    except UnidentifiedImageError:
        raise ValueError("it is neither a JPEG nor a PNG image") from None


def random_crop(width: int, height: int, words: NDArray[np.uint64]) -> tuple[int, int, int, int]:
    """Choose a training crop, (left, top, right, bottom): an area of 8% to 100% of an image of any shape.

    The ratio of width to height is log-uniform between 3/4 and 4/3, the area uniform, the place uniform. After ten
    attempts that do not fit, the largest centred crop with such a ratio.

    Source: Szegedy et al. 2015, section 6, in the form that later became usual (ten attempts).

    Args:
        width: of the image.
        height: of the image.
        words: the random words, uint64 (at least 40,).
    """
    attempts = fractions(words[: 4 * _ATTEMPTS]).reshape(_ATTEMPTS, 4)
    for number, (area, log_ratio, _, _) in enumerate(attempts.tolist()):
        target = width * height * (_SCALE[0] + area * (_SCALE[1] - _SCALE[0]))
        ratio = math.exp(_LOG_RATIO[0] + log_ratio * (_LOG_RATIO[1] - _LOG_RATIO[0]))
        crop_width, crop_height = round(math.sqrt(target * ratio)), round(math.sqrt(target / ratio))
        if 0 < crop_width <= width and 0 < crop_height <= height:
            left = int(below(words[4 * number + 2], width - crop_width + 1))
            top = int(below(words[4 * number + 3], height - crop_height + 1))
            return left, top, left + crop_width, top + crop_height
    crop_width = min(width, max(1, round(height * 4 / 3)))
    crop_height = min(height, max(1, round(width * 4 / 3)))
    left, top = (width - crop_width) // 2, (height - crop_height) // 2
    return left, top, left + crop_width, top + crop_height


def training_view(image: Image.Image, words: NDArray[np.uint64], size: int) -> NDArray[np.uint8]:
    """Return a random crop, scaled to ``size`` and mirrored in half of all cases, uint8 (size, size, 3).

    ``words`` (uint64, `N_CROP_WORDS`) decide; scaling is bilinear with antialiasing.
    """
    box = random_crop(image.width, image.height, words)
    view = np.asarray(image.resize((size, size), Image.Resampling.BILINEAR, box=box))
    return view[:, ::-1] if words[-1] >> np.uint64(63) else view


def evaluation_view(image: Image.Image, size: int) -> NDArray[np.uint8]:
    """Return the centre, uint8 (size, size, 3), of the image with its short side scaled to 8/7 of ``size``.

    For a size of 224 that is the usual 256. The long side is rounded down, the place of the crop to the nearest.
    """
    short = round(size * 8 / 7)
    scale = short / min(image.width, image.height)
    width, height = max(short, int(image.width * scale)), max(short, int(image.height * scale))
    left, top = round((width - size) / 2), round((height - size) / 2)
    scaled = image.resize((width, height), Image.Resampling.BILINEAR)
    return np.asarray(scaled.crop((left, top, left + size, top + size)))


def _one_line(error: Exception) -> str:
    reason = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
    return " ".join(reason.split()) or type(error).__name__
