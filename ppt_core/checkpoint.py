"""Tensors on disk: safetensors files that check themselves, and the state of an interrupted training."""

import hashlib
import json
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load as parse_tensors
from safetensors.torch import save as serialize_tensors
from torch import Tensor, nn

from ppt_core.errors import DataError
from ppt_core.files import replaced_file

FORMAT_VERSION = 1
_NO_DIGEST = "0" * 64


def save_tensors(path: Path, tensors: dict[str, Tensor], metadata: dict[str, Any]) -> None:
    """Write tensors and JSON metadata as one safetensors file, replacing ``path`` when complete.

    The bytes depend on the arguments alone. The header carries the SHA-256 of the whole file, taken with 64 zeros
    in its own place.
    """
    document = {"format_version": FORMAT_VERSION, "sha256": _NO_DIGEST, **metadata}
    # One key only: safetensors writes several in no fixed order.
    header = {"ppt": json.dumps(document, ensure_ascii=True)}
    content = serialize_tensors({name: t.detach().cpu().contiguous() for name, t in tensors.items()}, header)
    content = content.replace(_NO_DIGEST.encode(), hashlib.sha256(content).hexdigest().encode(), 1)
    with replaced_file(path) as partial:
        partial.write_bytes(content)


def load_tensors(path: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Read what `save_tensors` wrote.

    Raises `DataError` if the file is missing, is no such file, was changed, or has a later format version.
    """
    try:
        content = path.read_bytes()
    except FileNotFoundError:
        raise DataError(f"{path} does not exist") from None
    damaged = DataError(f"{path} was changed or cut off after it was written (its checksum does not match)")
    try:
        header_size = int.from_bytes(content[:8], "little")
        document = json.loads(json.loads(content[8 : 8 + header_size])["__metadata__"]["ppt"])
        version, digest = document.pop("format_version"), document.pop("sha256")
        original = content.replace(digest.encode(), _NO_DIGEST.encode(), 1)
    except Exception:  # a changed byte can break any layer of the header
        raise damaged from None
    if isinstance(version, int) and version > FORMAT_VERSION:
        raise DataError(
            f"{path} has format version {version} and this version of ppt-ncf reads {FORMAT_VERSION}; upgrade ppt-ncf"
        )
    if hashlib.sha256(original).hexdigest() != digest:
        raise damaged
    return parse_tensors(content), document


def training_state(model: nn.Module, optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
    """All tensors that the next step depends on, under flat names: ``model.*`` and ``optimizer.<number>.*``."""
    tensors = {f"model.{name}": tensor for name, tensor in model.state_dict().items()}
    for number, state in optimizer.state_dict()["state"].items():
        tensors |= {f"optimizer.{number}.{key}": value for key, value in state.items()}
    return tensors


def restore_training_state(tensors: dict[str, Tensor], model: nn.Module, optimizer: torch.optim.Optimizer) -> None:
    """Put what `training_state` returned back into a model and an optimizer of the same construction."""
    model.load_state_dict({name[6:]: t for name, t in tensors.items() if name.startswith("model.")})
    state: dict[int, dict[str, Tensor]] = {}
    for name, tensor in tensors.items():
        if name.startswith("optimizer."):
            _, number, key = name.split(".", 2)
            state.setdefault(int(number), {})[key] = tensor
    optimizer.load_state_dict({"state": state, "param_groups": optimizer.state_dict()["param_groups"]})
