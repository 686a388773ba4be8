"""Which images training sees, and how they are changed: pure functions of a seed.

Sample n of epoch e, and what happens to it, is a function of (seed, e, n) alone. Batch sizes, workers,
interruptions and the number of processes cannot change it.
"""

from dataclasses import dataclass
from functools import lru_cache
from typing import NamedTuple, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from data_prep.images.decoding import N_CROP_WORDS, evaluation_view, read_image, training_view
from data_prep.images.image_arrays import ImageArray, PreparedImages
from data_prep.images.image_files import ImageFiles, PreparedFolders
from ppt_core.random_words import below, check_seed, random_words
from vision_ppt.augment import pad_crop_flip

PADDING = 4


class ImageBatch(NamedTuple):
    """Images uint8 (n, height, width, 3), to be normalized where the network is, and their int64 labels (n,)."""

    images: Tensor
    labels: Tensor


class ImageSampler(Protocol):
    """What batches are drawn from."""

    @property
    def samples_per_epoch(self) -> int:
        """Number of images."""

    def draw(self, epoch: int, start: int, stop: int) -> ImageBatch:
        """Return samples ``start .. stop - 1`` of an epoch (from 0)."""


@lru_cache(maxsize=2)
def epoch_order(n_samples: int, *, seed: int, epoch: int) -> NDArray[np.int64]:
    """Return a uniform random order of 0 .. n_samples - 1, a function of the arguments, read-only int64."""
    words = random_words(seed, "order", epoch, np.arange(n_samples))
    order = np.argsort(words, kind="stable")
    order.setflags(write=False)
    return order


@dataclass(frozen=True, kw_only=True)
class ArraySampler:
    """Samples of an `ImageArray`.

    Training shuffles each epoch anew, pads by four pixels, crops back and mirrors half of the images
    (`vision_ppt.augment.pad_crop_flip`). Evaluation takes the images as they are and in their order.

    Attributes:
        source: the images.
        training: whether to shuffle and to change them.
        color: of the padding.
        seed: 0 .. 2**63 - 1.
    """

    source: ImageArray
    training: bool
    color: tuple[int, int, int] = (0, 0, 0)
    seed: int = 0

    def __post_init__(self) -> None:
        check_seed(self.seed)

    @property
    def samples_per_epoch(self) -> int:
        """Each image once."""
        return len(self.source)

    def draw(self, epoch: int, start: int, stop: int) -> ImageBatch:
        """Return samples ``start .. stop - 1`` of an epoch. Raises ValueError for a range outside of it."""
        indices = _indices(self, epoch, start, stop)
        images = self.source.images[indices]
        if self.training:
            words = random_words(self.seed, "crop", epoch, indices[:, None] * 3 + np.arange(3))
            images = pad_crop_flip(
                images,
                below(words[:, 0], 2 * PADDING + 1),
                below(words[:, 1], 2 * PADDING + 1),
                below(words[:, 2], 2) == 1,
                padding=PADDING,
                color=self.color,
            )
        return ImageBatch(torch.from_numpy(images), torch.from_numpy(self.source.labels[indices]))


@dataclass(frozen=True, kw_only=True)
class FileSampler:
    """Samples of `ImageFiles`, decoded when drawn.

    Training shuffles each epoch anew and takes a `data_prep.images.decoding.training_view` of each image; evaluation an
    `evaluation_view` of each in their order.

    Attributes:
        source: the files.
        training: whether to shuffle and to change the images.
        image_size: height and width of what is drawn.
        seed: 0 .. 2**63 - 1.
    """

    source: ImageFiles
    training: bool
    image_size: int = 224
    seed: int = 0

    def __post_init__(self) -> None:
        check_seed(self.seed)
        if self.image_size < 1:
            raise ValueError(f"image_size is {self.image_size}; it must be at least 1")

    @property
    def samples_per_epoch(self) -> int:
        """Each image once."""
        return len(self.source)

    def draw(self, epoch: int, start: int, stop: int) -> ImageBatch:
        """Return samples ``start .. stop - 1`` of an epoch.

        Raises ValueError for a range outside of it, and `DataError` for a file that cannot be read.
        """
        indices = _indices(self, epoch, start, stop)
        words = random_words(self.seed, "crop", epoch, indices[:, None] * N_CROP_WORDS + np.arange(N_CROP_WORDS))
        images = np.empty((len(indices), self.image_size, self.image_size, 3), np.uint8)
        for row, index in enumerate(indices.tolist()):
            image = read_image(self.source.path(index))
            if self.training:
                images[row] = training_view(image, words[row], self.image_size)
            else:
                images[row] = evaluation_view(image, self.image_size)
        return ImageBatch(torch.from_numpy(images), torch.from_numpy(self.source.labels[indices]))


def training_sampler(data: PreparedImages | PreparedFolders, *, seed: int, image_size: int = 224) -> ImageSampler:
    """Make the sampler of the training images; ``image_size`` is for image files, arrays have their own."""
    if isinstance(data, PreparedImages):
        return ArraySampler(source=data.train, training=True, color=data.normalization.color, seed=seed)
    return FileSampler(source=data.train, training=True, image_size=image_size, seed=seed)


def evaluation_sampler(images: ImageArray | ImageFiles, *, image_size: int = 224) -> ImageSampler:
    """Make the sampler of ``images`` as they are; ``image_size`` is for image files, arrays have their own."""
    if isinstance(images, ImageArray):
        return ArraySampler(source=images, training=False)
    return FileSampler(source=images, training=False, image_size=image_size)


def _indices(sampler: ArraySampler | FileSampler, epoch: int, start: int, stop: int) -> NDArray[np.int64]:
    n_samples = sampler.samples_per_epoch
    if not 0 <= start <= stop <= n_samples:
        raise ValueError(f"samples {start}..{stop} are outside 0..{n_samples}")
    if epoch < 0:
        raise ValueError(f"epoch is {epoch}; epochs count from 0")
    if sampler.training:
        return epoch_order(n_samples, seed=sampler.seed, epoch=epoch)[start:stop]
    return np.arange(start, stop)
