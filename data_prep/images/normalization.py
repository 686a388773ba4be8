"""The way of 8-bit images into a network: each channel's mean and deviation."""

import math
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from torch import Tensor, device

Images = NDArray[np.uint8]
"""uint8 (n, height, width, 3): pixel by pixel, as files hold them. Rows of pixels are copied as they are."""


@dataclass(frozen=True, kw_only=True)
class Normalization:
    """Subtracts a mean and divides by a deviation, both of each channel on the scale 0 .. 1.

    Attributes:
        mean: of red, green and blue.
        deviation: of red, green and blue, above 0.
    """

    mean: tuple[float, float, float]
    deviation: tuple[float, float, float]

    def __post_init__(self) -> None:
        numbers = (*self.mean, *self.deviation)
        are_numbers = all(isinstance(each, (int, float)) and math.isfinite(each) for each in numbers)
        if not are_numbers or len(self.mean) != 3 or len(self.deviation) != 3 or min(self.deviation) <= 0:
            raise ValueError(f"{self} needs three means and three deviations above 0")

    @classmethod
    def of(cls, images: Images) -> "Normalization":
        """Mean and standard deviation of the channels of ``images``, from exact counts.

        A channel of one value only has deviation 1.
        """
        # In blocks, so that memory-mapped images stay on disk; integers add up the same in any order.
        counts = np.zeros((3, 256), np.int64)
        for first in range(0, len(images), 1000):
            block = images[first : first + 1000]
            counts += [np.bincount(block[..., channel].reshape(-1), minlength=256) for channel in range(3)]
        red, green, blue = (_moments(channel_counts.tolist()) for channel_counts in counts)
        return cls(mean=(red[0], green[0], blue[0]), deviation=(red[1] or 1.0, green[1] or 1.0, blue[1] or 1.0))

    @property
    def color(self) -> tuple[int, int, int]:
        """The mean as the nearest 8-bit colour."""
        red, green, blue = (round(255 * value) for value in self.mean)
        return red, green, blue

    def __call__(self, images: "Tensor", *, channels_last: bool = True) -> "Tensor":
        """Map uint8 (n, height, width, 3) to float32 (n, 3, height, width), on the device of ``images``.

        Channels last is the order that ``images`` has in memory; otherwise the result is copied into the usual one.
        """
        n, height, width, _ = images.shape
        scale, shift = _rows(self, width, images.device)
        rows = shift.addcmul(images.reshape(n * height, 3 * width), scale)
        result = rows.view(n, height, width, 3).permute(0, 3, 1, 2)
        return result if channels_last else result.contiguous()


@lru_cache(maxsize=16)
def _rows(normalization: Normalization, width: int, device: "device") -> "tuple[Tensor, Tensor]":
    """Factor and summand of the values of a row of pixels, float32 (3 * width,).

    With three columns each step would be 8 times as slow. They are kept, since to copy them anew would stop a GPU.
    """
    import torch

    with torch.inference_mode(False):  # or what an evaluation makes could not be used in training
        mean, deviation = (
            torch.tensor(values, dtype=torch.float64) for values in (normalization.mean, normalization.deviation)
        )
        scale, shift = (1 / (255 * deviation)).float().repeat(width), (-mean / deviation).float().repeat(width)
        return scale.to(device), shift.to(device)


# Of ImageNet's training images, as is usual for its networks.
IMAGENET_NORMALIZATION = Normalization(mean=(0.485, 0.456, 0.406), deviation=(0.229, 0.224, 0.225))


def _moments(counts: list[int]) -> tuple[float, float]:
    """Mean and deviation, on the scale 0 .. 1, of a channel with ``counts[value]`` values of each kind."""
    n = sum(counts)
    total = sum(value * count for value, count in enumerate(counts))
    squares = sum(value**2 * count for value, count in enumerate(counts))
    # Python's integers have no limit: n * squares does not fit 64 bits for CIFAR-10.
    return total / (255 * n), math.sqrt(n * squares - total**2) / (255 * n)
