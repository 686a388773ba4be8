"""Pack a trained image network in low precision: its own forward pass, over packed parts.

In a ResNet bits lie within each block: at its first convolution, and between the two. What leaves the second is real
again and is added to the shortcut (real numbers, or 0 and alpha, see `vision_ppt.resnet.ResNet`) by the same
operations as ever. All of a ResNet-20 but its last layers runs in one compiled call, see `vision_ppt.packed.resnet`.
In a VGG bits go from the first 1-bit activation to the last 1-bit convolution, max pooling included.
"""

import copy

from torch import Tensor, nn
from torch.nn import functional as F

from ppt_core.binarize import binarize_activation
from ppt_core.errors import DataError
from ppt_core.layers import BinaryConv2d, BinaryForkedReLU, check_finite
from ppt_core.packed.chain import PackedChain, pack_chain
from vision_ppt.packed.resnet import PackedResNet
from vision_ppt.resnet import ResNet
from vision_ppt.vgg import VGG

_BLOCK = ("relu1", "conv1", "bn1", "relu2", "conv2", "bn2")


def pack(network: ResNet | VGG) -> ResNet | VGG:
    """Return a packed copy of a network on a CPU: images in, logits out; it is for evaluation only.

    Equal to the simulated network bit for bit, logits included, where PyTorch computes the 32-bit layers by the same
    operations: see `ppt_core.packed.chain.pack_chain`.

    Raises `DataError`, naming the layer, for what cannot be packed, and ValueError for a network on another device.
    """
    if network.last.weight.device.type != "cpu":
        raise ValueError(f"the network is on {network.last.weight.device}; move it to the CPU to pack it")
    if not any(isinstance(module, BinaryConv2d) for module in network.modules()):
        raise DataError("the network holds no 1-bit layer, so there is nothing to pack; train one with split below 1")
    check_finite(network)
    if isinstance(network, VGG):
        packed = copy.deepcopy(network).eval().requires_grad_(False)
        layers = [(name, layer) for name, layer in packed.named_modules() if name.count(".") == 2]
        packed.groups = pack_chain(layers)
        return packed
    if type(network).forward is not ResNet.forward:
        raise DataError(f"the forward pass of a {type(network).__name__} is its own; pack a plain ResNet")
    packed_resnet = PackedResNet(network)
    for name, block in list(packed_resnet.named_modules()):
        if hasattr(block, "conv2"):
            chain = pack_chain([(f"{name}.{part}", block.get_submodule(part)) for part in _BLOCK])
            block.add_module("relu1", _PackedBranch(chain, block.relu1))
            for part in _BLOCK[1:]:
                block.add_module(part, nn.Identity())
    return packed_resnet


class _PackedBranch(nn.Module):
    """A packed branch in the place of the `ForkedReLU` that it begins with: its result, and the shortcut's input."""

    alpha: Tensor | None

    def __init__(self, chain: PackedChain, activation: BinaryForkedReLU) -> None:
        super().__init__()
        self.chain = chain
        is_binary = activation.shortcut_activation == "binary"
        self.register_buffer("alpha", activation.alpha.detach() if is_binary else None)

    def forward(self, input: Tensor) -> tuple[Tensor, Tensor]:
        """Map a sum to the branch's part of the next and to its own activation."""
        kept = F.relu(input) if self.alpha is None else binarize_activation(input, self.alpha)
        return self.chain(input), kept


def chains(packed: ResNet | VGG) -> dict[str, PackedChain]:
    """The packed chains of a network by name."""
    return {name: module for name, module in packed.named_modules() if isinstance(module, PackedChain)}
