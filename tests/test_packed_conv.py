"""Packed convolutions against the simulated ones: every bit, every sum, every kind of geometry."""

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numba
import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ppt_core.bits.pack import pack_signs, unpack_bits, unpack_window_signs
from ppt_core.device import plain_operations
from ppt_core.errors import DataError
from ppt_core.layers import BinaryActivation, BinaryConv2d, set_precision
from ppt_core.packed.boundaries import boundary_inputs
from ppt_core.packed.chain import PackedChain, pack_chain
from ppt_core.packed.conv import PackBits, PackedConv2d, PackedMaxPool2d
from ppt_core.plan import convert

Layers = list[tuple[str, nn.Module]]


def network(*middle: nn.Module, n_in: int, n_out: int, batch_norm: bool = True, seed: int = 0) -> Layers:
    """A 1-bit activation, ``middle``, BatchNorm, 1-bit activation, 1-bit convolution: BatchNorm as it may become."""
    torch.manual_seed(seed)
    norm: list[nn.Module] = [nn.BatchNorm2d(n_out)] if batch_norm else []
    tail = nn.Conv2d(n_out, 3, 3, padding=1, bias=True)
    model = nn.Sequential(
        nn.Conv2d(2, n_in, 1), nn.ReLU(), *middle, *norm, nn.ReLU(), tail, nn.Flatten(), nn.LazyLinear(2)
    )
    images = torch.randn(4, 2, 9, 8)
    model(images)
    convert(model)
    set_precision(model, "low")
    with torch.no_grad():
        for module in model.modules():
            if isinstance(module, BinaryActivation):
                module.alpha.fill_(0.1 + torch.rand(()))
            elif isinstance(module, nn.Conv2d) and module.bias is not None:
                module.bias.copy_(torch.randn(module.out_channels))
        for _ in range(10):
            model.train()(torch.randn(4, 2, 9, 8))
        for module in model.modules():
            if isinstance(module, nn.BatchNorm2d):
                odd = torch.tensor([0.0, -0.0, 1e-30, -1e-6, -5.0])
                for tensor, values in ((module.weight, odd), (module.bias, torch.tensor([0.0, 20.0, -20.0]))):
                    values = torch.cat([torch.randn(4 * len(odd)), values])
                    tensor.copy_(values[torch.randint(len(values), tensor.shape)])
    return [(str(number), layer) for number, layer in enumerate(model.eval())][1:-2]


def inputs(n_channels: int) -> Tensor:
    """Real numbers of which few to most are set, with zeros among them."""
    x = torch.randn(6, n_channels, 9, 8, generator=torch.Generator().manual_seed(1))
    return (x + torch.linspace(-2, 2, 6)[:, None, None, None]) * (x > -2)


@pytest.mark.parametrize(
    ("n_in", "n_out", "kernel", "stride", "padding"),
    [
        (1, 1, 3, 1, 1),
        (3, 65, 3, 2, 1),
        (16, 16, 3, 1, 1),
        (21, 64, 3, (1, 2), (1, 0)),
        (32, 5, (1, 3), 1, (0, 2)),
        (64, 33, 3, 2, 1),
        (65, 130, 3, 1, 1),
        (130, 7, 1, 1, 0),
        (40, 12, 5, 3, 2),
    ],
    ids=str,
)
@pytest.mark.parametrize("batch_norm", [True, False])
def test_a_chain_equals_the_simulated_one(
    n_in: int, n_out: int, kernel: Any, stride: Any, padding: Any, batch_norm: bool
) -> None:
    convolution = nn.Conv2d(n_in, n_out, kernel, stride=stride, padding=padding, bias=not batch_norm)
    layers = network(convolution, n_in=n_in, n_out=n_out, batch_norm=batch_norm, seed=n_in)
    assert isinstance(convolution, BinaryConv2d)
    chain, simulated = pack_chain(layers), nn.Sequential(*(layer for _, layer in layers))
    x = inputs(n_in)
    n_threads = numba.get_num_threads()
    with torch.inference_mode():
        with plain_operations():
            expected = simulated(x)
            expected_bits = simulated[: 3 + batch_norm](x) > 0
        assert torch.equal(simulated(x), expected)
        try:
            for n in (1, n_threads):
                numba.set_num_threads(n)
                assert torch.equal(unpack_bits(chain[1](chain[0](x)), n_out), expected_bits)
                assert torch.equal(chain(x), expected)
        finally:
            numba.set_num_threads(n_threads)
        channels_last = x.contiguous(memory_format=torch.channels_last)
        assert torch.equal(chain(channels_last), expected)
        assert n_in == 1 or chain(channels_last).is_contiguous(memory_format=torch.channels_last)
        assert chain(x[:0]).shape == (0, *expected.shape[1:])
    assert 0 < expected_bits.float().mean() < 1 or n_out == 1


def test_large_images_in_blocks_of_rows() -> None:
    """Enough work to be shared among threads, each image in several parts, in the middle and at the end of a chain."""
    layers = network(nn.Conv2d(64, 70, 3, stride=(2, 1), padding=1, bias=False), n_in=64, n_out=70)
    chain, simulated = pack_chain(layers), nn.Sequential(*(layer for _, layer in layers))
    x = torch.randn(6, 64, 33, 30)
    n_threads = numba.get_num_threads()
    with torch.inference_mode():
        with plain_operations():
            expected, expected_bits = simulated(x), simulated[:4](x) > 0
        try:
            for n in (1, n_threads):
                numba.set_num_threads(n)
                assert torch.equal(unpack_bits(chain[1](chain[0](x)), 70), expected_bits)
                assert torch.equal(chain(x), expected)
        finally:
            numba.set_num_threads(n_threads)


def test_products_next_to_every_threshold() -> None:
    """Windows made up for each channel: one below, at and one above."""
    convolution = nn.Conv2d(24, 40, 3, bias=False)
    layers = network(convolution, n_in=24, n_out=40)
    packed = pack_chain(layers)[1]
    assert isinstance(packed, PackedConv2d)
    assert isinstance(convolution, BinaryConv2d)
    signs = unpack_window_signs(packed.signs.numpy(), packed.kernel_size, packed.in_channels)
    np.testing.assert_array_equal(signs, convolution.weight.detach().flatten(1) > 0)
    windows = boundary_inputs(signs, packed.thresholds.numpy())
    products = windows.astype(np.int64) @ np.where(signs, 1, -1).T
    n_met = [(products == packed.thresholds.numpy() + distance).any(axis=0).sum() for distance in (-1, 0, 1)]
    assert min(n_met) > 20
    images = torch.from_numpy(windows).float().view(-1, 24, 3, 3) * convolution.input_activation.alpha.detach()
    with torch.inference_mode():
        with plain_operations():
            expected = nn.Sequential(*(layer for _, layer in layers[1:4]))(images) > 0
        found = packed(PackBits(convolution.input_activation, name="")(images))
    assert torch.equal(unpack_bits(found, 40), expected)
    assert len({*packed.thresholds.clamp(-217, 218).tolist()} & {-216, 217}) == 2, "constant channels of both kinds"


@pytest.mark.parametrize(("kernel", "stride", "padding"), [(2, 2, 0), (3, 2, 1), (3, 1, 1)])
def test_max_pooling_is_an_or(kernel: int, stride: int, padding: int) -> None:
    bits = torch.rand(3, 70, 9, 8) < torch.tensor([0.1, 0.5, 0.9])[:, None, None, None]
    layer = nn.MaxPool2d(kernel, stride, padding)
    activation = network(nn.Conv2d(70, 2, 1), n_in=70, n_out=2)[0][1]
    assert isinstance(activation, BinaryActivation)
    found = PackedMaxPool2d(layer, name="pool")(PackBits(activation, name="")(bits * activation.alpha.detach()))
    assert torch.equal(unpack_bits(found, 70), layer(bits.float()) > 0)


def test_a_chain_with_pooling_between_bits() -> None:
    pooled = (nn.MaxPool2d(2), nn.Conv2d(16, 20, 3, padding=1, bias=False))
    layers = network(*pooled, n_in=16, n_out=20)
    chain = pack_chain(layers)
    assert [type(layer).__name__ for layer in chain] == [
        "PackBits", "PackedMaxPool2d", "PackedConv2d", "PackedProducts2d",
    ]  # fmt: skip
    with torch.inference_mode():
        assert torch.equal(chain(inputs(16)), nn.Sequential(*(layer for _, layer in layers))(inputs(16)))


def test_a_wrong_threshold_shows() -> None:
    layers = network(nn.Conv2d(16, 16, 3, padding=1, bias=False), n_in=16, n_out=16)
    chain = pack_chain(layers)
    with torch.inference_mode():
        expected = chain(inputs(16))
        chain[1].get_buffer("thresholds").add_(1)
        assert not torch.equal(chain(inputs(16)), expected)


def test_what_cannot_be_packed_is_refused() -> None:
    def refused(message: str, change: Any, **options: Any) -> None:
        convolution = nn.Conv2d(8, 8, 3, bias=False, **options)
        layers = network(convolution, n_in=8, n_out=8)
        change(layers)
        with pytest.raises(DataError, match=message) as raised:
            pack_chain(layers)
        assert "\n" not in str(raised.value)

    def keep(layers: Layers) -> None:
        pass

    refused("layer 2 has groups, dilation, or padding by name", keep, groups=2)
    refused("layer 2 has groups, dilation, or padding by name", keep, padding="same")
    refused("layer 2 has groups, dilation, or padding by name", keep, padding=1, padding_mode="reflect")
    refused(
        "layer 1 is no 1-bit activation in low precision", lambda layers: setattr(layers[0][1], "precision", "full")
    )
    refused("layer 2 computes in full precision", lambda layers: setattr(layers[1][1], "precision", "full"))
    refused("layer x is a GELU, which has no packed form", lambda layers: layers.insert(1, ("x", nn.GELU())))
    refused("layer 2 is 1-bit and its input is not", lambda layers: layers.pop(0))
    refused(
        "layer x pools with dilation", lambda layers: layers.insert(1, ("x", nn.MaxPool2d(2, ceil_mode=True)))
    )  # fmt: skip
    with pytest.raises(ValueError, match="is smaller than a window"):
        pack_chain(network(nn.Conv2d(8, 8, 3, bias=False), n_in=8, n_out=8))(torch.zeros(1, 8, 2, 9))


def test_32_bit_layers_of_a_chain_stay() -> None:
    layers = network(nn.Conv2d(8, 8, 3, bias=False), n_in=8, n_out=8)
    layers = [("first", nn.Conv2d(2, 8, 1)), *layers, ("norm", nn.BatchNorm2d(3).eval()), ("relu", nn.ReLU())]
    chain = pack_chain(layers)
    assert isinstance(chain, PackedChain)
    x = torch.randn(2, 2, 6, 6)
    with torch.inference_mode():
        assert torch.equal(chain(x), nn.Sequential(*(layer for _, layer in layers))(x))
        assert F.relu(chain(x)).equal(chain(x))


def test_a_processor_without_vector_instructions_computes_the_same(tmp_path: Path) -> None:
    """Compiled for the plainest processor, in a process of its own."""
    code = """if True:
        import sys
        import numpy as np
        from ppt_core.bits import _kernels
        with np.load(sys.argv[1], allow_pickle=False) as arrays:
            out = np.empty((3, 7, 7, 80), np.float32)
            bits, signs = arrays["bits"].view(np.int64), arrays["signs"].view(np.int64)
            _kernels.convolve(bits, 50, (3, 3, 1, 1, 1, 1), signs, None, None, np.float32(1), out)
        np.save(sys.argv[2], out[..., :70], allow_pickle=False)
    """
    rng = np.random.default_rng(0)
    bits, weight = rng.random((3, 50, 7, 7)) < 0.5, np.where(rng.random((70, 50, 3, 3)) < 0.5, -1, 1)
    activation = network(nn.Conv2d(50, 2, 1), n_in=50, n_out=2)[0][1]
    assert isinstance(activation, BinaryActivation)
    packed = PackBits(activation, name="")(torch.from_numpy(bits) * activation.alpha.detach()).numpy().view(np.uint64)
    rows = torch.from_numpy(weight).float().permute(2, 0, 3, 1).flatten(2)
    signs = np.stack([pack_signs(row) for row in rows])
    np.savez(tmp_path / "in.npz", bits=packed, signs=signs)
    environment = {
        **os.environ, "NUMBA_CPU_NAME": "generic", "NUMBA_CPU_FEATURES": "", "NUMBA_CACHE_DIR": str(tmp_path),
    }  # fmt: skip
    command = [sys.executable, "-c", code, str(tmp_path / "in.npz"), str(tmp_path / "out.npy")]
    subprocess.run(command, env=environment, cwd=Path(__file__).parent.parent, check=True)
    found = torch.from_numpy(np.load(tmp_path / "out.npy", allow_pickle=False)).permute(0, 3, 1, 2)
    expected = F.conv2d(torch.from_numpy(bits).float(), torch.from_numpy(weight).float(), padding=1)
    assert torch.equal(found, expected)
