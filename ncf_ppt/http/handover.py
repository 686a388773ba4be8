"""A loaded model handed from one process of ours to another, its arrays mapped and not copied.

The loader writes the arrays into a nameless temporary file, and the workers map that file: however many they are, the
arrays are in memory once, and a model file that is overwritten changes nothing of what is served. What connects the
arrays is a pickle at the end of the same file. Nobody else can write there: the file has no name and is only ever
passed on as an open descriptor. Nothing that a user hands over is read here.
"""

import io
import mmap
import pickle
from typing import Any, BinaryIO

import numpy as np
import torch

_ALIGNED = 4096
_NUMBER = 8  # bytes
_SMALL = 1 << 12  # bytes: arrays below stay in the pickle


class _Pickler(pickle.Pickler):
    """Lets tensors travel as arrays do: beside the pickle."""

    def reducer_override(self, value: Any) -> Any:
        if isinstance(value, torch.nn.Parameter):
            return _parameter, (value.detach().numpy(),)
        if isinstance(value, torch.Tensor):
            return torch.from_numpy, (value.detach().numpy(),)
        return NotImplemented


def _parameter(values: np.ndarray[Any, Any]) -> torch.nn.Parameter:
    return torch.nn.Parameter(torch.from_numpy(values), requires_grad=False)


def write_handover(value: Any, file: BinaryIO) -> None:
    """Write ``value``, of arrays, tensors and plain objects, to the empty ``file``."""
    places: list[tuple[int, int]] = []

    def put_aside(buffer: pickle.PickleBuffer) -> bool:
        octets = buffer.raw()
        if octets.nbytes < _SMALL:
            return True
        file.seek(-(-file.tell() // _ALIGNED) * _ALIGNED)
        places.append((file.tell(), octets.nbytes))
        file.write(octets)
        return False

    pickled = io.BytesIO()
    _Pickler(pickled, protocol=5, buffer_callback=put_aside).dump(value)
    start = file.tell()
    file.write(pickled.getbuffer())
    file.write(np.array([*(number for place in places for number in place), len(places), start], np.int64).tobytes())
    file.flush()


def read_handover(file: BinaryIO) -> Any:
    """Read what `write_handover` wrote; the arrays are mapped, and stay so when ``file`` is closed.

    They can be written to, as kernels want them, which changes this process's copy of a page alone.
    """
    mapped = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_COPY)
    octets = memoryview(mapped)
    n, start = np.frombuffer(octets[-2 * _NUMBER :], np.int64).tolist()
    end = len(octets) - (2 * n + 2) * _NUMBER
    places = np.frombuffer(octets[end : len(octets) - 2 * _NUMBER], np.int64).reshape(n, 2).tolist()
    buffers = [octets[place : place + length] for place, length in places]
    return pickle.loads(octets[start:end], buffers=buffers)  # noqa: S301 (our own, see above)
