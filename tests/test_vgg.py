from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ppt_core.layers import BinaryConv2d, alpha_penalty, set_precision
from ppt_core.plan import convert, plan_binarization
from vision_ppt.vgg import VGG, VGGConfig

SMALL = VGGConfig(n_classes=5, groups=((4, 4), (8,)))


def images(n: int = 6, size: int = 16) -> Tensor:
    return torch.randn(n, 3, size, size, generator=torch.Generator().manual_seed(1))


def test_is_vgg16() -> None:
    model = VGG(VGGConfig(), seed=0)
    channels = [m.out_channels for m in model.modules() if isinstance(m, nn.Conv2d)]
    assert channels == [64, 64, 128, 128, 256, 256, 256, 512, 512, 512, 512, 512, 512]
    assert sum(p.numel() for p in model.parameters()) == 14_724_042
    with torch.inference_mode():
        assert model.eval().groups(images(1, 32)).shape == (1, 512, 1, 1)
        assert model(images(1, 64)).shape == (1, 10)


def test_every_convolution_but_the_first_becomes_one_bit() -> None:
    plan = plan_binarization(VGG(VGGConfig(), seed=0))
    convolutions = [entry for entry in plan.layers if entry.kind == "Conv2d"]
    activations = [entry for entry in plan.layers if entry.kind == "ReLU"]
    assert [entry.binarize for entry in convolutions] == [False] + [True] * 12
    assert [entry.binarize for entry in activations] == [True] * 12 + [False]
    assert [entry.input_activation for entry in convolutions[1:]] == [entry.name for entry in activations[:-1]]
    assert (convolutions[0].reason, plan.layers[-1].reason) == ("first layer", "last layer")


@pytest.mark.parametrize("precision", ["full", "low"])
def test_forward_and_backward(precision: str) -> None:
    model = VGG(SMALL, seed=3)
    convert(model)
    set_precision(model, precision)  # type: ignore[arg-type]
    n_integer = 0

    def check(module: nn.Module, args: tuple[Tensor, ...], output: Tensor) -> None:
        nonlocal n_integer
        assert isinstance(module, BinaryConv2d)
        scale = module.input_activation.alpha * module.scale
        integers = (output / scale).round()
        n_integer += torch.equal(integers * scale, output) and int(integers.abs().max()) > 0

    for module in model.modules():
        if isinstance(module, BinaryConv2d):
            module.register_forward_hook(check)
    loss = F.cross_entropy(model(images(16) * 3), torch.arange(16) % 5) + alpha_penalty(model)
    loss.backward()  # type: ignore[no-untyped-call]
    assert n_integer == (2 if precision == "low" else 0)
    for name, parameter in model.named_parameters():
        if precision == "low" or "alpha" not in name:
            assert parameter.grad is not None, name
            assert parameter.grad.abs().sum() > 0, name


def test_initial_weights_are_a_function_of_the_seed_alone() -> None:
    state = torch.get_rng_state()
    one, same, other = (VGG(SMALL, seed=seed).state_dict() for seed in (1, 1, 2))
    assert torch.equal(torch.get_rng_state(), state)
    assert all(torch.equal(one[key], same[key]) for key in one)
    assert not torch.equal(one["last.weight"], other["last.weight"])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"n_classes": 1}, "n_classes is 1; it must be at least 2"),
        ({"groups": ()}, r"groups is \(\); give at least one group"),
        ({"groups": ((4,), ())}, "give at least one group, and channels for each convolution"),
        ({"groups": ((0,),)}, "give at least one group, and channels for each convolution"),
    ],
)
def test_refuses_impossible_configs(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        VGGConfig(**options)
