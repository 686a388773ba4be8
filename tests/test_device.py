import pytest
import torch
from torch import Tensor, nn

from ppt_core import _kernels
from ppt_core.batch_norm import BatchNormReLU
from ppt_core.bits import _kernels as bit_kernels
from ppt_core.bits.conv import binary_conv2d
from ppt_core.bits.linear import binary_linear
from ppt_core.device import check_device, has_kernels, plain_operations, usual_simulation
from ppt_core.layers import set_precision
from ppt_core.plan import convert


def test_a_device_that_is_not_there_is_refused() -> None:
    assert check_device("cpu") == "cpu"
    for name in ("gpu", "cuda:x", "cpu:3", "meta", ""):
        with pytest.raises(ValueError, match=r"^device is .*; it must be cpu, cuda or cuda:N"):
            check_device(name)
    n_devices = torch.cuda.device_count()
    with pytest.raises(ValueError, match=f"^device is 'cuda:{n_devices}', but "):
        check_device(f"cuda:{n_devices}")


def gradients(network: nn.Module, x: Tensor) -> dict[str, Tensor]:
    network.zero_grad()
    network(x).square().sum().backward()
    return {name: parameter.grad for name, parameter in network.named_parameters() if parameter.grad is not None}


def test_plain_operations_take_the_place_of_kernels(monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(0)
    network = nn.Sequential(nn.Linear(9, 70), nn.ReLU(), nn.Linear(70, 65), BatchNormReLU(65), nn.Linear(65, 3))
    convert(network)
    set_precision(network, "low")
    x = torch.randn(200, 9)
    with_kernels = gradients(network, x)
    with plain_operations():
        assert not has_kernels(x)
        for module in (_kernels, bit_kernels):
            for name in list(vars(module)):
                monkeypatch.delattr(module, name)  # so that any use of one would fail
        plain = gradients(network, x)
    monkeypatch.undo()
    assert has_kernels(x)
    assert not has_kernels(x.double())
    assert plain.keys() == with_kernels.keys()
    for name, expected in with_kernels.items():
        torch.testing.assert_close(plain[name], expected, rtol=1e-4, atol=1e-4)


def test_the_usual_simulation_computes_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of linear and convolutional layers, forward and backward, without this project's products of bits."""
    torch.manual_seed(0)
    network = nn.Sequential(
        *(nn.Conv2d(2, 9, 3, padding=1), nn.ReLU(), nn.Conv2d(9, 17, 3, stride=2), nn.ReLU(), nn.Flatten()),
        *(nn.Linear(17 * 4, 40), nn.ReLU(), nn.Linear(40, 3)),
    )
    convert(network)
    set_precision(network, "low")
    images = torch.randn(50, 2, 6, 6)
    with_kernels = gradients(network, images)
    with usual_simulation():
        assert not has_kernels(images)
        for product in ("ppt_core.bits.linear._BinaryLinear", "ppt_core.bits.conv._BinaryConv2d"):
            monkeypatch.setattr(product, None)
        usual = gradients(network, images)
    monkeypatch.undo()
    assert has_kernels(images)
    assert usual.keys() == with_kernels.keys()
    for name, expected in with_kernels.items():
        torch.testing.assert_close(usual[name], expected, rtol=1e-3, atol=1e-3)


def test_plain_convolutions_do_without_kernels(monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(0)
    network = nn.Sequential(nn.Conv2d(2, 9, 3), nn.ReLU(), nn.Conv2d(9, 17, 3), nn.Flatten(), nn.Linear(17 * 4, 3))
    convert(network)
    set_precision(network, "low")
    images = torch.randn(5, 2, 6, 6).contiguous(memory_format=torch.channels_last)
    with_kernels = network(images)
    with plain_operations():
        monkeypatch.delattr(bit_kernels, "convolve")
        torch.testing.assert_close(network(images), with_kernels, rtol=1e-5, atol=1e-5)
    with pytest.raises(AttributeError):
        network(images)


def test_plain_operations_under_bf16_round_gradients_only() -> None:
    """What a GPU does: up to 256 inputs the integers and their scaling are those of float32."""
    generator = torch.Generator().manual_seed(0)
    x = torch.where(torch.randn(64, 256, generator=generator) > 0, 1.5, 0.0).requires_grad_()
    weight = (0.5 * torch.randn(32, 256, generator=generator)).requires_grad_()
    slope = torch.randn(64, 32, generator=generator)
    outputs, grads = [], []
    for is_bf16 in (False, True):
        with plain_operations():
            with torch.autocast("cpu", dtype=torch.bfloat16, enabled=is_bf16):
                output = binary_linear(x, weight, None, alpha=torch.tensor(1.5), scale=torch.tensor(0.3))
            outputs.append(output)
            grads.append(torch.autograd.grad(output, (x, weight), slope))
    assert outputs[1].dtype == torch.float32
    assert torch.equal(*outputs)
    for expected, found in zip(*grads, strict=True):
        assert found.dtype == torch.float32
        assert 0 < (found - expected).norm() / expected.norm() < 1e-2


@pytest.mark.parametrize("is_behind_bf16", [False, True])
def test_convolutions_that_count_bits_round_gradients_only_under_bf16(is_behind_bf16: bool) -> None:
    generator = torch.Generator().manual_seed(0)
    x = torch.where(torch.randn(4, 48, 6, 5, generator=generator) > 0, 1.5, 0.0).requires_grad_()
    weight = (0.5 * torch.randn(32, 48, 3, 3, generator=generator)).requires_grad_()
    bias = torch.randn(32, generator=generator).requires_grad_()
    outputs, grads = [], []
    for is_bf16 in (False, True):
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=is_bf16):
            output = binary_conv2d(
                x.bfloat16() if is_bf16 and is_behind_bf16 else x, weight, bias,
                alpha=torch.tensor(1.5), scale=torch.tensor(0.3),
                stride=(2, 1), padding=(1, 1), dilation=(1, 1), groups=1,
            )  # fmt: skip
        outputs.append(output)
        slope = torch.randn(output.shape, generator=torch.Generator().manual_seed(1))
        grads.append(torch.autograd.grad(output, (x, weight, bias), slope))
    assert outputs[1].dtype == torch.float32
    assert torch.equal(*outputs)
    for expected, found in zip(*grads, strict=True):
        assert found.dtype == torch.float32
        assert 0 < (found - expected).norm() / expected.norm() < 1e-2
