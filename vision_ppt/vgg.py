"""VGG-16 for CIFAR (Simonyan and Zisserman 2015, configuration D) with BatchNorm."""

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from vision_ppt.initialize import initialize


@dataclass(frozen=True, kw_only=True)
class VGGConfig:
    """What the network is. The defaults are VGG-16 for CIFAR-10: 14.7 M parameters.

    Attributes:
        n_classes: number of logits.
        groups: channels of the convolutions of each group; a group ends with a max pooling of stride 2.
    """

    n_classes: int = 10
    groups: tuple[tuple[int, ...], ...] = ((64, 64), (128, 128), (256,) * 3, (512,) * 3, (512,) * 3)

    def __post_init__(self) -> None:
        if self.n_classes < 2:
            raise ValueError(f"n_classes is {self.n_classes}; it must be at least 2")
        if not self.groups or any(not group or min(group) < 1 for group in self.groups):
            raise ValueError(f"groups is {self.groups}; give at least one group, and channels for each convolution")


class VGG(nn.Module):
    """Images to logits: 3x3 convolutions, each with BatchNorm and ReLU, in groups, then one Linear.

    For CIFAR one Linear takes the place of ImageNet's three: at 32x32 the last group ends at 1x1, so the three
    would hold little and the convolutions do the work (Liu and Deng 2015). Larger images are averaged over their
    positions. Convolutions have no bias, since BatchNorm follows.

    Args:
        config: the shape of the network.
        seed: the initial weights are a function of the config and the seed alone.
    """

    def __init__(self, config: VGGConfig, *, seed: int) -> None:
        super().__init__()
        self.config = config
        with torch.device("meta"):  # no draws from the global generator; `initialize` gives real memory
            groups = []
            n_in = 3
            for channels in config.groups:
                group: list[nn.Module] = []
                for n_out in channels:
                    group += [nn.Conv2d(n_in, n_out, 3, padding=1, bias=False), nn.BatchNorm2d(n_out), nn.ReLU()]
                    n_in = n_out
                groups.append(nn.Sequential(*group, nn.MaxPool2d(2)))
            self.groups = nn.Sequential(*groups)
            self.pool = nn.AdaptiveAvgPool2d(1)
            self.last = nn.Linear(n_in, config.n_classes)
        initialize(self, seed=seed)

    def forward(self, images: Tensor) -> Tensor:
        """Map float images (n, 3, height, width), 32x32 or larger, to float logits (n, n_classes)."""
        logits: Tensor = self.last(torch.flatten(self.pool(self.groups(images)), 1))
        return logits
