"""Small synthetic images of ten shapes and textures: the built-in sample, for trying things without data."""

from collections.abc import Callable
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from data_prep.images.image_arrays import ImageArray, PreparedImages
from data_prep.images.normalization import Images, Normalization
from ppt_core.errors import DataError
from ppt_core.random_words import check_seed

# The built-in sample: an epoch takes about ten seconds on two cores.
SAMPLE_TRAIN = 4_000
SAMPLE_TEST = 1_000

_SIZE = 32
_NOISE = 25.0  # standard deviation, of 255

Coordinates = NDArray[np.float32]

# Whether a point belongs to the shape, in coordinates in which it reaches from about -1 to 1. Each class is its own
# mirror image and survives small shifts, as augmentation supposes.
_SHAPES: dict[str, Callable[[Coordinates, Coordinates], NDArray[np.bool_]]] = {
    "disc": lambda x, y: x**2 + y**2 < 0.8,
    "ring": lambda x, y: (x**2 + y**2 > 0.4) & (x**2 + y**2 < 1),
    "square": lambda x, y: np.maximum(abs(x), abs(y)) < 0.8,
    "frame": lambda x, y: (np.maximum(abs(x), abs(y)) > 0.5) & (np.maximum(abs(x), abs(y)) < 0.85),
    "triangle": lambda x, y: (y < 0.7) & (y > 1.8 * abs(x) - 1),
    "plus": lambda x, y: (np.minimum(abs(x), abs(y)) < 0.25) & (np.maximum(abs(x), abs(y)) < 1),
    "cross": lambda x, y: (np.minimum(abs(x - y), abs(x + y)) < 0.35) & (np.maximum(abs(x), abs(y)) < 0.8),
    "rows": lambda x, y: np.sin(6 * y) > 0,
    "columns": lambda x, y: np.sin(6 * x) > 0,
    "checks": lambda x, y: np.sin(6 * x) * np.sin(6 * y) > 0,
}


def synthesize_images(n_train: int = SAMPLE_TRAIN, n_test: int = SAMPLE_TEST, *, seed: int = 0) -> PreparedImages:
    """Draw images of 32x32 that show one of ten shapes each, in colours that say nothing about the class.

    Place, size, rotation (up to 0.3 either way) and the two colours are random, and every pixel is noisy. Classes
    are as equal in number as they can be, in random order.

    Args:
        n_train: number of training images, at least 10.
        n_test: number of test images, at least 10.
        seed: 0 .. 2**63 - 1; the images are a function of the arguments alone.

    Raises:
        DataError: a number is too small.
        ValueError: the seed is out of its range.
    """
    check_seed(seed)
    for what, n in (("training", n_train), ("test", n_test)):
        if n < len(_SHAPES):
            raise DataError(f"{n} {what} images cannot show {len(_SHAPES)} classes; ask for at least {len(_SHAPES)}")
    train_seed, test_seed = np.random.SeedSequence([seed, int.from_bytes(b"images", "little")]).spawn(2)
    train = _draw(n_train, np.random.default_rng(train_seed))
    return PreparedImages(
        train=train,
        test=_draw(n_test, np.random.default_rng(test_seed)),
        class_names=tuple(_SHAPES),
        normalization=Normalization.of(train.images),
        manifest={"source": {"name": "synthetic images", "n_train": n_train, "n_test": n_test, "seed": seed}},
    )


def sample_images() -> PreparedImages:
    """The built-in sample: what `synthesize_images` draws by default."""
    return replace(synthesize_images(), is_sample=True)


def _draw(n: int, rng: np.random.Generator) -> ImageArray:
    labels = rng.permutation(np.arange(n) % len(_SHAPES))
    images = np.empty((n, _SIZE, _SIZE, 3), np.uint8)
    for label, is_inside in enumerate(_SHAPES.values()):
        rows = np.flatnonzero(labels == label)
        images[rows] = _render(is_inside, len(rows), rng)
    return ImageArray(images=images, labels=labels)


def _render(
    is_inside: Callable[[Coordinates, Coordinates], NDArray[np.bool_]], n: int, rng: np.random.Generator
) -> Images:
    def uniform(low: float, high: float, *shape: int) -> Coordinates:
        return rng.uniform(low, high, (n, *shape)).astype(np.float32)

    pixels = np.arange(_SIZE, dtype=np.float32) - (_SIZE - 1) / 2
    radius, angle = uniform(7, 13, 1, 1), uniform(-0.3, 0.3, 1, 1)
    x = (pixels - uniform(-4, 4, 1, 1)) / radius
    y = (pixels[:, None] - uniform(-4, 4, 1, 1)) / radius
    inside = is_inside(x * np.cos(angle) + y * np.sin(angle), y * np.cos(angle) - x * np.sin(angle))
    background, contrast = uniform(100, 156, 1, 1, 3), rng.choice([-1, 1], (n, 1, 1, 3)) * uniform(60, 100, 1, 1, 3)
    values = background + contrast * inside[..., None] + _NOISE * rng.standard_normal((n, _SIZE, _SIZE, 3), np.float32)
    return np.clip(np.round(values), 0, 255).astype(np.uint8)
