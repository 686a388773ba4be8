from typing import Any

import pytest
import torch

from vision_ppt.networks import NetworkConfig, build_network
from vision_ppt.resnet import ResNet, resnet20, resnet34
from vision_ppt.vgg import VGG


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({}, resnet20()),
        ({"network": "resnet20", "n_classes": 7, "shortcut": "projection"}, resnet20(7, shortcut="projection")),
        ({"network": "resnet34", "n_classes": 7}, resnet34(7)),
        ({"network": "resnet34", "shortcut": "identity"}, resnet34(10, shortcut="identity")),
        ({"shortcut_activation": "binary"}, resnet20(shortcut_activation="binary")),
    ],
)
def test_resnets_by_name(options: dict[str, Any], expected: Any) -> None:
    config = NetworkConfig(**options)
    assert NetworkConfig(**config.to_dict()) == config
    assert ("shortcut_activation" in config.to_dict()) == ("shortcut_activation" in options)
    model = build_network(config, seed=5)
    assert isinstance(model, ResNet)
    assert model.config == expected
    assert torch.equal(model.stem[0].weight, ResNet(expected, seed=5).stem[0].weight)  # type: ignore[arg-type]


def test_vgg_by_name() -> None:
    model = build_network(NetworkConfig(network="vgg16", n_classes=7), seed=0)
    assert isinstance(model, VGG)
    assert model.last.out_features == 7


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"network": "resnet18"}, "network is 'resnet18'; choose resnet20, vgg16, resnet34"),
        ({"n_classes": 0}, "n_classes is 0; it must be at least 2"),
        ({"shortcut": "conv"}, "shortcut is 'conv'; choose identity or projection"),
        ({"network": "vgg16", "shortcut": "identity"}, "shortcut is 'identity', and vgg16 has no shortcuts"),
        ({"shortcut_activation": "bits"}, "shortcut_activation is 'bits'; choose real or binary"),
        ({"network": "vgg16", "shortcut_activation": "binary"}, "is 'binary', and vgg16 has no shortcuts"),
    ],
)
def test_refuses_what_it_does_not_know(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        NetworkConfig(**options)
