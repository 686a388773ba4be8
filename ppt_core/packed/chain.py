"""A chain of layers with its 1-bit part on bits: real numbers in, real numbers out."""

from collections.abc import Callable
from typing import cast

from torch import Tensor, nn

from ppt_core.bits.conv import in_layout_of
from ppt_core.errors import DataError
from ppt_core.layers import BinaryActivation, BinaryConv2d, BinaryForkedReLU, BinaryReLU
from ppt_core.packed.conv import PackBits, PackedConv2d, PackedMaxPool2d, PackedProducts2d


class PackedChain(nn.Sequential):
    """What `pack_chain` makes: layers of PyTorch around packed ones; float in, float out, in the input's layout."""

    def forward(self, input: Tensor) -> Tensor:
        """Map float32 (n, channels, height, width), of any layout, through all layers."""
        return in_layout_of(input, super().forward(input))  # type: ignore[no-untyped-call]


def pack_chain(layers: list[tuple[str, nn.Module]]) -> PackedChain:
    """Pack layers that feed each other in this order, with their names, in low precision and evaluation mode.

    ====================================================  =============================================================
    a 1-bit activation of real numbers                    `PackBits`
    a 1-bit Conv2d, BatchNorm or not, 1-bit activation    one `PackedConv2d`: integer thresholds
    a max pooling between bits                            `PackedMaxPool2d`: or
    a 1-bit Conv2d that feeds anything else               `PackedProducts2d`, then PyTorch's own layers
    ====================================================  =============================================================

    Every layer that takes bits gets those of the simulated network, and every real number is computed by the same
    operations: the chain equals the simulated one bit for bit, given the same input.

    Raises `DataError`, naming the layer, for what cannot be packed.
    """
    packed: list[nn.Module] = []
    on_bits = False
    number = 0
    while number < len(layers):
        name, layer = layers[number]
        number += 1
        if isinstance(layer, BinaryActivation):
            _check_activation(layer, name)
            packed.append(PackBits(layer, name=name))
            on_bits = True
        elif isinstance(layer, BinaryConv2d):
            if not on_bits:
                raise DataError(f"layer {name} is 1-bit and its input is not; it cannot be packed")
            followers = layers[number : number + 2]
            n_followers = 2 if followers and isinstance(followers[0][1], nn.BatchNorm2d) else 1
            followers = followers[:n_followers]
            if len(followers) == n_followers and isinstance(followers[-1][1], BinaryActivation):
                _check_activation(followers[-1][1], followers[-1][0])
                activation = cast(Callable[[Tensor], Tensor], nn.Sequential(*(module for _, module in followers)))
                names = (name, *(follower for follower, _ in followers))
                packed.append(PackedConv2d(layer, activation, names=names))
                number += n_followers
            else:
                packed.append(PackedProducts2d(layer, name=name))
                on_bits = False
        elif on_bits and isinstance(layer, nn.MaxPool2d):
            packed.append(PackedMaxPool2d(layer, name=name))
        elif on_bits:
            raise DataError(f"layer {name} is a {type(layer).__name__}, which has no packed form between 1-bit layers")
        else:
            packed.append(layer)
    return PackedChain(*packed)


def _check_activation(layer: BinaryActivation, name: str) -> None:
    if not isinstance(layer, (BinaryReLU, BinaryForkedReLU)) or layer.precision == "full":
        raise DataError(
            f"layer {name} is no 1-bit activation in low precision; train the network to the end of its low-precision "
            "phase first"
        )
