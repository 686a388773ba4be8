from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ppt_core.layers import BinaryActivation, BinaryConv2d, ForkedReLU, alpha_penalty, set_precision
from ppt_core.plan import convert, plan_binarization
from vision_ppt.resnet import ResNet, ResNetConfig, resnet20, resnet34

SMALL = ResNetConfig(n_classes=5, blocks=(1, 2), width=4)
CONFIGS = {
    "identity": SMALL,
    "projection": ResNetConfig(n_classes=5, blocks=(1, 2), width=4, shortcut="projection"),
    "imagenet": ResNetConfig(n_classes=5, blocks=(1, 2), width=4, stem="imagenet", shortcut="projection"),
}


@pytest.fixture(scope="module")
def imagenet_model() -> ResNet:
    return ResNet(resnet34(), seed=0)


def images(n: int = 6, size: int = 16, seed: int = 1) -> Tensor:
    return torch.randn(n, 3, size, size, generator=torch.Generator().manual_seed(seed))


def published_forward(model: ResNet, x: Tensor) -> Tensor:
    """He et al. 2016 as published: a ReLU behind the stem and behind every sum, one for both of its readers."""

    def conv_bn(x: Tensor, conv: nn.Conv2d, bn: nn.BatchNorm2d) -> Tensor:
        x = F.conv2d(x, conv.weight, stride=conv.stride, padding=conv.padding)
        return F.batch_norm(x, bn.running_mean, bn.running_var, bn.weight, bn.bias)

    stem: Any = model.stem
    x = conv_bn(x, stem[0], stem[1]).relu()
    if model.config.stem == "imagenet":
        x = F.max_pool2d(x, 3, stride=2, padding=1)
    stages: Any = model.stages
    for stage in stages:
        for block in stage:
            residual = conv_bn(conv_bn(x, block.conv1, block.bn1).relu(), block.conv2, block.bn2)
            if residual.shape != x.shape:
                if model.config.shortcut == "projection":
                    x = conv_bn(x, block.shortcut[-2], block.shortcut[-1])
                else:
                    x = x[:, :, ::2, ::2]
                    x = torch.cat([x, torch.zeros_like(x)], dim=1)
            x = (residual + x).relu()
    return F.linear(x.mean((2, 3)), model.last.weight, model.last.bias)


@pytest.mark.parametrize("name", CONFIGS)
def test_computes_the_published_function(name: str) -> None:
    model = ResNet(CONFIGS[name], seed=3).eval()
    with torch.no_grad():
        for module in model.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.running_mean.uniform_(-0.5, 0.5)  # type: ignore[union-attr]
                module.weight.uniform_(-1, 2)
                module.bias.uniform_(-1, 1)
        logits = model(images(size=32))
        assert logits.shape == (6, 5)
        torch.testing.assert_close(logits, published_forward(model, images(size=32)))


@pytest.mark.parametrize(
    ("config", "n_parameters"),
    [
        (resnet20(), 269_722),  # 0.27 M, table 6 of He et al. 2016
        (resnet20(shortcut="projection"), 272_474),
        (resnet20(100), 275_572),
    ],
)
def test_resnet20(config: ResNetConfig, n_parameters: int) -> None:
    model = ResNet(config, seed=0).eval()
    assert sum(p.numel() for p in model.parameters()) == n_parameters
    x = model.stem(images(2, 32))
    for stage, shape in zip(model.stages, [(16, 32, 32), (32, 16, 16), (64, 8, 8)], strict=True):
        x = stage(x)
        assert x.shape[1:] == shape
    assert model(images(2, 32)).shape == (2, config.n_classes)


def test_resnet34(imagenet_model: ResNet) -> None:
    assert sum(p.numel() for p in imagenet_model.parameters()) == 21_797_672  # 21.8 M
    with torch.inference_mode():
        x = imagenet_model.eval().stem(images(1, 64))
        shapes = [(64, 16, 16), (128, 8, 8), (256, 4, 4), (512, 2, 2)]
        for stage, n_blocks, shape in zip(imagenet_model.stages, (3, 4, 6, 3), shapes, strict=True):
            assert len(list(stage.children())) == n_blocks
            x = stage(x)
            assert x.shape[1:] == shape
        assert imagenet_model(images(1, 64)).shape == (1, 1000)


@pytest.mark.parametrize("network", ["resnet20", "resnet20 with projections", "resnet34"])
def test_only_the_inner_3x3_convolutions_become_one_bit(network: str, imagenet_model: ResNet) -> None:
    model = imagenet_model
    if network != "resnet34":
        model = ResNet(resnet20(shortcut="identity" if network == "resnet20" else "projection"), seed=0)
    config = model.config
    modules = dict(model.named_modules())
    plan = plan_binarization(model)
    one_bit = {entry.name for entry in plan.layers if entry.binarize}
    assert {n for n in one_bit if isinstance(modules[n], nn.Conv2d)} == {
        n for n in modules if n.endswith((".conv1", ".conv2"))
    }
    assert {n for n in one_bit if isinstance(modules[n], (nn.ReLU, ForkedReLU))} == {
        n for n in modules if n.endswith((".relu1", ".relu2"))
    }
    assert not any(isinstance(modules[n], (nn.BatchNorm2d, nn.Linear)) for n in one_bit)
    reasons = {entry.name: entry.reason for entry in plan.layers if not entry.binarize}
    assert reasons.pop("stem.0") == "first layer"
    assert reasons.pop("last") == "last layer"
    assert reasons.pop("relu") == "feeds no 1-bit layer"
    n_projections = len(config.blocks) - 1 if config.shortcut == "projection" else 0
    assert all(".shortcut." in name for name in reasons)
    assert list(reasons.values()) == ["projection shortcut"] * n_projections
    for entry in plan.layers:
        if entry.binarize and entry.name.endswith(("conv1", "conv2")):
            assert entry.input_activation == entry.name.replace("conv", "relu")


def test_the_printed_plan() -> None:
    model = ResNet(ResNetConfig(blocks=(1, 1), width=4, shortcut="projection"), seed=0)
    assert str(plan_binarization(model)).splitlines() == [
        "layer                  kind        bits  why",
        "stem.0                 Conv2d      32    first layer",
        "stages.0.0.relu1       ForkedReLU  1     feeds a 1-bit layer; its shortcut reads real numbers",
        "stages.0.0.conv1       Conv2d      1     its input is stages.0.0.relu1, 1 bit",
        "stages.0.0.relu2       ReLU        1     feeds a 1-bit layer",
        "stages.0.0.conv2       Conv2d      1     its input is stages.0.0.relu2, 1 bit",
        "stages.1.0.relu1       ForkedReLU  1     feeds a 1-bit layer; its shortcut reads real numbers",
        "stages.1.0.conv1       Conv2d      1     its input is stages.1.0.relu1, 1 bit",
        "stages.1.0.relu2       ReLU        1     feeds a 1-bit layer",
        "stages.1.0.conv2       Conv2d      1     its input is stages.1.0.relu2, 1 bit",
        "stages.1.0.shortcut.0  Conv2d      32    projection shortcut",
        "relu                   ReLU        32    feeds no 1-bit layer",
        "last                   Linear      32    last layer",
    ]


@pytest.mark.parametrize("name", CONFIGS)
@pytest.mark.parametrize("channels_last", [False, True])
def test_low_precision_multiplies_integers_and_keeps_shortcuts_real(name: str, channels_last: bool) -> None:
    model = ResNet(CONFIGS[name], seed=3)
    convert(model)
    set_precision(model, "low")
    batch = images(size=32) * 3
    if channels_last:
        model = model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        batch = batch.contiguous(memory_format=torch.channels_last)
    seen: list[str] = []

    def check_one_bit(module: nn.Module, args: tuple[Tensor, ...], output: Tensor) -> None:
        assert isinstance(module, BinaryConv2d)
        alpha = module.input_activation.alpha
        assert set(args[0].flatten().tolist()) == {0.0, alpha.item()}
        scale = alpha * module.scale
        integers = (output / scale).round()
        assert 0 < integers.abs().max() <= module.in_channels * 9
        assert torch.equal(integers * scale, output)
        seen.append("one bit")

    def check_real(module: nn.Module, args: tuple[Tensor, ...], output: tuple[Tensor, Tensor]) -> None:
        assert torch.equal(output[1], args[0].relu())
        assert len(set(output[1].flatten().tolist())) > 100
        seen.append("real")

    for module_name, module in model.named_modules():
        if isinstance(module, BinaryConv2d):
            module.register_forward_hook(check_one_bit)
        elif module_name.endswith(".relu1"):
            module.register_forward_hook(check_real)
    logits = model(batch)
    assert logits.isfinite().all()
    assert seen.count("one bit") == 6
    assert seen.count("real") == 3


def test_shortcuts_carry_the_bits_of_the_branch_if_they_are_to() -> None:
    config = replace(CONFIGS["projection"], shortcut_activation="binary")
    model, real = ResNet(config, seed=3), ResNet(CONFIGS["projection"], seed=3)
    assert "relu1       ForkedReLU  1     feeds a 1-bit layer; its shortcut reads the same bits" in str(convert(model))
    convert(real)
    batch = images(size=32) * 3
    model.eval(), real.eval()
    assert torch.equal(model(batch), real(batch))  # full precision knows no difference

    seen: list[str] = []

    def check_bits(module: nn.Module, args: tuple[Tensor, ...], output: tuple[Tensor, Tensor]) -> None:
        assert isinstance(module, BinaryActivation)
        expected = torch.where(args[0] > module.alpha / 2, module.alpha, 0.0)
        assert torch.equal(output[0], expected)
        assert torch.equal(output[1], expected)
        seen.append("bits")

    set_precision(model, "low")
    for name, module in model.named_modules():
        if name.endswith(".relu1"):
            module.register_forward_hook(check_bits)
    loss = model(batch).square().sum()
    loss.backward()
    assert len(seen) == 3
    alphas = [module.alpha.grad for module in model.modules() if isinstance(module, BinaryActivation)]
    assert all(grad is not None and grad.abs() > 0 for grad in alphas)


@pytest.mark.parametrize("name", CONFIGS)
@pytest.mark.parametrize("precision", ["full", "low"])
def test_gradients_reach_every_parameter(name: str, precision: str) -> None:
    model = ResNet(CONFIGS[name], seed=3)
    convert(model)
    set_precision(model, precision)  # type: ignore[arg-type]
    loss = F.cross_entropy(model(images(16, 32) * 3), torch.arange(16) % 5) + alpha_penalty(model)
    loss.backward()  # type: ignore[no-untyped-call]
    alphas = {f"{n}.alpha" for n, m in model.named_modules() if isinstance(m, BinaryActivation)}
    assert len(alphas) == 6
    for parameter_name, parameter in model.named_parameters():
        if parameter_name in alphas and precision == "full":
            assert parameter.grad is None
        else:
            assert parameter.grad is not None, parameter_name
            assert parameter.grad.isfinite().all()
            assert parameter.grad.abs().sum() > 0, parameter_name


def test_starts_as_shortcuts_as_goyal_et_al(imagenet_model: ResNet) -> None:
    config = replace(CONFIGS["imagenet"], starts_as_shortcuts=True)
    model, usual = ResNet(config, seed=3), ResNet(CONFIGS["imagenet"], seed=3)
    stages: Any = model.stages
    identity = stages[1][1]
    x = images(size=8)[:, :1].expand(-1, 8, -1, -1)
    assert torch.equal(identity(x), x.relu())
    different = [n for n, p in model.named_parameters() if not torch.equal(p, usual.get_parameter(n))]
    blocks = ["stages.0.0", "stages.1.0", "stages.1.1"]
    assert different == [*(f"{block}.bn2.weight" for block in blocks), "last.weight", "last.bias"]
    assert imagenet_model.config.starts_as_shortcuts
    assert 0.0099 < imagenet_model.last.weight.std().item() < 0.0101
    assert not imagenet_model.last.bias.any()


def test_initial_weights_are_a_function_of_the_seed_alone() -> None:
    state = torch.get_rng_state()
    one, same, other = (ResNet(SMALL, seed=seed).state_dict() for seed in (1, 1, 2))
    assert torch.equal(torch.get_rng_state(), state)
    assert all(torch.equal(one[key], same[key]) for key in one)
    assert not torch.equal(one["stem.0.weight"], other["stem.0.weight"])


def test_initial_weights_are_of_the_size_of_he_et_al(imagenet_model: ResNet) -> None:
    weight = imagenet_model.get_submodule("stages.3.1.conv1").weight
    assert isinstance(weight, Tensor)
    assert weight.std().item() == pytest.approx((2 / (512 * 9)) ** 0.5, rel=0.01)
    bound = 1 / 64**0.5
    assert 0.9 * bound < ResNet(resnet20(), seed=0).last.weight.abs().max().item() <= bound


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"n_classes": 1}, "n_classes is 1; it must be at least 2"),
        ({"blocks": ()}, r"blocks is \(\); give at least one stage"),
        ({"blocks": (3, 0)}, r"blocks is \(3, 0\); give at least one stage"),
        ({"width": 0}, "width is 0; it must be at least 1"),
        ({"stem": "none"}, "stem is 'none'; choose cifar or imagenet"),
        ({"shortcut": "conv"}, "shortcut is 'conv'; choose identity or projection"),
    ],
)
def test_refuses_impossible_configs(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        ResNetConfig(**options)


def test_a_residual_branch_of_one_1x1_convolution_is_no_projection() -> None:
    class Residual(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first = nn.Conv2d(3, 4, 3)
            self.relu = nn.ReLU()
            self.conv = nn.Conv2d(4, 4, 1)
            self.last = nn.Conv2d(4, 2, 3)

        def forward(self, x: Tensor) -> Tensor:
            x = self.first(x)
            output: Tensor = self.last(self.conv(self.relu(x)) + x)
            return output

    decisions = {entry.name: entry.binarize for entry in plan_binarization(Residual()).layers}
    assert decisions == {"first": False, "relu": True, "conv": True, "last": False}
