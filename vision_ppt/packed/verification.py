"""The proof that a packed image network computes what the trained one does."""

from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from ppt_core.bits.pack import unpack_bits, unpack_window_signs
from ppt_core.device import plain_operations
from ppt_core.errors import DataError
from ppt_core.layers import BinaryConv2d
from ppt_core.packed.boundaries import boundary_inputs
from ppt_core.packed.conv import (
    PackBits,
    PackedConv2d,
    PackedMaxPool2d,
    PackedProducts2d,
)
from vision_ppt.packed.packing import chains
from vision_ppt.packed.resnet import module_by_module
from vision_ppt.resnet import ResNet
from vision_ppt.vgg import VGG

_PACKED = (PackBits, PackedConv2d, PackedMaxPool2d, PackedProducts2d)
_WINDOWS = 256  # at a time
_ALL_DENSITIES = 1024  # inputs of a window up to which every density is tried


@dataclass(frozen=True, kw_only=True)
class Verification:
    """What was compared and found equal, all of it.

    Attributes:
        n_images: images put through both networks.
        compared_bits: bits of packed layers on these images.
        compared_sums: real numbers that packed layers gave on these images.
        compared_logits: logits of these images.
        boundary_bits: bits on made-up inputs, products next to their thresholds among them.
    """

    n_images: int
    compared_bits: int
    compared_sums: int
    compared_logits: int
    boundary_bits: int

    def to_dict(self) -> dict[str, Any]:
        """The attributes as JSON values."""
        return asdict(self)


def verify(packed: ResNet | VGG, network: ResNet | VGG, images: Tensor) -> Verification:
    """Compare a packed network with the network it was packed from.

    Every bit that a packed layer gives, every real number and every logit must be equal, the logits also with all
    in one call, and of the first image alone.

    Args:
        packed: made by `vision_ppt.packed.packing.pack`.
        network: the same network; it is evaluated in evaluation mode and put back into the mode it was in.
        images: normalized, float (n, 3, height, width).

    Raises `DataError` naming the first layer that differs.
    """
    was_training = network.training
    network.eval()
    layers = [layer for chain in chains(packed).values() for layer in chain if isinstance(layer, _PACKED)]
    try:
        with torch.inference_mode():
            boundary_bits = sum(
                _compare_boundaries(layer, network) for layer in layers if isinstance(layer, PackedConv2d)
            )
            names = [layer.names[-1] for layer in layers]
            with plain_operations():  # the simulated network may count bits, too: here it sums floats
                alone = network(images[:1])
                expected, logits = _outputs(network, {name: network.get_submodule(name) for name in names}, images)
            with module_by_module(packed):
                found, packed_logits = _outputs(packed, dict(zip(names, layers, strict=True)), images)
            n_bits = n_sums = 0
            for name in names:
                if found[name].dtype == torch.int64:
                    _compare(expected[name] > 0, unpack_bits(found[name], expected[name].shape[1]), name)
                    n_bits += expected[name].numel()
                else:
                    _compare(expected[name], found[name], name)
                    n_sums += expected[name].numel()
            _compare(logits, packed_logits, "last")
            _compare(logits, packed(images), "last")  # as it is used: in one call
            _compare(alone, packed(images[:1]), "last")  # PyTorch adds in another order
    finally:
        network.train(was_training)
    return Verification(
        n_images=len(images),
        compared_bits=n_bits,
        compared_sums=n_sums,
        compared_logits=logits.numel(),
        boundary_bits=boundary_bits,
    )


def _outputs(network: nn.Module, layers: dict[str, nn.Module], images: Tensor) -> tuple[dict[str, Tensor], Tensor]:
    """What some layers give, and the logits."""
    outputs: dict[str, Tensor] = {}

    def keep(name: str) -> Any:
        # A `ForkedReLU` gives the branch's input first.
        return lambda module, inputs, output: outputs.__setitem__(
            name, output[0] if isinstance(output, tuple) else output
        )

    handles = [layer.register_forward_hook(keep(name)) for name, layer in layers.items()]
    try:
        logits: Tensor = network(images)
    finally:
        for handle in handles:
            handle.remove()
    return outputs, logits


def _compare_boundaries(packed: PackedConv2d, network: nn.Module) -> int:
    """Compare a layer on made-up windows, alone in an image; return the number of bits."""
    layer = network.get_submodule(packed.names[0])
    assert isinstance(layer, BinaryConv2d)
    simulated = nn.Sequential(*(network.get_submodule(name) for name in packed.names))
    signs = unpack_window_signs(packed.signs.numpy(), packed.kernel_size, packed.in_channels)
    flips = np.where(packed.thresholds.numpy() > signs.shape[1], 0, packed.thresholds.numpy())
    windows = boundary_inputs(signs, flips, all_densities=signs.shape[1] <= _ALL_DENSITIES)
    kernel, stride, padding = packed.kernel_size, packed.stride, packed.padding
    first = [
        -(-padding[axis] // stride[axis]) * stride[axis] - padding[axis] for axis in (0, 1)
    ]  # a window's own place
    alpha = layer.input_activation.alpha
    n_bits = 0
    for start in range(0, len(windows), _WINDOWS):
        block = torch.from_numpy(windows[start : start + _WINDOWS]).float()
        images = torch.zeros(len(block), layer.in_channels, first[0] + kernel[0], first[1] + kernel[1])
        images[:, :, first[0] :, first[1] :] = block.view(len(block), layer.in_channels, *kernel)
        with plain_operations():
            expected = simulated(images * alpha) > 0
        found = unpack_bits(packed(PackBits(layer.input_activation, name="")(images * alpha)), packed.out_channels)
        _compare(expected, found, packed.names[0])
        n_bits += expected.numel()
    return n_bits


def _compare(simulated: Tensor, packed: Tensor, name: str) -> None:
    differing = simulated != packed
    if differing.any():
        place = tuple(differing.nonzero()[0].tolist())
        raise DataError(
            f"{int(differing.sum())} numbers behind layer {name} differ from the simulated network, the first at "
            f"{place}; do not use this packed network, and report it"
        )
