"""Tensors on disk: safetensors files that check themselves, and the state of an interrupted training.

Files are written and read a tensor at a time, so none is in memory a second time as bytes.
"""

import contextlib
import hashlib
import json
import math
import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from itertools import chain, pairwise
from pathlib import Path
from types import MappingProxyType
from typing import Any, BinaryIO, NamedTuple, TypeVar

import torch
from torch import Tensor, nn

from ppt_core.damaged import understanding
from ppt_core.distributed import World
from ppt_core.errors import DataError
from ppt_core.json_text import json_text
from ppt_core.layers import find_not_finite, set_precision
from ppt_core.plan import convert
from ppt_core.row_shards import RowShards, ShardedTensor
from ppt_core.runs.files import NO_DIGEST, check_seal, chunks, reading, replaced_file
from ppt_core.runs.run import Run

Network = TypeVar("Network", bound=nn.Module)

FORMAT_VERSION = 1
_LONGEST_HEADER = 100_000_000  # as in the package safetensors

# In the order in which safetensors writes tensors: by dtype, then by name.
_DTYPES = {
    "U64": torch.uint64,
    "I64": torch.int64,
    "F64": torch.float64,
    "F32": torch.float32,
    "U32": torch.uint32,
    "I32": torch.int32,
    "BF16": torch.bfloat16,
    "F16": torch.float16,
    "U16": torch.uint16,
    "I16": torch.int16,
    "I8": torch.int8,
    "U8": torch.uint8,
    "BOOL": torch.bool,
}
_NAMES = {dtype: name for name, dtype in _DTYPES.items()}
_PLACES = {dtype: place for place, dtype in enumerate(_NAMES)}


def save_tensors(
    path: Path,
    tensors: Mapping[str, Tensor | ShardedTensor],
    metadata: dict[str, Any],
    *,
    new: bool = False,
    world: World = World(),  # noqa: B008 (frozen)
) -> None:
    """Write tensors and JSON metadata as one sealed safetensors file, replacing ``path`` when complete.

    With ``new`` nothing is replaced, see `ppt_core.runs.files.replaced_file`. Of several processes the first writes;
    the others call this, too, and give it their rows of every `ppt_core.row_shards.ShardedTensor`.

    The bytes depend on the arguments alone, and are those of the package safetensors. Dtypes are bool, integers of any
    size, float64, float32, float16 and bfloat16.

    Raises `DataError` if ``path`` cannot be written, or exists and must be ``new``, and ValueError for another dtype.
    """
    names = sorted(tensors, key=lambda name: (_place(name, tensors[name]), name))
    if not world.is_first:
        for name in names:
            list(_pieces(tensors[name]) if isinstance(tensors[name], ShardedTensor) else ())
        return
    head = _head({name: tensors[name] for name in names}, metadata)
    digest = hashlib.sha256(head)
    with replaced_file(path, new=new) as partial, partial.open("wb") as file:
        file.write(head)
        for name in names:
            for piece in _pieces(tensors[name]):
                octets = _octets(piece.detach().cpu().contiguous())
                digest.update(octets)
                file.write(octets)
        file.seek(head.index(NO_DIGEST.encode()))
        file.write(digest.hexdigest().encode())


def _pieces(tensor: Tensor | ShardedTensor) -> Iterable[Tensor]:
    return [tensor] if isinstance(tensor, Tensor) else tensor.pieces()


def _place(name: str, tensor: Tensor | ShardedTensor) -> int:
    if tensor.dtype not in _PLACES:
        raise ValueError(f"tensor {name} is {tensor.dtype}, which no tensor file holds; convert it to another dtype")
    return _PLACES[tensor.dtype]


def _head(tensors: dict[str, Tensor | ShardedTensor], metadata: dict[str, Any]) -> bytes:
    """What stands in front of the tensors, written in this order: the size of the header, and the header."""
    document = {"format_version": FORMAT_VERSION, "sha256": NO_DIGEST, "metadata": metadata}
    header: dict[str, Any] = {"__metadata__": {"ppt": json_text(document)}}
    end = 0
    for name, tensor in tensors.items():
        start, end = end, end + math.prod(tensor.shape) * tensor.dtype.itemsize
        header[name] = {"dtype": _NAMES[tensor.dtype], "shape": list(tensor.shape), "data_offsets": [start, end]}
    text = json.dumps(header, ensure_ascii=False, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    return len(text).to_bytes(8, "little") + text


def _octets(tensor: Tensor) -> Any:
    """The memory of a contiguous tensor, uint8 (n_bytes,)."""
    return tensor.reshape(-1).view(torch.uint8).numpy()


def load_tensors(path: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Read what `save_tensors` wrote, as a whole: the tensors and the metadata. Raises what `open_tensors` does."""
    with open_tensors(path) as file:
        return dict(file), file.metadata


@contextlib.contextmanager
def open_tensors(path: Path) -> "Iterator[TensorFile]":
    """Check what `save_tensors` wrote and open it, to read tensors one by one.

    Raises `DataError` if the file is missing, is no such file, was changed, or has another format version.
    """
    damaged = DataError(f"{path} is no tensor file of ppt-ncf, or a damaged one; make it again")
    with reading(path) as file:
        n_bytes = os.fstat(file.fileno()).st_size
        try:
            start = 8 + int.from_bytes(file.read(8), "little")
            if start > min(n_bytes, _LONGEST_HEADER):
                raise damaged
            file.seek(0)
            head = file.read(start)
            header = json.loads(head[8:])
            document = json.loads(header.pop("__metadata__")["ppt"])
            found_version, digest, metadata = (document[key] for key in ("format_version", "sha256", "metadata"))
        except (ValueError, TypeError, LookupError, AttributeError, RecursionError):
            raise damaged from None
        check_seal(path, head, chunks(file), digest=digest, found_version=found_version, format_version=FORMAT_VERSION)
        try:
            places = {name: _Place.parse(start, **entry) for name, entry in header.items()}
        except (ValueError, TypeError, LookupError):
            raise damaged from None
        bounds = sorted((place.start, place.stop) for place in places.values())
        if any(last[1] != following[0] for last, following in pairwise(chain([(0, start)], bounds, [(n_bytes, 0)]))):
            raise damaged
        yield TensorFile(file, places, metadata)


class _Place(NamedTuple):
    """Where a tensor lies in its file, in bytes from the start, and what it is."""

    start: int
    stop: int
    dtype: torch.dtype
    shape: tuple[int, ...]

    @classmethod
    def parse(cls, base: int, *, dtype: str, shape: list[int], data_offsets: list[int]) -> "_Place":
        """Read an entry of the header, whose offsets count from ``base``; ValueError if it contradicts itself."""
        start, stop = data_offsets
        kind = _DTYPES[dtype]
        if min([start, *shape]) < 0 or stop - start != math.prod(shape) * kind.itemsize:
            raise ValueError(f"offsets {data_offsets} do not fit shape {shape} of {dtype}")
        return cls(base + start, base + stop, kind, tuple(shape))


class TensorFile(Mapping[str, Tensor]):
    """The tensors of an open file by name; each access reads one from the disk, into memory of its own.

    Attributes:
        metadata: what was saved with the tensors.
    """

    def __init__(self, file: BinaryIO, places: dict[str, _Place], metadata: dict[str, Any]) -> None:
        self.metadata = metadata
        self._file = file
        self._places = places

    def __getitem__(self, name: str) -> Tensor:
        place = self._places[name]
        return self._read(place.start, place.shape, place.dtype)

    def own_rows(self, name: str, shards: RowShards) -> Tensor:
        """Read the rows of a tensor that are this process's; a single number is said of all rows.

        Raises ValueError if it has another number of rows.
        """
        place = self._places[name]
        if not place.shape:
            return self[name]
        n_rows, *others = place.shape
        if n_rows != shards.n_rows:
            raise ValueError(f"{name} has {n_rows} rows; it must have {shards.n_rows}")
        row_bytes = math.prod(others) * place.dtype.itemsize
        own = torch.empty(shards.n_own, *others, dtype=place.dtype)
        shards.keep_own(
            lambda start, stop: self._read(place.start + start * row_bytes, (stop - start, *others), place.dtype), own
        )
        return own

    def _read(self, start: int, shape: tuple[int, ...], dtype: torch.dtype) -> Tensor:
        tensor = torch.empty(shape, dtype=dtype)
        self._file.seek(start)
        self._file.readinto(_octets(tensor))  # type: ignore[attr-defined]
        return tensor

    def __iter__(self) -> Iterator[str]:
        return iter(self._places)

    def __len__(self) -> int:
        return len(self._places)


ShardedRows = Mapping[str, RowShards]
"""Tensors of which each process has some rows, by their names; others are whole everywhere."""


def training_state(model: nn.Module, optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
    """All tensors that the next step depends on, under flat names: ``model.*`` and ``optimizer.<number>.*``."""
    tensors = {f"model.{name}": tensor for name, tensor in model.state_dict().items()}
    for number, state in optimizer.state_dict()["state"].items():
        tensors |= {f"optimizer.{number}.{key}": value for key, value in state.items()}
    return tensors


def shards_of_state(
    names: Iterable[str], model: nn.Module, optimizer: torch.optim.Optimizer, shards: ShardedRows
) -> dict[str, RowShards]:
    """What ``shards`` of the model's own tensors means for tensors of `training_state` by their ``names``."""
    if not shards:
        return {}
    parameters = {parameter: name for name, parameter in model.named_parameters()}
    numbered = [parameters[each] for group in optimizer.param_groups for each in group["params"]]
    found = {}
    for name in names:
        kind, _, rest = name.partition(".")
        owner = rest if kind == "model" else numbered[int(rest.partition(".")[0])]
        if owner in shards:
            found[name] = shards[owner]
    return found


def in_whole(tensors: Mapping[str, Tensor], shards: ShardedRows) -> dict[str, Tensor | ShardedTensor]:
    """Tensors as files hold them; a single number that is said of all rows is whole already."""
    return {
        name: ShardedTensor(tensor, shards[name]) if name in shards and tensor.ndim else tensor
        for name, tensor in tensors.items()
    }


def restore_training_state(
    tensors: TensorFile,
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    shards: ShardedRows = MappingProxyType({}),
) -> None:
    """Put what `training_state` returned back into a model and an optimizer of the same construction.

    Of ``shards``, tables of the model, this process's rows are read.
    """
    of_state = shards_of_state(tensors, model, optimizer, shards)

    def read(name: str) -> Tensor:
        return tensors.own_rows(name, of_state[name]) if name in of_state else tensors[name]

    model.load_state_dict({name[6:]: read(name) for name in tensors if name.startswith("model.")})
    state: dict[int, dict[str, Tensor]] = {}
    for name in tensors:
        if name.startswith("optimizer."):
            _, number, key = name.split(".", 2)
            state.setdefault(int(number), {})[key] = read(name)
    parameters = [each for group in optimizer.param_groups for each in group["params"]]
    for place, values in state.items():
        for kind, value in values.items():  # fused kernels check no shapes
            if kind != "last_step" and value.numel() != 1 and value.shape != parameters[place].shape:
                raise ValueError(f"{kind} of parameter {place} has shape {tuple(value.shape)}")
        if values.keys() != state[max(state)].keys() and "last_step" not in values:
            raise ValueError(f"parameter {place} has the state {sorted(values)}")
    optimizer.load_state_dict({"state": state, "param_groups": optimizer.state_dict()["param_groups"]})


def load_trained(run: Run, kind: str, build: Callable[[Mapping[str, Any]], Network], *, device: str = "cpu") -> Network:
    """Load the network of a finished run, in evaluation mode and in the precision it ended in.

    Args:
        run: its folder.
        kind: what the run must be of, see `ppt_core.runs.record.RunConfig`.
        build: makes the network from the groups of the run's settings.
        device: where it computes.

    Raises `DataError` if the run has not finished, is of another kind, or its files were changed.
    """
    run.refuse_other_kind(kind)
    run.result()
    tensors, metadata = load_tensors(run.model_path)
    with understanding(f"{run.path} (its config.json and model.safetensors)", RuntimeError):
        network = build(run.config.groups)
        if run.config.training["split"] < 1:
            convert(network)
        if metadata["precision"] == "low":
            set_precision(network, "low")
        network.load_state_dict(tensors)
    if found := find_not_finite(network):
        raise DataError(f"{run.model_path}: {found} holds values that are not finite; train again into a new folder")
    return network.to(device).eval()
