from collections.abc import Callable, Iterable
from itertools import pairwise

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from ppt_core.batch_norm import BatchNormReLU
from ppt_core.bits.pack import pack_rows, unpack_signs
from ppt_core.errors import DataError
from ppt_core.layers import BinaryActivation, BinaryLinear, BinaryReLU, set_precision
from ppt_core.packed.linear import pack_linear, pack_relu_linear
from ppt_core.packed.thresholds import float_thresholds, integer_thresholds, read_thresholds
from ppt_core.plan import convert

WIDTHS = [1, 63, 64, 65, 127, 256]
ODD_WEIGHTS = [0.0, -0.0, 1e-30, -1e-30, 1e-6, -1e-6, -1.0, 30.0]
ODD_BIASES = [0.0, 1.5, -1e4, 1e4, 1e-3]


def network(width: int, n_channels: int, *, batch_norm: bool = True, seed: int = 0) -> nn.Sequential:
    """Linear, 1 bit, 1-bit Linear, 1 bit, 1-bit Linear, ReLU, Linear: in low precision, BatchNorm as it may become."""
    torch.manual_seed(seed)
    activation = BatchNormReLU if batch_norm else lambda width: nn.ReLU()
    widths = [4, width, n_channels, 7]
    layers = [
        layer
        for n_in, n_out in pairwise(widths)
        for layer in (nn.Linear(n_in, n_out, bias=not batch_norm), activation(n_out))
    ]
    model = nn.Sequential(*layers, nn.Linear(7, 1))
    convert(model)
    set_precision(model, "low")
    with torch.no_grad():
        for module in model.modules():
            if isinstance(module, BinaryActivation):
                module.alpha.fill_(0.1 + torch.rand(()))
            elif isinstance(module, nn.Linear) and module.bias is not None:
                module.bias.copy_(torch.randn(module.out_features))
        for _ in range(20):
            model.train()(3 * torch.randn(64, 4))  # gives BatchNorm its statistics
        for module in model.modules():
            if isinstance(module, BatchNormReLU):
                for tensor, odd in ((module.weight, ODD_WEIGHTS), (module.bias, ODD_BIASES)):
                    values = torch.cat([torch.randn(3 * len(odd)), torch.tensor(odd)])
                    tensor.copy_(values[torch.randint(len(values), tensor.shape)])
    return model.eval()


def bit_rows(n: int, width: int) -> NDArray[np.int64]:
    """Rows of all densities, zeros and ones among them."""
    return (np.random.default_rng(0).random((n, width)) < np.linspace(0, 1, n)[:, None]).astype(np.int64)


def simulated_bits(model: nn.Sequential, bits: NDArray[np.int64]) -> NDArray[np.bool_]:
    """Bits behind the first 1-bit layer by the network itself."""
    with torch.no_grad():
        found: NDArray[np.bool_] = (model[3](model[2](scaled(model, 1, bits))) > 0).numpy()
    return found


def scaled(model: nn.Sequential, activation: int, bits: NDArray[np.int64]) -> Tensor:
    """Bits as an activation gives them: 0 or alpha."""
    layer = model[activation]
    assert isinstance(layer, BinaryActivation)
    return torch.from_numpy(bits).float() * layer.alpha.detach()


@pytest.mark.parametrize("batch_norm", [True, False])
@pytest.mark.parametrize("width", WIDTHS)
def test_thresholds_decide_as_the_modules_do(width: int, batch_norm: bool) -> None:
    model = network(width, 70, batch_norm=batch_norm, seed=width)
    layer = model[2]
    assert isinstance(layer, BinaryLinear)
    thresholds = integer_thresholds(layer, model[3], name="2")
    assert thresholds.values.dtype == np.int32
    bits = np.concatenate([bit_rows(100, width), np.tri(width + 1, width, -1, dtype=np.int64)])
    products = bits @ np.where(layer.weight.detach().numpy() > 0, 1, -1).T
    found = (products >= thresholds.values) != thresholds.flipped
    np.testing.assert_array_equal(found, simulated_bits(model, bits))


@pytest.mark.parametrize("width", WIDTHS)
def test_packed_layer_equals_the_simulated_one(width: int, one_and_two_threads: Iterable[int]) -> None:
    model = network(width, 67, seed=width)
    packed = pack_linear(model[2], model[3], name="2")
    assert (packed.in_features, packed.out_features) == (width, 67)
    bits = bit_rows(300, width)
    products = bits @ np.where(unpack_signs(packed.signs, width), 1, -1).T
    found = (products >= packed.thresholds.values) != packed.thresholds.flipped
    np.testing.assert_array_equal(found, simulated_bits(model, bits))
    for n in one_and_two_threads:
        np.testing.assert_array_equal(packed(pack_rows(bits > 0)), pack_rows(found), f"{n} threads")


def test_every_kind_of_channel_occurs() -> None:
    model = network(64, 1000)
    layer = model[2]
    assert isinstance(layer, BinaryLinear)
    thresholds = integer_thresholds(layer, model[3], name="2")
    always = (thresholds.values == -64) & ~thresholds.flipped
    never = (thresholds.values == 65) & ~thresholds.flipped
    rising = ~always & ~never & ~thresholds.flipped
    assert min(kind.sum() for kind in (always, never, rising, thresholds.flipped)) > 20


def plain_layer(alpha: float) -> tuple[BinaryLinear, BinaryReLU]:
    """A 1-bit layer of 4 inputs without scale and bias, inputs 0 or 1, and an activation of this alpha."""
    model = nn.Sequential(
        nn.Linear(1, 4), nn.ReLU(), nn.Linear(4, 1, bias=False), nn.ReLU(), nn.Linear(1, 1), nn.ReLU(), nn.Linear(1, 1)
    )
    convert(model)
    set_precision(model, "low", scale="none")
    layer, activation = model[2], model[3]
    assert isinstance(layer, BinaryLinear)
    assert isinstance(activation, BinaryReLU)
    nn.init.constant_(layer.input_activation.alpha, 1)
    nn.init.constant_(activation.alpha, alpha)
    return layer, activation


def test_known_thresholds() -> None:
    # The bit is set above alpha / 2, strictly.
    for alpha, threshold in ((4.0, 3), (3.999, 2), (5.0, 3), (9.0, 5)):
        found = integer_thresholds(*plain_layer(alpha), name="layer")
        assert found.values.tolist() == [threshold]
        assert found.flipped.tolist() == [False]


def test_known_float_threshold() -> None:
    _, activation = plain_layer(3.0)
    found = float_thresholds(activation, 2)
    assert found.values.tolist() == [np.nextafter(np.float32(1.5), np.float32(2))] * 2
    assert not found.flipped.any()


def test_thresholds_are_read_off_a_table() -> None:
    columns = ["0001", "0000", "1111", "1110", "1000", "0111"]
    bits = torch.tensor([[int(bit) for bit in column] for column in columns]).t().bool()
    found = read_thresholds(bits, first=-1, name="layer")
    assert found.values.tolist() == [2, 3, -1, 2, 0, 0]
    assert found.flipped.tolist() == [False, False, False, True, True, False]


@pytest.mark.parametrize("batch_norm", [True, False])
def test_float_thresholds_decide_as_the_module_does(batch_norm: bool) -> None:
    n = 400
    activation = network(n, 5, batch_norm=batch_norm)[1]
    thresholds = float_thresholds(activation, n)
    assert thresholds.values.dtype == np.float32
    assert np.isfinite(thresholds.values).any()
    assert not batch_norm or not np.isfinite(thresholds.values).all()
    near = np.where(np.isfinite(thresholds.values), thresholds.values, np.float32(0))
    largest = np.finfo(np.float32).max
    values = [near, *(np.nextafter(near, np.float32(side)) for side in (-np.inf, np.inf))]
    values += [np.full(n, value, np.float32) for value in (0, -0.0, 1e-45, -1e-45, largest, -largest)]
    values += list((np.random.default_rng(0).standard_normal((50, n)) * 3).astype(np.float32))
    sums = np.stack(values)
    with torch.no_grad():
        expected = (activation(torch.from_numpy(sums)) > 0).numpy()
    np.testing.assert_array_equal((sums >= thresholds.values) != thresholds.flipped, expected)


def test_what_is_no_comparison_is_refused() -> None:
    layer, _ = plain_layer(1.0)
    with pytest.raises(DataError, match=r"^channel 0 of layer mlp\.1 switches 2 times .* cannot be packed$"):
        integer_thresholds(layer, lambda x: (x.abs() > 1).float(), name="mlp.1")


@pytest.mark.parametrize("batch_norm", [True, False])
def test_packed_units_are_the_simulated_ones_up_to_rounding(batch_norm: bool) -> None:
    model = network(5, 65, batch_norm=batch_norm)
    packed = pack_relu_linear(model[4], model[5], name="4", activation_name="5")
    bits = bit_rows(200, 65)
    weight = model[4].weight
    assert isinstance(weight, Tensor)
    products = bits @ np.where(weight.detach().numpy() > 0, 1, -1).T
    found = np.maximum(products * packed.gains + packed.offsets, 0)
    with torch.no_grad():
        expected = model[5](model[4](scaled(model, 3, bits))).numpy()
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-5)


class Leaky(BatchNormReLU):
    pass


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda model: (nn.Linear(5, 5), model[3]), "layer 2 is a Linear, which has no packed form"),
        (lambda model: (nn.GELU(), model[3]), "layer 2 is a GELU"),
    ],
)
def test_other_layers_are_refused(change: Callable[[nn.Sequential], tuple[nn.Module, nn.Module]], message: str) -> None:
    with pytest.raises(DataError, match=f"^{message}"):
        pack_linear(*change(network(5, 5)), name="2")


def test_full_precision_is_refused() -> None:
    model = network(5, 5)
    set_precision(model, "full")
    with pytest.raises(DataError, match=r"^layer 2 computes in full precision; train"):
        pack_linear(model[2], model[3], name="2")


def test_other_units_are_refused() -> None:
    model = network(5, 5)
    for other in (nn.GELU(), model[3], Leaky(7)):
        with pytest.raises(DataError, match=f"^layer 5 is a {type(other).__name__}; behind the last 1-bit layer"):
            pack_relu_linear(model[4], other, name="4", activation_name="5")
    changed = BatchNormReLU(7)  # in training mode it normalizes by the batch
    with pytest.raises(DataError, match=r"^layer 5 is no BatchNorm and ReLU of its input"):
        pack_relu_linear(model[4], changed, name="4", activation_name="5")
