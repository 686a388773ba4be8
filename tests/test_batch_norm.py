import math

import numba
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ppt_core.batch_norm import BatchNormReLU
from ppt_core.binarize import binarize_activation
from ppt_core.layers import BinaryActivation, set_precision
from ppt_core.plan import convert

SHAPES = [(2, 3), (64, 5), (65, 1), (200, 7), (127, 100)]  # blocks of 64 rows, whole, partial and one


def randn(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def new_layer(n_channels: int, low: bool = False, alpha: float = 0.8) -> BatchNormReLU:
    """A layer of uneven weights, negative ones and a zero among them; in low precision with that alpha."""
    layer = BatchNormReLU(n_channels)
    with torch.no_grad():
        layer.weight.copy_(torch.linspace(-1.5, 1.5, n_channels))
        layer.weight[n_channels // 2] = 0
        layer.bias.copy_(randn(n_channels, seed=1))
    if low:
        model = nn.Sequential(nn.Linear(n_channels, n_channels), layer, nn.Linear(n_channels, 2), nn.Linear(2, 1))
        convert(model)
        set_precision(model, "low")
        assert isinstance(layer, BinaryActivation)
        nn.init.constant_(layer.alpha, alpha)
    return layer


def by_torch(layer: BatchNormReLU, x: Tensor) -> tuple[Tensor, dict[str, Tensor], dict[str, Tensor]]:
    """PyTorch's BatchNorm and the activation, one after the other in float64: output, leaves and buffers."""
    norm = nn.BatchNorm1d(layer.num_features).double()
    state = {name: tensor.double() for name, tensor in layer.state_dict().items() if name != "alpha"}
    norm.load_state_dict(state)
    norm.train(layer.training)
    x = x.detach().double().requires_grad_()
    leaves = {"x": x, "weight": norm.weight, "bias": norm.bias}
    if isinstance(layer, BinaryActivation) and layer.precision == "low":
        leaves["alpha"] = layer.alpha.detach().double().requires_grad_()
        output = binarize_activation(norm(x), leaves["alpha"])
    else:
        output = F.relu(norm(x))
    return output, leaves, dict(norm.named_buffers())


def check_against_torch(layer: BatchNormReLU, x: Tensor) -> None:
    expected, leaves, buffers = by_torch(layer, x)
    x = x.detach().requires_grad_()
    output = layer(x)
    assert output.shape == x.shape
    assert output.dtype == torch.float32
    torch.testing.assert_close(output.double(), expected, rtol=1e-5, atol=1e-5)
    grad = randn(*x.shape, seed=2)
    output.backward(grad)
    expected.backward(grad.double())  # type: ignore[no-untyped-call]
    found = {"x": x, **dict(layer.named_parameters())}
    assert found.keys() >= leaves.keys()
    for name, leaf in leaves.items():
        assert leaf.grad is not None
        found_grad = found[name].grad
        assert found_grad is not None
        assert found_grad.shape == leaf.shape
        scale = leaf.grad.abs().max().item()
        torch.testing.assert_close(found_grad.double(), leaf.grad, rtol=1e-4, atol=1e-5 * max(scale, 1))
    for name, buffer in layer.named_buffers():
        torch.testing.assert_close(buffer.double(), buffers[name].double(), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("low", [False, True])
@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("training", [True, False])
def test_agrees_with_torch(shape: tuple[int, int], low: bool, training: bool) -> None:
    layer = new_layer(shape[1], low).train()
    for seed in (3, 4):  # the second time with running statistics of its own
        layer.train(training or seed == 3)
        check_against_torch(layer, 2 * randn(*shape, seed=seed) + 1)
        layer.zero_grad()
    assert layer.num_batches_tracked is not None
    assert layer.num_batches_tracked.item() == 1 + training


def test_known_answer() -> None:
    layer = BatchNormReLU(1)
    output = layer(torch.tensor([[1.0], [3.0], [5.0], [7.0]]))
    deviation = math.sqrt(5 + 1e-5)
    assert output.flatten().tolist() == pytest.approx([0, 0, 1 / deviation, 3 / deviation])
    assert layer.running_mean is not None
    assert layer.running_var is not None
    assert layer.running_mean.item() == pytest.approx(0.4)  # 0.1 of the mean
    assert layer.running_var.item() == pytest.approx(0.9 + 0.1 * 20 / 3)  # and of the unbiased variance


def test_is_in_low_precision_a_bit() -> None:
    layer = new_layer(7, low=True, alpha=0.8)
    output = layer(randn(100, 7))
    assert set(output.unique().tolist()) == {0.0, torch.tensor(0.8).item()}


@pytest.mark.parametrize("low", [False, True])
def test_evaluation_is_the_same_with_and_without_gradients(low: bool) -> None:
    layer = new_layer(50, low)
    layer(3 * randn(100, 50))
    layer.eval()
    x = 3 * randn(2000, 50, seed=1)
    with torch.no_grad():
        expected = layer(x)
    assert torch.equal(layer(x), expected)
    assert layer(x).requires_grad
    assert not expected.requires_grad


@pytest.mark.parametrize("low", [False, True])
def test_evaluates_each_row_by_itself(low: bool) -> None:
    layer = new_layer(10, low)
    layer(randn(100, 10))
    layer.eval()
    x = randn(66, 10, seed=1)
    with torch.no_grad():
        assert torch.equal(layer(x), torch.cat([layer(x[i : i + 1]) for i in range(66)]))
        assert layer(x[:0]).shape == (0, 10)


@pytest.mark.parametrize("mean", [1e2, 1e3, 1e4])
def test_large_mean_does_not_cancel(mean: float) -> None:
    layer = BatchNormReLU(5)
    x = randn(300, 5) + mean
    expected, _, buffers = by_torch(layer, x)
    torch.testing.assert_close(layer(x).double(), expected, rtol=0, atol=1e-6 * mean)  # a few units of float32
    torch.testing.assert_close(layer.running_var, buffers["running_var"].float(), rtol=1e-4, atol=0)


def test_constant_channel_is_its_bias() -> None:
    layer = new_layer(3)
    output = layer(torch.tensor([[2.0, -5.0, 0.1]]).repeat(70, 1))
    expected = F.relu(layer.bias).detach().expand(70, 3)
    torch.testing.assert_close(output, expected, rtol=0, atol=1e-3)  # 1 / sqrt(eps) magnifies the rounding of x


def test_any_memory_layout() -> None:
    x = randn(7, 100)
    layer = new_layer(7)
    expected = layer(x.t().contiguous())
    torch.testing.assert_close(layer(x.t()), expected, rtol=0, atol=0)
    x = x.requires_grad_()
    layer(x.t()).backward(randn(7, 100, seed=1).t())
    transposed = x.detach().t().contiguous().requires_grad_()
    layer(transposed).backward(randn(7, 100, seed=1).t().contiguous())
    assert x.grad is not None
    assert transposed.grad is not None
    assert torch.equal(x.grad.t(), transposed.grad)


@pytest.mark.parametrize("low", [False, True])
@pytest.mark.parametrize("shape", [(2048, 37), (1000, 256)])
def test_does_not_depend_on_threads(shape: tuple[int, int], low: bool) -> None:
    n_threads, torch_threads = numba.get_num_threads(), torch.get_num_threads()
    if numba.config.NUMBA_NUM_THREADS < 2:
        pytest.skip("this machine gives Numba one thread")
    found: list[dict[str, Tensor]] = []
    try:
        for n in (1, 2):
            numba.set_num_threads(n)
            torch.set_num_threads(3 * n - 2)
            layer = new_layer(shape[1], low)
            x = randn(*shape).requires_grad_()
            output = layer(x)
            output.backward(randn(*shape, seed=1))
            leaves = {"x": x, **dict(layer.named_parameters())}
            grads = {f"gradient of {name}": leaf.grad for name, leaf in leaves.items() if leaf.grad is not None}
            found.append({"output": output.detach(), **grads, **layer.state_dict()})
    finally:
        numba.set_num_threads(n_threads)
        torch.set_num_threads(torch_threads)
    assert ("gradient of alpha" in found[0]) == low
    assert {"gradient of x", "gradient of weight", "gradient of bias", "running_var"} <= found[0].keys()
    for name, tensor in found[0].items():
        assert torch.equal(tensor, found[1][name]), name


@pytest.mark.parametrize("training", [True, False])
def test_a_diverged_network_does_not_look_sane(training: bool) -> None:
    x = randn(10, 3)
    x[2, 1] = float("nan")
    layer = new_layer(3).train(training)
    for output in (layer(x), layer(x).detach()):
        assert output[2, 1].isnan()
        assert not output[:, [0, 2]].isnan().any()
    output = layer(x.requires_grad_())
    output.sum().backward()
    assert layer.weight.grad is not None
    assert layer.weight.grad[1].isnan()


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("shape", [(4, 5), (4, 2), (3,), (4, 3, 5), ()])
def test_shape_that_does_not_fit(shape: tuple[int, ...], training: bool) -> None:
    with pytest.raises(ValueError, match=r"^the input has shape \(.*\); it must be \(batch, 3\)$"):
        BatchNormReLU(3).train(training)(torch.ones(shape))


@pytest.mark.parametrize("n_rows", [0, 1])
def test_no_variance_of_one_row(n_rows: int) -> None:
    with pytest.raises(ValueError, match=r"^BatchNorm in training needs a batch of at least 2 rows$"):
        BatchNormReLU(3)(torch.ones(n_rows, 3))
    assert BatchNormReLU(3).eval()(torch.ones(n_rows, 3)).shape == (n_rows, 3)


@pytest.mark.parametrize("low", [False, True])
@pytest.mark.parametrize("training", [True, False])
def test_other_kinds_of_numbers(low: bool, training: bool) -> None:
    layer = new_layer(7, low).train(training)
    x = randn(50, 7).bfloat16()
    assert torch.equal(layer(x), layer(x.float()))  # statistics need the precision
    double = layer.double()(x.double())
    assert double.dtype == torch.float64
    layer.float()
    torch.testing.assert_close(layer(x), double.float(), rtol=1e-5, atol=1e-5)


def test_takes_the_state_of_torchs_own() -> None:
    norm = nn.BatchNorm1d(4)
    norm(randn(9, 4))
    layer = BatchNormReLU(4)
    layer.load_state_dict(norm.state_dict())
    assert layer.state_dict().keys() == norm.state_dict().keys()
    x = randn(9, 4, seed=1)
    torch.testing.assert_close(layer.eval()(x), F.relu(norm.eval()(x)))
