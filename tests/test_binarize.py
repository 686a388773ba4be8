import numba
import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays
from torch import Tensor
from torch.nn import functional as F

from ppt_core.binarize import binarize_activation, binarize_and_rectify, binarize_weight
from tests import reference

DTYPES = [np.float32, np.float64]
SHAPES = [(), (7,), (5, 4), (2, 3, 4, 5), (0,), (0, 3), (3, 0), (2, 0, 4, 4)]


def edges(alpha: float, dtype: type) -> reference.Floats:
    """Every value at which a comparison could go the other way, its two neighbours, and values in between."""
    corners = [0.0, -0.0, alpha / 2, alpha, -1.0, 1.0, 0.5, -0.5]
    exact: reference.Floats = np.array(corners, dtype)
    around = [exact, np.nextafter(exact, dtype(-np.inf)), np.nextafter(exact, dtype(np.inf))]
    rest: reference.Floats = np.array([np.nan, np.inf, -np.inf, 2 * alpha, -2 * alpha, 0.7 * alpha, 1e-40], dtype)
    return np.concatenate([*around, rest])


def filled(shape: tuple[int, ...], values: reference.Floats) -> reference.Floats:
    return np.resize(values, shape).astype(values.dtype)


def gradients(shape: tuple[int, ...], dtype: type) -> reference.Floats:
    # Small integers: their sum is exact in every order.
    return np.random.default_rng(0).integers(-9, 10, shape).astype(dtype)


def check_activation(x: reference.Floats, alpha: float, grad: reference.Floats) -> None:
    # From a list, since NumPy turns an array of shape () into a scalar.
    inputs = torch.from_numpy(np.array(x)).requires_grad_()
    level = torch.tensor(alpha, dtype=inputs.dtype, requires_grad=True)
    output = binarize_activation(inputs, level)
    output.backward(torch.from_numpy(np.array(grad)))  # type: ignore[no-untyped-call]
    expected, expected_grad, expected_alpha = reference.binarize_activation(x, level.item(), grad)
    assert inputs.grad is not None
    assert level.grad is not None
    assert output.shape == inputs.grad.shape == x.shape
    assert level.grad.shape == ()
    assert output.dtype == inputs.grad.dtype == level.grad.dtype == inputs.dtype
    np.testing.assert_array_equal(output.detach().numpy(), expected)
    np.testing.assert_array_equal(inputs.grad.numpy(), expected_grad)
    assert level.grad.item() == expected_alpha


def check_with_real(x: Tensor, grads: tuple[Tensor, Tensor], used: tuple[bool, bool]) -> None:
    """Both outputs, or one of them, against the two operations one by one: equal bit for bit."""
    results = []
    for together in (True, False):
        inputs = x.detach().requires_grad_()
        level = torch.tensor(0.5, dtype=x.dtype, requires_grad=True)
        if together:
            outputs = binarize_and_rectify(inputs, level)
        else:
            outputs = binarize_activation(inputs, level), F.relu(inputs)
        torch.autograd.backward(
            [output for output, use in zip(outputs, used, strict=True) if use],
            [grad for grad, use in zip(grads, used, strict=True) if use],
        )
        level_grad = torch.zeros_like(level) if level.grad is None else level.grad
        results.append((*outputs, inputs.grad, level_grad))
    for found, expected in zip(*results, strict=True):
        assert found is not None
        assert expected is not None
        np.testing.assert_array_equal(found.detach().numpy(), expected.detach().numpy())


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("used", [(True, True), (True, False), (False, True)])
def test_bits_and_relu_in_one(dtype: type, used: tuple[bool, bool]) -> None:
    corners = torch.from_numpy(edges(0.5, dtype))
    grads = torch.from_numpy(gradients((2, len(corners)), dtype))
    check_with_real(corners, (grads[0], grads[1]), used)
    torch.manual_seed(0)
    images = torch.randn(3, 5, 40, 50, dtype=corners.dtype).contiguous(memory_format=torch.channels_last)
    check_with_real(images, (torch.ones_like(images), torch.randn(images.shape, dtype=images.dtype)), used)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("alpha", [3.0, 1.0, 0.1, 0.001])
def test_activation_at_its_corners(alpha: float, dtype: type) -> None:
    alpha = float(dtype(alpha))
    x = edges(alpha, dtype)
    check_activation(x, alpha, gradients(x.shape, dtype))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", SHAPES)
def test_activation_of_every_shape(shape: tuple[int, ...], dtype: type) -> None:
    check_activation(filled(shape, edges(3.0, dtype)), 3.0, gradients(shape, dtype))


@given(
    x=arrays(np.float32, array_shapes(max_dims=3), elements=st.floats(-5, 5, width=32)),
    alpha=st.floats(0.0009765625, 4, width=32),
)
def test_activation_of_anything(x: reference.Floats, alpha: float) -> None:
    check_activation(x, alpha, gradients(x.shape, np.float32))


def test_activation_known_answer() -> None:
    x = torch.tensor([-1.0, 0.0, 1.0, 1.5, 1.6, 3.0, 4.0, float("nan")], requires_grad=True)
    alpha = torch.tensor(3.0, requires_grad=True)
    output = binarize_activation(x, alpha)
    (output * torch.arange(1.0, 9)).sum().backward()  # type: ignore[no-untyped-call]
    assert output.tolist() == [0, 0, 0, 0, 3, 3, 3, 0]
    assert x.grad is not None
    assert alpha.grad is not None
    assert x.grad.tolist() == [0, 2, 3, 4, 5, 6, 0, 0]
    assert alpha.grad.item() == 6 + 7


@pytest.mark.parametrize("shape", [(100_000,), (1, 100_000), (3, 70_000), (2048, 37), (4, 3, 150, 150)])
def test_alpha_gradient_does_not_depend_on_threads(shape: tuple[int, ...]) -> None:
    generator = torch.Generator().manual_seed(0)
    x, grad = (torch.randn(shape, generator=generator) for _ in range(2))
    if len(shape) == 4:
        x, grad = (t.contiguous(memory_format=torch.channels_last) for t in (x, grad))
    found, before = [], (torch.get_num_threads(), numba.get_num_threads())
    try:
        for n in (1, 2, 3, 5):
            torch.set_num_threads(n)
            numba.set_num_threads(min(n, before[1]))
            alpha = torch.tensor(0.5, requires_grad=True)
            binarize_activation(x, alpha).backward(grad)  # type: ignore[no-untyped-call]
            assert alpha.grad is not None
            found.append(alpha.grad.item())
    finally:
        torch.set_num_threads(before[0])
        numba.set_num_threads(before[1])
    assert set(found) == {found[0]}
    assert found[0] == pytest.approx(grad.double()[x >= 0.5].sum().item(), abs=1e-2)


def test_activation_in_any_order_in_memory() -> None:
    generator = torch.Generator().manual_seed(0)
    shape = (3, 5, 7, 4)
    # Channels last, transposed, a part of something larger, and one value for all: the kernels read none as it is.
    orders = [
        torch.randn(shape, generator=generator),
        torch.randn(shape, generator=generator).contiguous(memory_format=torch.channels_last),
        torch.randn(shape[::-1], generator=generator).permute(3, 2, 1, 0),
        torch.randn(3, 9, 7, 8, generator=generator)[:, 2:7, :, ::2],
        torch.randn(3, 1, 7, 1, generator=generator).expand(shape),
    ]
    for x in orders:
        for grad in orders:
            inputs, alpha = x.detach().requires_grad_(), torch.tensor(0.8, requires_grad=True)
            output = binarize_activation(inputs, alpha)
            output.backward(grad)  # type: ignore[no-untyped-call]
            assert inputs.grad is not None
            assert alpha.grad is not None
            assert torch.equal(output, torch.where(x > 0.4, 0.8, 0.0))
            assert torch.equal(inputs.grad, torch.where((x >= 0) & (x <= 0.8), grad, 0.0))
            torch.testing.assert_close(alpha.grad, grad[x >= 0.8].sum())


def check_weight(weight: reference.Floats, grad: reference.Floats) -> None:
    latent = torch.from_numpy(np.array(weight)).requires_grad_()
    output = binarize_weight(latent)
    output.backward(torch.from_numpy(np.array(grad)))  # type: ignore[no-untyped-call]
    expected, expected_grad = reference.binarize_weight(weight, grad)
    assert latent.grad is not None
    assert output.shape == latent.grad.shape == weight.shape
    assert output.dtype == latent.grad.dtype == latent.dtype
    np.testing.assert_array_equal(output.detach().numpy(), expected)
    np.testing.assert_array_equal(latent.grad.numpy(), expected_grad)


@pytest.mark.parametrize("dtype", DTYPES)
def test_weight_at_its_corners(dtype: type) -> None:
    weight = edges(3.0, dtype)
    check_weight(weight, gradients(weight.shape, dtype))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", SHAPES)
def test_weight_of_every_shape(shape: tuple[int, ...], dtype: type) -> None:
    check_weight(filled(shape, edges(3.0, dtype)), gradients(shape, dtype))


@given(weight=arrays(np.float32, array_shapes(max_dims=3), elements=st.floats(-2, 2, width=32)))
def test_weight_of_anything(weight: reference.Floats) -> None:
    check_weight(weight, gradients(weight.shape, np.float32))


def test_weight_known_answer() -> None:
    weight = torch.tensor([-1.5, -1.0, -0.0, 0.0, 1e-30, 1.0, 1.5, float("nan")], requires_grad=True)
    output = binarize_weight(weight)
    (output * torch.arange(1.0, 9)).sum().backward()  # type: ignore[no-untyped-call]
    assert output.tolist() == [-1, -1, -1, -1, 1, 1, 1, -1]
    assert weight.grad is not None
    assert weight.grad.tolist() == [0, 2, 3, 4, 5, 6, 0, 0]
