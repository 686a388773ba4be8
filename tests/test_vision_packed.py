"""Whole packed image networks: equal to the simulated ones, stored, refused where damaged, evaluated."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from torch import nn

from cli import vision
from data_prep.images.image_arrays import ImageArray, PreparedImages
from data_prep.images.normalization import Normalization
from ppt_core.errors import DataError
from ppt_core.layers import BinaryActivation, set_precision
from ppt_core.packed.conv import PackedConv2d
from ppt_core.plan import convert
from ppt_core.runs.checkpoint import load_tensors, save_tensors
from vision_ppt.networks import NetworkConfig, build_network
from vision_ppt.packed.file import PackedImageNetwork, load_packed, save_packed
from vision_ppt.packed.packing import chains, pack
from vision_ppt.packed.resnet import ORDERS, compile_blocks, compile_stem, find_line, lay_out_stem, module_by_module
from vision_ppt.packed.verification import verify
from vision_ppt.resnet import ResNet, ResNetConfig
from vision_ppt.vgg import VGG, VGGConfig


def low(network: Any) -> Any:
    torch.manual_seed(0)
    convert(network)
    set_precision(network, "low")
    with torch.no_grad():
        for module in network.modules():
            if isinstance(module, BinaryActivation):
                module.alpha.fill_(0.5 + torch.rand(()))
        for _ in range(3):
            network.train()(torch.randn(8, 3, 32, 32))
    return network.eval()


NETWORKS: dict[str, Any] = {
    "identity": lambda: ResNet(ResNetConfig(width=8, blocks=(1, 2)), seed=0),
    "projection": lambda: ResNet(ResNetConfig(width=8, blocks=(1, 1), shortcut="projection", stem="imagenet"), seed=0),
    "1-bit shortcuts": lambda: ResNet(
        ResNetConfig(width=8, blocks=(1, 2), shortcut="projection", shortcut_activation="binary"), seed=0
    ),
    "1-bit identities": lambda: ResNet(ResNetConfig(width=24, blocks=(1, 1, 1), shortcut_activation="binary"), seed=0),
    "vgg": lambda: VGG(VGGConfig(groups=((8, 12), (70,), (9, 10))), seed=0),
}


@pytest.mark.parametrize("name", NETWORKS)
def test_everything_equals_the_simulated_network(name: str) -> None:
    network = low(NETWORKS[name]())
    packed = pack(network)
    images = torch.randn(5, 3, 32, 32)
    report = verify(packed, network, images)
    assert report.compared_bits > 1000
    assert report.compared_sums > 100
    assert report.compared_logits == 50
    assert report.boundary_bits > 1000
    with torch.inference_mode():
        assert torch.equal(packed(images), network(images))
        assert packed(images).std() > 0.01
        channels_last = images.contiguous(memory_format=torch.channels_last)
        assert torch.equal(packed(channels_last), network(channels_last))


def blocks_of(packed: Any) -> list[Any]:
    return [block for stage in packed.stages for block in stage]


@pytest.mark.parametrize("shortcut_activation", ["real", "binary"])
@pytest.mark.parametrize(("width", "blocks", "size"), [(16, (1, 1, 2), 32), (24, (2, 1), 9), (64, (1,), 5)])
@pytest.mark.parametrize("channels_last", [False, True])
def test_blocks_in_one_call_equal_their_modules(
    shortcut_activation: Any, width: int, blocks: tuple[int, ...], size: int, channels_last: bool
) -> None:
    shape = ResNetConfig(width=width, blocks=blocks, shortcut_activation=shortcut_activation)
    network = low(ResNet(shape, seed=0))
    with torch.no_grad():
        for module in network.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.weight.mul_(torch.randn_like(module.weight))
                module.weight[0], module.bias[0] = 0, -0.0
    packed: Any = pack(network)
    with torch.inference_mode():
        for n in (1, 3):
            images = torch.randn(n, 3, size, size)
            if channels_last:
                images = images.contiguous(memory_format=torch.channels_last)
            found = packed.sums(images)
            assert packed._blocks is not None  # or the next lines compare modules with themselves
            expected = network.sums(images)
            assert torch.equal(found, expected)
            assert found.stride() == expected.stride()
            assert torch.equal(packed._blocks(network.stem(images)), expected)  # where its stem has another order
            assert torch.equal(packed(images), network(images))
            with module_by_module(packed):
                assert torch.equal(packed.sums(images), expected)
        with pytest.raises(ValueError, match=f"the input has 2 channels; the network takes {width}"):
            packed._blocks(torch.randn(1, 2, 8, 8))


@pytest.mark.parametrize(("width", "size"), [(16, 32), (24, 9), (5, 6)])
@pytest.mark.parametrize("channels_last", [False, True])
def test_a_stem_adds_in_the_order_that_it_says(width: int, size: int, channels_last: bool) -> None:
    """With whole numbers every order gives the same sums, PyTorch's included."""
    network = low(ResNet(ResNetConfig(width=width, blocks=(1, 1)), seed=0))
    convolution, norm = network.stem
    images = torch.randint(-9, 10, (2, 3, size, size)).float()
    if channels_last:
        images = images.contiguous(memory_format=torch.channels_last)
    packed: Any = pack(network)
    with torch.inference_mode():
        convolution.weight.copy_(torch.randint(-9, 10, convolution.weight.shape))
        expected, line = network.sums(images), find_line(norm, convolution(images))
        assert line is not None
        packed.sums(images)
        for order in ORDERS:
            stem = lay_out_stem(convolution, order, line)
            assert torch.equal(packed._blocks(images, stem), expected)
            assert torch.equal(packed._blocks(images[:1], stem), network.sums(images[:1]))


@pytest.mark.parametrize("n", [1, 3])
def test_a_stem_of_one_product_each_is_found_everywhere(n: int) -> None:
    """Every order gives PyTorch's sums, so None would be a fault and no other processor."""
    network = low(NETWORKS["identity"]())
    with torch.inference_mode():
        network.stem[0].weight.zero_()[:, 1, 0, 2] = 0.5
        assert compile_stem(network.stem, torch.zeros(n, 3, 32, 32)) is not None


def test_a_stem_in_another_order_is_pytorchs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("vision_ppt.packed.resnet.ORDERS", ((2, 1, 0),))
    network = low(NETWORKS["identity"]())
    packed: Any = pack(network)
    images = torch.randn(3, 3, 32, 32)
    with torch.inference_mode():
        assert torch.equal(packed(images), network(images))
    assert list(packed._stems.values()) == [None]
    other = pack(low(NETWORKS["projection"]()))
    assert compile_stem(other.stem, images) is None  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def identity() -> tuple[Any, Any]:
    network = low(NETWORKS["1-bit identities"]())
    return network, pack(network)


LAYOUTS: dict[str, Any] = {
    "every other image": lambda x: torch.cat([x, x])[::2],
    "one image for all": lambda x: x[:1].expand(3, -1, -1, -1),
    "a crop": lambda x: x[:, :, 2:18, 2:18],
    "a crop, channels last": lambda x: x.contiguous(memory_format=torch.channels_last)[:, :, 2:18, 2:18],
    "of a picture": lambda x: x[:1].permute(0, 2, 3, 1).contiguous()[:, 2:18, 2:18].permute(0, 3, 1, 2),
    "none": lambda x: x[:0],
    "infinite": lambda x: torch.where(x > 2, torch.inf, x),
}


@pytest.mark.parametrize("layout", LAYOUTS)
def test_images_of_every_layout_and_value(identity: tuple[Any, Any], layout: str) -> None:
    network, packed = identity
    images = LAYOUTS[layout](torch.randn(3, 3, 32, 32, generator=torch.Generator().manual_seed(1)))
    with torch.inference_mode():
        for some in (images, images[:1]):
            assert torch.equal(packed(some).nan_to_num(7), network(some).nan_to_num(7))
            assert torch.equal(packed.sums(some).nan_to_num(7), network.sums(some).nan_to_num(7))


def test_other_images_are_refused_as_pytorch_does(identity: tuple[Any, Any]) -> None:
    for images in (torch.zeros(2, 3, 32, 32, dtype=torch.uint8), torch.zeros(2, 3, 32, 32).double(), torch.zeros(5)):
        messages = []
        for network in identity:
            with torch.inference_mode(), pytest.raises((RuntimeError, ValueError)) as error:
                network(images)
            messages.append(str(error.value))
        assert messages[0] == messages[1]


def test_buffers_that_change_are_read_again() -> None:
    networks = [low(ResNet(ResNetConfig(width=16, blocks=(1,)), seed=seed)) for seed in range(2)]
    first, second = (pack(network) for network in networks)
    images = torch.randn(2, 3, 32, 32)
    with torch.inference_mode():
        assert not torch.equal(first(images), second(images))
        first.load_state_dict(second.state_dict())
        assert torch.equal(first(images), networks[1](images))
        for network in (first, networks[1]):
            network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        for some in (images, images[:1]):
            assert torch.equal(first(some), networks[1](some))


def test_other_blocks_are_not_compiled() -> None:
    for name in ("projection", "1-bit shortcuts"):
        assert compile_blocks(blocks_of(pack(low(NETWORKS[name]())))) is None
    wide = pack(low(ResNet(ResNetConfig(width=65, blocks=(1,)), seed=0)))
    assert compile_blocks(blocks_of(wide)) is None


def test_verification_looks_at_the_one_call() -> None:
    network = low(NETWORKS["identity"]())
    packed: Any = pack(network)
    images = torch.randn(2, 3, 32, 32)
    packed(images)
    packed._blocks.levels[:] += 9
    with pytest.raises(DataError, match="behind layer last differ"):
        verify(packed, network, images)
    with module_by_module(packed):
        assert torch.equal(packed(images), network(images))


def test_verification_looks_at_one_image_alone() -> None:
    network = low(NETWORKS["identity"]())
    packed: Any = pack(network)
    images = torch.randn(2, 3, 32, 32)
    wrong = torch.ones(8), torch.zeros(8), True
    packed.sums(images[:1])
    packed._stems[True, images.shape[1:], False] = lay_out_stem(packed.stem[0], ORDERS[0], wrong)
    with pytest.raises(DataError, match="behind layer last differ"):
        verify(packed, network, images)


def test_verification_names_the_layer() -> None:
    network = low(NETWORKS["identity"]())
    for part, change in (("thresholds", 1), ("signs", 4)):
        packed = pack(network)
        layer = chains(packed)["stages.1.0.relu1.chain"][1]
        assert isinstance(layer, PackedConv2d)
        getattr(layer, part).bitwise_xor_(change)
        with pytest.raises(DataError, match=r"behind layer stages\.1\.0\.conv1 differ"):
            verify(packed, network, torch.randn(2, 3, 32, 32))


class Doubled(ResNet):
    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return 2 * super().forward(images)


def test_what_cannot_be_packed_is_refused() -> None:
    with pytest.raises(DataError, match="the forward pass of a Doubled is its own"):
        pack(low(Doubled(ResNetConfig(width=8, blocks=(1, 2)), seed=0)))
    with pytest.raises(DataError, match="the network holds no 1-bit layer"):
        pack(NETWORKS["vgg"]())
    network = low(NETWORKS["vgg"]())
    set_precision(network, "full")
    with pytest.raises(DataError, match=r"layer groups\.0\.2 is no 1-bit activation in low precision"):
        pack(network)
    network = low(NETWORKS["identity"]())
    nn.init.constant_(network.stages[0][0].relu1.alpha, -1)
    with pytest.raises(DataError, match=r"alpha of the input of layer stages\.0\.0\.conv1 is not above 0"):
        pack(network)


@pytest.mark.parametrize("shortcut_activation", ["real", "binary"])
def test_a_file_holds_everything(tmp_path: Path, shortcut_activation: Any) -> None:
    config = NetworkConfig(network="resnet20", n_classes=4, shortcut_activation=shortcut_activation)
    network = low(build_network(config, seed=0))
    artefact = PackedImageNetwork(
        network=pack(network), config=config, class_names=("a", "b", "ç", "d"), provenance={"seed": 1}
    )
    save_packed(artefact, tmp_path / "a")
    found = load_packed(tmp_path / "a")
    assert (found.config, found.class_names, found.provenance) == (config, ("a", "b", "ç", "d"), {"seed": 1})
    images = torch.randn(3, 3, 32, 32)
    with torch.inference_mode():
        assert torch.equal(found.network(images), network(images))
    assert (tmp_path / "a").stat().st_size < sum(4 * p.numel() for p in network.parameters()) / 15
    with pytest.raises(DataError, match="already exists"):
        save_packed(artefact, tmp_path / "a")

    tensors, metadata = load_tensors(tmp_path / "a")
    signs = next(name for name in tensors if name.endswith("signs"))
    for name, (changed, message) in {
        "version": ((tensors, metadata | {"packed_version": 2}), "of version 2 and this version of ppt-ncf reads 1"),
        "kind": ((tensors, {"kind": "other"}), "holds no packed image network"),
        "shape": ((tensors | {signs: tensors[signs][:1]}, metadata), "is a damaged packed network"),
        "missing": (({"last.bias": tensors["last.bias"]}, metadata), "is a damaged packed network"),
        "network": ((tensors, metadata | {"network": {"network": "lenet"}}), "is a damaged packed network"),
    }.items():
        save_tensors(tmp_path / name, *changed)
        with pytest.raises(DataError, match=message) as raised:
            load_packed(tmp_path / name)
        assert "\n" not in str(raised.value)
    content = (tmp_path / "a").read_bytes()
    (tmp_path / "short").write_bytes(content[:-1])
    with pytest.raises(DataError, match="was changed after it was written"):
        load_packed(tmp_path / "short")


def test_commands(tmp_path: Path) -> None:
    def call(*arguments: Any) -> Any:
        return CliRunner().invoke(vision, [str(argument) for argument in arguments])

    def succeed(*arguments: Any) -> Any:
        result = call(*arguments, "--json")
        assert result.exit_code == 0, result.output
        return json.loads(result.stdout)

    rng = np.random.default_rng(0)
    train, test = (
        ImageArray(images=rng.integers(0, 256, (n, 8, 8, 3), np.uint8), labels=rng.integers(0, 2, n)) for n in (40, 20)
    )
    normalization = Normalization.of(train.images)
    images = PreparedImages(
        train=train, test=test, class_names=("a", "b"), normalization=normalization, manifest={"source": {}}
    )
    images.save(tmp_path / "data")
    run, file, data = tmp_path / "run", tmp_path / "file", ["--data", tmp_path / "data"]
    succeed("train", *data, "--network", "resnet20", "--out", run, "--iterations", 4, "--batch-size", 16)
    document = succeed("pack", run, "--out", file, "--images", 2)
    assert document["bytes"] == file.stat().st_size < document["float32_bytes"] / 15
    answers = [
        succeed("evaluate", run),
        succeed("evaluate", run, "--engine", "packed"),
        succeed("evaluate", file, *data),
    ]
    assert [answer.pop("engine") for answer in answers] == ["torch", "packed", "packed"]
    assert len({answer["accuracy"] for answer in answers}) == 1
    assert "holds no images, so name" in call("evaluate", file).stderr
    assert "0 of" in call("pack", run, "--out", tmp_path / "again", "--images", 1).stdout
    wrong = call("evaluate", file, *data, "--engine", "torch")
    assert (wrong.exit_code, "--engine is 'torch', but" in wrong.stderr) == (2, True)
