import copy
import math
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn.grad import conv2d_input, conv2d_weight

from ppt_core.batch_norm import BatchNormReLU
from ppt_core.layers import (
    BinaryActivation,
    BinaryConv2d,
    BinaryLinear,
    alpha_penalty,
    check_finite,
    clamp_alphas,
    set_precision,
)
from ppt_core.plan import convert
from ppt_core.schedule import Precision
from ppt_core.train import Scale
from tests import reference


def randn(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def plain_mlp() -> nn.Sequential:
    return nn.Sequential(nn.Linear(6, 70), nn.ReLU(inplace=True), nn.Linear(70, 9), nn.ReLU(), nn.Linear(9, 2))


def normalized_mlp() -> nn.Sequential:
    return nn.Sequential(
        nn.Linear(6, 70), nn.BatchNorm1d(70), nn.ReLU(),
        nn.Linear(70, 70, bias=False), nn.BatchNorm1d(70), nn.ReLU(),
        nn.Linear(70, 9), nn.BatchNorm1d(9), nn.ReLU(), nn.Linear(9, 2),
    )  # fmt: skip


def fused_mlp() -> nn.Sequential:
    return nn.Sequential(
        nn.Linear(6, 70), BatchNormReLU(70), nn.Linear(70, 70, bias=False), BatchNormReLU(70),
        nn.Linear(70, 9), BatchNormReLU(9), nn.Linear(9, 2),
    )  # fmt: skip


def image_network() -> nn.Sequential:
    return nn.Sequential(
        nn.Unflatten(1, (1, 2, 3)), nn.Conv2d(1, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU(inplace=True),
        nn.Conv2d(8, 8, 3, padding=1, bias=False), nn.BatchNorm2d(8), nn.ReLU(),
        nn.Conv2d(8, 4, 1), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Linear(24, 2),
    )  # fmt: skip


NETWORKS = [plain_mlp, normalized_mlp, fused_mlp, image_network]
NORMALIZED = [normalized_mlp, fused_mlp, image_network]


def build(network: object, precision: Precision | None = None) -> nn.Sequential:
    torch.manual_seed(0)
    assert callable(network)
    model = network()
    assert isinstance(model, nn.Sequential)
    if precision:
        convert(model)
        set_precision(model, precision)
    return model


def weights(model: nn.Module) -> list[BinaryLinear | BinaryConv2d]:
    return [m for m in model.modules() if isinstance(m, (BinaryLinear, BinaryConv2d))]


def activations(model: nn.Module) -> list[BinaryActivation]:
    return [m for m in model.modules() if isinstance(m, BinaryActivation)]


def gradients(model: nn.Module, x: Tensor) -> dict[str, Tensor]:
    model.zero_grad()
    x = x.clone().requires_grad_()
    (model(x) * randn(len(x), 2, seed=9)).sum().backward()
    return {"x": x.grad, **{n: p.grad.clone() for n, p in model.named_parameters() if p.grad is not None}}  # type: ignore[dict-item]


# Conversion


@pytest.mark.parametrize("network", NETWORKS)
def test_conversion_changes_no_output_and_no_gradient(network: object) -> None:
    x = randn(30, 6)
    plain, converted = build(network), build(network)
    convert(converted)
    for train in (True, False):
        plain.train(train)
        converted.train(train)
        assert torch.equal(converted(x), plain(x))
        expected, found = gradients(plain, x), gradients(converted, x)
        assert found.keys() == expected.keys()  # and no alpha
        assert all(torch.equal(found[name], expected[name]) for name in expected)
    assert converted.training is False


@pytest.mark.parametrize("network", NETWORKS)
def test_conversion_keeps_parameters_and_keys(network: object) -> None:
    model = build(network)
    before = dict(model.named_parameters())
    keys = list(model.state_dict())
    plan = convert(model)
    after = dict(model.named_parameters())
    assert all(after[name] is parameter for name, parameter in before.items())
    binary = [entry for entry in plan.layers if entry.binarize]
    new = {f"{e.name}.{'scale' if e.input_activation else 'alpha'}" for e in binary}
    assert len(new) >= 2
    assert set(model.state_dict()) == {*keys, *new}
    assert after.keys() - before.keys() == {name for name in new if name.endswith("alpha")}
    assert [key for key in model.state_dict() if key in keys] == keys
    switches: list[Precision] = ["low", "full"]
    for precision in switches:
        set_precision(model, precision)
        assert set(model.state_dict()) == {*keys, *new}
        assert all(dict(model.named_parameters())[name] is parameter for name, parameter in after.items())


@pytest.mark.parametrize("network", NETWORKS)
def test_optimizer_made_before_goes_on(network: object) -> None:
    model = build(network)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    convert(model)
    set_precision(model, "low")
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    model(randn(30, 6)).square().mean().backward()
    optimizer.step()
    changed = {name for name, p in model.named_parameters() if not torch.equal(p, before[name])}
    assert {f"{name}.weight" for name, m in model.named_modules() if isinstance(m, (nn.Linear, nn.Conv2d))} <= changed


def test_double_models_stay_double() -> None:
    model = build(plain_mlp).double()
    convert(model)
    set_precision(model, "low")
    assert {tensor.dtype for tensor in model.state_dict().values()} == {torch.float64}
    output = model(randn(5, 6).double())
    output.sum().backward()
    assert output.dtype == torch.float64
    assert activations(model)[0].alpha.grad is not None


# Low precision against integers


def bits(*shape: int) -> np.ndarray[tuple[int, ...], np.dtype[np.int64]]:
    return np.random.default_rng(0).integers(0, 2, shape)


def place(layer: nn.Linear | nn.Conv2d, alpha: float, scale: Scale = "static") -> BinaryLinear | BinaryConv2d:
    """Put a layer where it is binarized, with zeros among its weights, and set its input's alpha."""
    first = nn.Conv2d(1, layer.weight.shape[1], 1) if isinstance(layer, nn.Conv2d) else nn.Linear(1, layer.in_features)
    with torch.no_grad():
        layer.weight.flatten()[::5] = 0.0
        layer.weight.flatten()[1::10] = -0.0
    last = type(layer)(layer.weight.shape[0], 1, *layer.weight.shape[2:])
    model = nn.Sequential(first, nn.ReLU(), layer, last)
    convert(model)
    set_precision(model, "low", scale=scale)
    (found,) = weights(model)
    nn.init.constant_(found.input_activation.alpha, alpha)
    assert found is layer
    return found


def scaled(product: np.ndarray[tuple[int, ...], np.dtype[np.int64]], layer: BinaryLinear | BinaryConv2d) -> Tensor:
    """``alpha * scale * product + bias``, each operation rounded as the layer's numbers are."""
    factor = layer.input_activation.alpha.detach() * layer.scale
    output = torch.from_numpy(product).to(factor.dtype) * factor
    if layer.bias is None:
        return output
    return output + layer.bias.detach().reshape(-1, *[1] * (output.dim() - 2))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("n_inputs", [1, 2, 63, 64, 65, 128, 200])
@pytest.mark.parametrize("bias", [True, False])
def test_linear_is_an_integer_product(n_inputs: int, bias: bool, dtype: torch.dtype) -> None:
    torch.manual_seed(n_inputs)
    layer = place(nn.Linear(n_inputs, 7, bias=bias), alpha=0.3).to(dtype)
    x = bits(5, n_inputs)
    expected = scaled(reference.binary_linear(x, layer.weight.detach().numpy()), layer)
    found = layer(torch.from_numpy(x).to(dtype) * layer.input_activation.to(dtype).alpha.detach())
    assert found.dtype == dtype
    assert torch.equal(found, expected)


@pytest.mark.parametrize("shape", [(64,), (0, 64), (1, 64), (150, 64), (3, 2, 64)])
def test_linear_of_any_shape(shape: tuple[int, ...]) -> None:
    layer = place(nn.Linear(64, 5), alpha=1.7)
    x = bits(*shape)
    expected = scaled(reference.binary_linear(x.reshape(-1, 64), layer.weight.detach().numpy()), layer)
    found = layer(torch.from_numpy(x).float() * 1.7)
    assert found.shape == (*shape[:-1], 5)
    assert torch.equal(found.reshape(-1, 5), expected)


@settings(max_examples=40)
@given(n_inputs=st.integers(1, 150), n_rows=st.integers(1, 4), seed=st.integers(0, 99))
def test_linear_of_any_size(n_inputs: int, n_rows: int, seed: int) -> None:
    layer = place(nn.Linear(n_inputs, 3), alpha=3.0)
    nn.init.normal_(layer.weight, generator=torch.Generator().manual_seed(seed))
    x = np.random.default_rng(seed).integers(0, 2, (n_rows, n_inputs))
    expected = scaled(reference.binary_linear(x, layer.weight.detach().numpy()), layer)
    assert torch.equal(layer(torch.from_numpy(x).float() * 3), expected)


@pytest.mark.parametrize("size", [1, 3])
@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("padding", [0, 1])
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_convolution_is_an_integer_product(
    size: int, stride: int, padding: int, bias: bool, dtype: torch.dtype
) -> None:
    torch.manual_seed(0)
    layer = place(nn.Conv2d(3, 4, size, stride=stride, padding=padding, bias=bias), alpha=0.3).to(dtype)
    x = bits(2, 3, 5, 6)
    product = reference.binary_conv2d(x, layer.weight.detach().numpy(), stride=stride, padding=padding)
    inputs = torch.from_numpy(x).to(dtype) * layer.input_activation.to(dtype).alpha.detach()
    for layout in (torch.contiguous_format, torch.channels_last):
        found = layer(inputs.contiguous(memory_format=layout))
        assert found.dtype == dtype
        assert torch.equal(found, scaled(product, layer))


@pytest.mark.parametrize("n_inputs", [100, 1000])
def test_product_is_an_exact_integer(n_inputs: int) -> None:
    layer = place(nn.Linear(n_inputs, 8, bias=False), alpha=1.0, scale="none")
    found = layer(torch.from_numpy(bits(50, n_inputs)).float())
    assert torch.equal(found, found.round())
    assert found.abs().max() > 10
    convolution = place(nn.Conv2d(n_inputs, 8, 3, bias=False), alpha=1.0, scale="none")
    found = convolution(torch.from_numpy(bits(2, n_inputs, 4, 4)).float())
    assert torch.equal(found, found.round())


# Gradients against formulas


@pytest.mark.parametrize("bias", [True, False])
def test_gradients_of_activation_and_linear(bias: bool) -> None:
    """With g the gradient of the output: s (g S) inside [0, alpha], summed beyond alpha; s (g' x) inside [-1, 1]."""
    layer = place(nn.Linear(70, 9, bias=bias), alpha=0.7)
    with torch.no_grad():
        layer.weight.mul_(12)  # some beyond 1
    z = randn(40, 70).requires_grad_()
    grad = randn(40, 9, seed=1)
    layer(layer.input_activation(z)).backward(grad)

    g, w = grad.double().numpy(), layer.weight.detach().double().numpy()
    alpha, scale, x = layer.input_activation.alpha.item(), layer.scale.item(), z.detach().numpy()
    grad_input = scale * g @ np.where(w > 0, 1.0, -1.0)
    output = alpha * (x > alpha / 2)
    assert 0.1 < np.mean(np.abs(w) > 1) < 0.9
    assert z.grad is not None
    np.testing.assert_allclose(z.grad, grad_input * ((x >= 0) & (x <= alpha)), rtol=1e-5, atol=1e-6)
    alpha_grad = layer.input_activation.alpha.grad
    assert alpha_grad is not None
    assert alpha_grad.item() == pytest.approx((grad_input * (x >= alpha)).sum(), rel=1e-4)
    assert layer.weight.grad is not None
    np.testing.assert_allclose(layer.weight.grad, scale * (g.T @ output) * (np.abs(w) <= 1), rtol=1e-5, atol=1e-6)
    if layer.bias is not None:
        assert layer.bias.grad is not None
        np.testing.assert_allclose(layer.bias.grad, g.sum(0), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
    "geometry",
    [
        {"padding": "same"},
        {"padding": "valid", "dilation": 2},
        {"padding": 1, "padding_mode": "reflect"},
        {"padding": (2, 0), "stride": (1, 2), "groups": 2},
    ],
    ids=str,
)
def test_convolution_of_every_geometry(geometry: dict[str, Any]) -> None:
    model = nn.Sequential(nn.Conv2d(3, 4, 1), nn.ReLU(), nn.Conv2d(4, 6, 3, **geometry), nn.Flatten(), nn.LazyLinear(2))
    images = torch.randn(2, 3, 9, 8, generator=torch.Generator().manual_seed(0))
    model(images)
    convert(model)
    set_precision(model, "low")
    bits = (model[1](model[0](images)) > 0).float()
    layer = model[2]
    assert isinstance(layer, BinaryConv2d)
    assert layer.bias is not None
    plain = nn.Conv2d(4, 6, 3, bias=False, **geometry)
    plain.weight.data = torch.where(layer.weight > 0, 1.0, -1.0)
    expected = plain(bits) * (3 * layer.scale) + layer.bias[:, None, None]
    torch.testing.assert_close(layer(3 * bits), expected)


def test_gradients_of_convolution() -> None:
    layer = place(nn.Conv2d(3, 4, 3, stride=2, padding=1), alpha=0.7)
    with torch.no_grad():
        layer.weight.mul_(8)
    x = (0.7 * torch.from_numpy(bits(2, 3, 5, 6)).float()).requires_grad_()
    output = layer(x)
    grad = randn(*output.shape, seed=1)
    output.backward(grad)
    assert x.grad is not None
    assert layer.weight.grad is not None
    assert layer.bias is not None
    assert layer.bias.grad is not None
    scaled_grad, signs = grad.double() * layer.scale.double(), torch.where(layer.weight > 0, 1.0, -1.0).double()
    expected = conv2d_input(x.shape, signs, scaled_grad, stride=2, padding=1)  # type: ignore[no-untyped-call]
    torch.testing.assert_close(x.grad, expected.float())
    expected = conv2d_weight(x.detach().double(), layer.weight.shape, scaled_grad, stride=2, padding=1)  # type: ignore[no-untyped-call]
    inside = layer.weight.abs() <= 1
    assert 0.1 < inside.float().mean() < 0.9
    torch.testing.assert_close(layer.weight.grad, torch.where(inside, expected.float(), 0))
    torch.testing.assert_close(layer.bias.grad, grad.sum((0, 2, 3)))


def test_the_scale_does_not_depend_on_threads() -> None:
    """Of more weights than one thread sums: `Tensor.mean` gives others in some of these cases."""
    before = torch.get_num_threads()
    try:
        for seed in range(20):
            layer, found = nn.Linear(512, 512), set()
            with torch.no_grad():
                layer.weight.copy_(randn(512, 512, seed=seed))
            for threads in (1, 2):
                torch.set_num_threads(threads)
                found.add(place(copy.deepcopy(layer), alpha=1.0).scale.item())
            assert len(found) == 1
    finally:
        torch.set_num_threads(before)


@pytest.mark.parametrize("network", NORMALIZED)
def test_scale_does_not_matter_before_batch_norm(network: object) -> None:
    """BatchNorm divides it out again; its eps, which would not scale along, is made small here."""
    results = []
    scales: list[Scale] = ["static", "none"]
    for scale in scales:
        model = build(network)
        convert(model)
        set_precision(model, "low", scale=scale)
        for module in model.modules():
            if isinstance(module, (nn.BatchNorm1d, nn.BatchNorm2d)):
                module.eps = 1e-12
                nn.init.normal_(
                    module.bias, generator=torch.Generator().manual_seed(1)
                )  # or many are 0 but for rounding
            if isinstance(module, BinaryActivation):
                nn.init.constant_(module.alpha, 0.8)
        x = randn(64, 6)
        results.append({"output": model(x).detach(), **gradients(model, x)})
    static, none = results
    assert static.keys() == none.keys()
    for name, expected in static.items():
        size = expected.norm()
        assert name.endswith(".bias") or size > 0.01
        if name.endswith(".bias") and size < 1e-3:
            continue  # a bias in front of BatchNorm has no gradient but for rounding
        assert (none[name] - expected).norm() <= 1e-5 * size, name
    assert len(static) > 8


# The switch


@pytest.mark.parametrize("network", NETWORKS)
def test_back_in_full_precision_nothing_has_changed(network: object) -> None:
    model = build(network, "full").eval()
    x = randn(30, 6)
    expected = model(x)
    set_precision(model, "low")
    assert not torch.allclose(model(x), expected)
    set_precision(model, "full")
    assert torch.equal(model(x), expected)


def test_entering_low_precision_freezes_scales_and_starts_alphas() -> None:
    model = build(plain_mlp, "full")
    (layer,) = weights(model)
    (activation,) = activations(model)
    assert layer.input_activation is activation
    nn.init.constant_(layer.weight, -0.25)
    nn.init.constant_(activation.alpha, 7.0)
    set_precision(model, "low")
    assert (layer.scale.item(), activation.alpha.item()) == (0.25, 3.0)
    assert (layer.precision, activation.precision) == ("low", "low")
    nn.init.constant_(layer.weight, 0.5)
    nn.init.constant_(activation.alpha, 2.0)
    set_precision(model, "low")  # it is there already
    assert (layer.scale.item(), activation.alpha.item()) == (0.25, 2.0)
    set_precision(model, "full")
    set_precision(model, "low")
    assert (layer.scale.item(), activation.alpha.item()) == (0.5, 3.0)
    set_precision(model, "full")
    set_precision(model, "low", scale="none")
    assert layer.scale.item() == 1.0
    assert layer.scale.shape == activation.alpha.shape == ()
    assert not layer.scale.requires_grad
    assert activation.alpha.requires_grad


def test_activations_are_bits_in_low_precision() -> None:
    model = build(fused_mlp, "low")
    seen = []
    for activation in activations(model):
        activation.register_forward_hook(lambda module, inputs, output: seen.append((module, output)))
    model(4 * randn(100, 6))
    assert len(seen) == 2
    for module, output in seen:
        assert set(output.unique().tolist()) == {0.0, module.alpha.item()}


@pytest.mark.parametrize("precision", ["full", "low"])
@pytest.mark.parametrize("network", NETWORKS)
def test_state_comes_back(network: object, precision: Precision) -> None:
    model = build(network, precision)
    model(randn(30, 6))
    for activation in activations(model):
        nn.init.constant_(activation.alpha, 1.3)
    other = build(network, precision)
    for parameter in other.parameters():
        nn.init.constant_(parameter, 0.7)
    other.load_state_dict(model.state_dict())
    assert torch.equal(other.eval()(randn(9, 6, seed=1)), model.eval()(randn(9, 6, seed=1)))


@pytest.mark.parametrize("network", NETWORKS)
def test_copies_are_independent(network: object) -> None:
    model = build(network, "low").eval()
    x = randn(30, 6)
    expected = model(x)
    copied = copy.deepcopy(model)
    assert torch.equal(copied(x), expected)
    mine = activations(copied)
    for layer in weights(copied):
        assert any(layer.input_activation is activation for activation in mine)
    for activation in mine:
        nn.init.constant_(activation.alpha, 0.1)
    assert not torch.allclose(copied(x), expected)
    set_precision(copied, "full")
    assert torch.equal(model(x), expected)


def test_switching_what_cannot_be_switched() -> None:
    model = plain_mlp()
    with pytest.raises(ValueError, match=r"^the model holds no binarizable layer; convert it first with .*convert$"):
        set_precision(model, "low")
    set_precision(model, "full")  # it is
    convert(model)
    with pytest.raises(ValueError, match=r"^precision is 'binary'; it must be 'full' or 'low'$"):
        set_precision(model, "binary")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"^scale is 'mean'; it must be 'static' or 'none'$"):
        set_precision(model, "low", scale="mean")  # type: ignore[arg-type]
    assert {m.precision for m in weights(model)} == {"full"}


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_diverged_weights(value: float) -> None:
    model = build(plain_mlp, "full")
    with torch.no_grad():
        model.get_parameter("2.weight")[3, 4] = value
    message = (
        r"^parameter 2\.weight holds values that are not finite, so it cannot be binarized; "
        r"training has diverged: lower the learning rate$"
    )
    with pytest.raises(ValueError, match=message):
        check_finite(model)
    with pytest.raises(ValueError, match=message):
        set_precision(model, "low")
    assert {m.precision for m in weights(model)} == {"full"}
    check_finite(nn.ParameterList([torch.zeros(0), torch.ones(2)]))


# Alpha


def test_alpha_penalty() -> None:
    model = build(fused_mlp)
    assert alpha_penalty(model) == 0.0
    convert(model)
    assert alpha_penalty(model) == 0.0
    set_precision(model, "low")
    first, second = activations(model)
    nn.init.constant_(second.alpha, -2.0)
    penalty = alpha_penalty(model)
    assert isinstance(penalty, Tensor)
    assert penalty.shape == ()
    assert penalty.item() == pytest.approx(2e-4 * (9 + 4), rel=1e-6)
    penalty.backward()  # type: ignore[no-untyped-call]
    assert first.alpha.grad is not None
    assert second.alpha.grad is not None
    assert first.alpha.grad.item() == pytest.approx(2 * 2e-4 * 3, rel=1e-6)
    assert second.alpha.grad.item() == pytest.approx(2 * 2e-4 * -2, rel=1e-6)


@pytest.mark.parametrize(("before", "after"), [(-1.0, 1e-3), (0.0, 1e-3), (5e-4, 1e-3), (1e-3, 1e-3), (2.5, 2.5)])
def test_clamping_keeps_alphas_positive(before: float, after: float) -> None:
    model = build(fused_mlp, "low")
    alphas = [activation.alpha for activation in activations(model)]
    nn.init.constant_(alphas[0], before)
    expected = {name: p.clone() for name, p in model.named_parameters() if p is not alphas[0]}
    clamp_alphas(model)
    assert alphas[0].item() == torch.tensor(after).item()
    assert all(torch.equal(p, expected[name]) for name, p in model.named_parameters() if p is not alphas[0])
