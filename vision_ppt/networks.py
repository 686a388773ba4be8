"""The networks by name."""

from dataclasses import asdict, dataclass
from typing import Any, Literal, get_args

from ppt_core.layers import ShortcutActivation
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
        shortcut_activation: of a ResNet, likewise.
    """

    network: NetworkName = "resnet20"
    n_classes: int = 10
    shortcut: Shortcut | None = None
    shortcut_activation: ShortcutActivation = "real"

    def __post_init__(self) -> None:
        if self.network not in get_args(NetworkName):
            raise ValueError(f"network is {self.network!r}; choose {', '.join(get_args(NetworkName))}")
        if self.n_classes < 2:
            raise ValueError(f"n_classes is {self.n_classes}; it must be at least 2")
        if self.shortcut is not None and self.network == "vgg16":
            raise ValueError(f"shortcut is {self.shortcut!r}, and vgg16 has no shortcuts; leave it out")
        if self.shortcut not in (None, *get_args(Shortcut)):
            raise ValueError(f"shortcut is {self.shortcut!r}; choose {' or '.join(get_args(Shortcut))}")
        if self.shortcut_activation not in get_args(ShortcutActivation):
            raise ValueError(f"shortcut_activation is {self.shortcut_activation!r}; choose real or binary")
        if self.shortcut_activation != "real" and self.network == "vgg16":
            raise ValueError(
                f"shortcut_activation is {self.shortcut_activation!r}, and vgg16 has no shortcuts; leave it out"
            )

    def to_dict(self) -> dict[str, Any]:
        """The attributes as JSON values; ``shortcut_activation`` only if chosen, since older runs have no such key."""
        values = asdict(self)
        if self.shortcut_activation == "real":
            del values["shortcut_activation"]
        return values


def build_network(config: NetworkConfig, *, seed: int) -> ResNet | VGG:
    """Build a network with its initial weights, a function of the config and the seed alone."""
    if config.network == "vgg16":
        return VGG(VGGConfig(n_classes=config.n_classes), seed=seed)
    shape = resnet20 if config.network == "resnet20" else resnet34
    chosen: dict[str, Any] = {} if config.shortcut is None else {"shortcut": config.shortcut}
    return ResNet(shape(config.n_classes, shortcut_activation=config.shortcut_activation, **chosen), seed=seed)
