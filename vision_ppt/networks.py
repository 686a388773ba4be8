"""The networks by name."""

from dataclasses import dataclass
from typing import Literal, get_args

from vision_ppt.resnet import ResNet, Shortcut, resnet20, resnet34
from vision_ppt.vgg import VGG, VGGConfig

NetworkName = Literal["resnet20", "vgg16", "resnet34"]


@dataclass(frozen=True, kw_only=True)
class NetworkConfig:
    """A network as the command line names it: enough to build it again.

    Attributes:
        network: ``resnet20`` and ``vgg16`` are made for images of 32x32, ``resnet34`` for 224x224; each takes
            other sizes too.
        n_classes: number of logits.
        shortcut: of a ResNet, see `vision_ppt.resnet.ResNetConfig`. None is the usual one: ``identity`` for
            resnet20, ``projection`` for resnet34.
    """

    network: NetworkName = "resnet20"
    n_classes: int = 10
    shortcut: Shortcut | None = None

    def __post_init__(self) -> None:
        if self.network not in get_args(NetworkName):
            raise ValueError(f"network is {self.network!r}; choose {', '.join(get_args(NetworkName))}")
        if self.n_classes < 2:
            raise ValueError(f"n_classes is {self.n_classes}; it must be at least 2")
        if self.shortcut is not None and self.network == "vgg16":
            raise ValueError(f"shortcut is {self.shortcut!r}, and vgg16 has no shortcuts; leave it out")
        if self.shortcut not in (None, *get_args(Shortcut)):
            raise ValueError(f"shortcut is {self.shortcut!r}; choose {' or '.join(get_args(Shortcut))}")


def build_network(config: NetworkConfig, *, seed: int) -> ResNet | VGG:
    """Build a network with its initial weights, a function of the config and the seed alone."""
    if config.network == "vgg16":
        return VGG(VGGConfig(n_classes=config.n_classes), seed=seed)
    if config.network == "resnet20":
        return ResNet(resnet20(config.n_classes, shortcut=config.shortcut or "identity"), seed=seed)
    return ResNet(resnet34(config.n_classes, shortcut=config.shortcut or "projection"), seed=seed)
