"""Tensors on disk: safetensors files that check themselves, and the state of an interrupted training."""

import json
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load as parse_tensors
from safetensors.torch import save as serialize_tensors
from torch import Tensor, nn

from ppt_core.errors import DataError
from ppt_core.json_text import json_text
from ppt_core.runs.files import NO_DIGEST, check_seal, read_bytes, replaced_file, seal

FORMAT_VERSION = 1


def save_tensors(path: Path, tensors: dict[str, Tensor], metadata: dict[str, Any]) -> None:
    """Write tensors and JSON metadata as one sealed safetensors file, replacing ``path`` when complete.

    The bytes depend on the arguments alone. Raises `DataError` if ``path`` cannot be written.
    """
    document = {"format_version": FORMAT_VERSION, "sha256": NO_DIGEST, "metadata": metadata}
    # One key only: safetensors writes several in no fixed order.
    header = {"ppt": json_text(document)}
    content = serialize_tensors({name: t.detach().cpu().contiguous() for name, t in tensors.items()}, header)
    with replaced_file(path) as partial:
        partial.write_bytes(seal(content))


def load_tensors(path: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Read what `save_tensors` wrote.

    Raises `DataError` if the file is missing, is no such file, was changed, or has another format version.
    """
    content = read_bytes(path)
    damaged = DataError(f"{path} is no tensor file of ppt-ncf, or a damaged one; make it again")
    try:
        header_size = int.from_bytes(content[:8], "little")
        document = json.loads(json.loads(content[8 : 8 + header_size])["__metadata__"]["ppt"])
        found_version, digest, metadata = (document[key] for key in ("format_version", "sha256", "metadata"))
    except (ValueError, TypeError, LookupError, RecursionError):
        raise damaged from None
    check_seal(path, content, digest=digest, found_version=found_version, format_version=FORMAT_VERSION)
    try:
        return parse_tensors(content), metadata
    except SafetensorError:
        raise damaged from None


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
