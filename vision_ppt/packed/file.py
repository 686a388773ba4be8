"""A packed image network as one self-contained file: safetensors, sealed, with its classes and provenance."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from ppt_core.errors import DataError
from ppt_core.layers import set_precision
from ppt_core.plan import convert
from ppt_core.runs.checkpoint import load_tensors, save_tensors
from ppt_core.runs.files import refuse_existing
from vision_ppt.networks import NetworkConfig, build_network
from vision_ppt.packed.packing import pack
from vision_ppt.resnet import ResNet
from vision_ppt.vgg import VGG

KIND = "packed image network"
FORMAT_VERSION = 1


@dataclass(frozen=True, kw_only=True, eq=False)
class PackedImageNetwork:
    """A packed network and what it is for.

    Attributes:
        network: images in, logits out.
        config: what it was built by.
        class_names: name of each logit.
        provenance: where it comes from, as JSON values.
    """

    network: ResNet | VGG
    config: NetworkConfig
    class_names: tuple[str, ...]
    provenance: dict[str, Any]

    @property
    def nbytes(self) -> int:
        """Bytes of all tensors."""
        return sum(tensor.numel() * tensor.element_size() for tensor in self.network.state_dict().values())


def save_packed(packed: PackedImageNetwork, path: Path) -> None:
    """Write the new file ``path``; its bytes depend on the arguments alone. Raises `DataError` if it exists."""
    refuse_existing(path)
    metadata = {
        "kind": KIND,
        "packed_version": FORMAT_VERSION,
        "network": packed.config.to_dict(),
        "class_names": list(packed.class_names),
        "provenance": packed.provenance,
    }
    save_tensors(path, packed.network.state_dict(), metadata, new=True)


def load_packed(path: Path) -> PackedImageNetwork:
    """Read what `save_packed` wrote.

    Raises `DataError` if the file is missing, is no packed image network, was changed, has another format version, or
    holds parts that do not fit each other.
    """
    tensors, metadata = load_tensors(path)
    if metadata.get("kind") != KIND:
        raise DataError(f"{path} holds no packed image network; make one with `ppt-vision pack RUN --out FILE`")
    if metadata["packed_version"] != FORMAT_VERSION:
        raise DataError(
            f"{path} is a packed network of version {metadata['packed_version']} and this version of ppt-ncf reads "
            f"{FORMAT_VERSION}; pack the run again"
        )
    try:
        config = NetworkConfig(**metadata["network"])
        shell = build_network(config, seed=0)
        convert(shell)
        set_precision(shell, "low")
        network = pack(shell)
        wanted = {name: (tensor.dtype, tensor.shape) for name, tensor in network.state_dict().items()}
        if wanted != {name: (tensor.dtype, tensor.shape) for name, tensor in tensors.items()}:
            raise ValueError("its tensors are not those of the network")
        network.load_state_dict(tensors)
        class_names, provenance = tuple(metadata["class_names"]), metadata["provenance"]
    except (LookupError, ValueError, TypeError, RuntimeError) as error:
        raise DataError(f"{path} is a damaged packed network ({' '.join(str(error).split())}); pack it again") from None
    return PackedImageNetwork(
        network=network.eval().requires_grad_(False), config=config, class_names=class_names, provenance=provenance
    )


def float32_bytes(network: torch.nn.Module) -> int:
    """Bytes of all parameters and running statistics at 32 bits."""
    return sum(4 * tensor.numel() for tensor in network.state_dict().values() if tensor.is_floating_point())
