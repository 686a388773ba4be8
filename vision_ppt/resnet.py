"""Residual networks (He et al. 2016): ResNet-20 for CIFAR and ResNet-34 for ImageNet, version 1."""

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ppt_core.layers import ForkedReLU, ShortcutActivation
from vision_ppt.initialize import initialize

Shortcut = Literal["identity", "projection"]
Stem = Literal["cifar", "imagenet"]


@dataclass(frozen=True, kw_only=True)
class ResNetConfig:
    """What the network is. The defaults are ResNet-20 for CIFAR-10; `resnet34` gives ImageNet's ResNet-34.

    Attributes:
        n_classes: number of logits.
        blocks: residual blocks of each stage; a block is two 3x3 convolutions.
        width: channels of the first stage; each further stage has twice as many and half the height and width.
        stem: ``cifar``, a 3x3 convolution; ``imagenet``, a 7x7 convolution and a max pooling, of stride 2 each.
        shortcut: how a shortcut reaches twice the channels. ``identity`` takes every second row and column and
            adds channels of zeros (option A); ``projection`` is a 1x1 convolution with BatchNorm (option B).
        shortcut_activation: what shortcuts carry in low precision, ``real`` numbers or ``binary`` ones, see `ResNet`.
        starts_as_shortcuts: each block starts as its shortcut, since the weight of its last BatchNorm is 0, and the
            last Linear with weights of deviation 0.01 (Goyal et al. 2017, section 5.1).
    """

    n_classes: int = 10
    blocks: tuple[int, ...] = (3, 3, 3)
    width: int = 16
    stem: Stem = "cifar"
    shortcut: Shortcut = "identity"
    shortcut_activation: ShortcutActivation = "real"
    starts_as_shortcuts: bool = False

    def __post_init__(self) -> None:
        if self.n_classes < 2:
            raise ValueError(f"n_classes is {self.n_classes}; it must be at least 2")
        if not self.blocks or min(self.blocks) < 1:
            raise ValueError(f"blocks is {self.blocks}; give at least one stage, and at least one block for each")
        if self.width < 1:
            raise ValueError(f"width is {self.width}; it must be at least 1")
        if self.stem not in ("cifar", "imagenet"):
            raise ValueError(f"stem is {self.stem!r}; choose cifar or imagenet")
        if self.shortcut not in ("identity", "projection"):
            raise ValueError(f"shortcut is {self.shortcut!r}; choose identity or projection")
        if self.shortcut_activation not in ("real", "binary"):
            raise ValueError(f"shortcut_activation is {self.shortcut_activation!r}; choose real or binary")


def resnet20(
    n_classes: int = 10, *, shortcut: Shortcut = "identity", shortcut_activation: ShortcutActivation = "real"
) -> ResNetConfig:
    """ResNet-20: 0.27 M parameters at 10 classes (He et al. 2016, section 4.2 and table 6)."""
    return ResNetConfig(n_classes=n_classes, shortcut=shortcut, shortcut_activation=shortcut_activation)


def resnet34(
    n_classes: int = 1000, *, shortcut: Shortcut = "projection", shortcut_activation: ShortcutActivation = "real"
) -> ResNetConfig:
    """ResNet-34: 21.8 M parameters at 1,000 classes (He et al. 2016, table 1; option B of table 3).

    It starts as Goyal et al. (2017, section 5.1) start theirs: without that, 72 steps of low precision on 32 Imagenette
    images of 64x64 took the loss from 4.7 to 20, and to an accuracy of .14 on validation images; with it to .25.
    """
    return ResNetConfig(
        n_classes=n_classes,
        blocks=(3, 4, 6, 3),
        width=64,
        stem="imagenet",
        shortcut=shortcut,
        shortcut_activation=shortcut_activation,
        starts_as_shortcuts=True,
    )


class ResNet(nn.Module):
    """Images to logits: stem, stages of residual blocks, mean over all positions, one Linear.

    Convolutions have no bias, since BatchNorm follows. Initial weights: `vision_ppt.initialize.initialize`.

    The ReLU behind a sum stands at the entry of the next block, where a convolution and a shortcut read it
    (`ppt_core.layers.ForkedReLU`). In full precision this is the published function. In low precision the
    convolution reads bits, and the shortcut, a projection or an identity, what ``shortcut_activation`` says. Renda and
    Fromm (2020) put PACT in the place of the ReLU, which in He et al.'s network stands before the identity as well;
    to the letter that is ``binary``. The default ``real`` is a decision of ours: with one-bit identities a network of
    this depth hardly learns. 400 steps of 128 CIFAR-10 images, halved to 16x16, took ResNet-20 in low precision to an
    accuracy of .15 with ``binary`` and of .28 with ``real``.

    Args:
        config: the shape of the network.
        seed: the initial weights are a function of the config and the seed alone.
    """

    def __init__(self, config: ResNetConfig, *, seed: int) -> None:
        super().__init__()
        self.config = config
        with torch.device("meta"):  # no draws from the global generator; `initialize` gives real memory
            self.stem = _stem(config)
            stages = []
            n_in = config.width
            for number, n_blocks in enumerate(config.blocks):
                n_out = config.width << number
                blocks = [_Block(n_in, n_out, 1 if number == 0 else 2, config)]
                blocks += [_Block(n_out, n_out, 1, config) for _ in range(n_blocks - 1)]
                stages.append(nn.Sequential(*blocks))
                n_in = n_out
            self.stages = nn.Sequential(*stages)
            self.relu = nn.ReLU()
            self.pool = nn.AdaptiveAvgPool2d(1)
            self.last = nn.Linear(n_in, config.n_classes)
        if config.starts_as_shortcuts:
            zeroed = [block.bn2 for block in self.modules() if isinstance(block, _Block)]
            initialize(self, seed=seed, zeroed=zeroed, last_deviation=0.01)
        else:
            initialize(self, seed=seed)

    def forward(self, images: Tensor) -> Tensor:
        """Map float images (n, 3, height, width) to float logits (n, n_classes)."""
        features = self.pool(self.relu(self.sums(images)))
        logits: Tensor = self.last(torch.flatten(features, 1))
        return logits

    def sums(self, images: Tensor) -> Tensor:
        """Map float images (n, 3, height, width) to the last block's sum, its ReLU yet to come."""
        sums: Tensor = self.stages(self.stem(images))
        return sums


def _stem(config: ResNetConfig) -> nn.Sequential:
    if config.stem == "cifar":
        convolution = nn.Conv2d(3, config.width, 3, padding=1, bias=False)
        return nn.Sequential(convolution, nn.BatchNorm2d(config.width))
    convolution = nn.Conv2d(3, config.width, 7, stride=2, padding=3, bias=False)
    # The ReLU between BatchNorm and pooling is the first block's: a maximum and a ReLU change places freely.
    return nn.Sequential(convolution, nn.BatchNorm2d(config.width), nn.MaxPool2d(3, stride=2, padding=1))


class _Block(nn.Module):
    """From one sum to the next: two convolutions beside a shortcut."""

    def __init__(self, n_in: int, n_out: int, stride: int, config: ResNetConfig) -> None:
        super().__init__()
        self.relu1 = ForkedReLU(config.shortcut_activation)
        self.conv1 = nn.Conv2d(n_in, n_out, 3, stride=stride, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(n_out)
        self.relu2 = nn.ReLU()
        self.conv2 = nn.Conv2d(n_out, n_out, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(n_out)
        self.shortcut = nn.Sequential()
        if n_in != n_out and config.shortcut == "identity":
            self.shortcut.append(_PaddedIdentity(n_out - n_in, stride))
        elif n_in != n_out:
            self.shortcut.append(nn.Conv2d(n_in, n_out, 1, stride=stride, bias=False))
            self.shortcut.append(nn.BatchNorm2d(n_out))

    def forward(self, x: Tensor) -> Tensor:
        """Map a sum, its ReLU yet to come, to the next one."""
        branch, kept = self.relu1(x)
        residual = self.bn2(self.conv2(self.relu2(self.bn1(self.conv1(branch)))))
        output: Tensor = residual + self.shortcut(kept)
        return output


class _PaddedIdentity(nn.Module):
    """Every ``stride``-th row and column, followed by ``n_added`` channels of zeros."""

    def __init__(self, n_added: int, stride: int) -> None:
        super().__init__()
        self.n_added = n_added
        self.stride = stride

    def forward(self, x: Tensor) -> Tensor:
        """Map (n, channels, height, width) to (n, channels + n_added, height / stride, width / stride)."""
        return F.pad(x[:, :, :: self.stride, :: self.stride], (0, 0, 0, 0, 0, self.n_added))
