"""CIFAR-10's batches are pickles: reading them without running anything that they contain."""

import codecs
import io
import pickle
from collections.abc import Callable
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray


class _Record:
    """What a pickle builds instead of an array or a dtype: the pieces as they were, and nothing run on them."""

    def __init__(self, *arguments: Any) -> None:
        self.arguments = arguments
        self.state: Any = None

    def __setstate__(self, state: Any) -> None:
        self.state = state


class _Dtype(_Record):
    pass


class _Array(_Record):
    """From ``_reconstruct``; its state is (version, shape, dtype, whether in Fortran's order, bytes)."""

    def pieces(self) -> tuple[Any, Any, Any, Any]:
        """Bytes, dtype, shape and order."""
        _, shape, dtype, is_fortran, content = self.state
        return content, dtype, shape, "F" if is_fortran else "C"


class _Buffer(_Array):
    """From ``_frombuffer``, which takes bytes, dtype, shape and order."""

    def pieces(self) -> tuple[Any, Any, Any, Any]:
        content, dtype, shape, order = self.arguments
        return content, dtype, shape, order


def _text_key(key: Any) -> str | bytes:
    if not isinstance(key, (str, bytes)):
        raise pickle.UnpicklingError("it holds a dict with a key that is no text")
    return key


def _encode(text: str, encoding: str) -> bytes:
    """Bytes as Python 3 writes them in protocol 2."""
    if encoding != "latin1":
        raise pickle.UnpicklingError(f"bytes are encoded as {encoding!r}")
    return codecs.encode(text, "latin1")


# NumPy 2 moved `core` to `_core`, and pickles name the one or the other.
_ALLOWED: dict[tuple[str, str], Callable[..., Any]] = {
    ("numpy", "dtype"): _Dtype,
    ("numpy", "ndarray"): _Record,
    ("_codecs", "encode"): _encode,
    **{(f"numpy.{core}.multiarray", "_reconstruct"): _Array for core in ("core", "_core")},
    **{(f"numpy.{core}.numeric", "_frombuffer"): _Buffer for core in ("core", "_core")},
}


# The one written in Python: for a damaged byte in an index the one written in C asks for gigabytes of memory. The
# same goes for the length of a bytearray, so those are read as bytes.
class _Unpickler(pickle._Unpickler):
    stack: list[Any]
    append: Callable[[Any], None]
    pop_mark: Callable[[], list[Any]]

    dispatch: ClassVar[dict[int, Any]] = {
        **pickle._Unpickler.dispatch,
        pickle.BYTEARRAY8[0]: pickle._Unpickler.dispatch[pickle.BINBYTES8[0]],
    }

    # What is hashed is text alone: tuples within tuples, some million deep, overflow the stack of C in their hash.
    def _set_item(self) -> None:
        value, key = self.stack.pop(), self.stack.pop()
        self.stack[-1][_text_key(key)] = value

    def _set_items(self) -> None:
        items = self.pop_mark()
        self.stack[-1].update((_text_key(key), value) for key, value in zip(items[::2], items[1::2], strict=True))

    def _make_dict(self) -> None:
        items = self.pop_mark()
        self.append({_text_key(key): value for key, value in zip(items[::2], items[1::2], strict=True)})

    def _refuse_set(self) -> None:
        raise pickle.UnpicklingError("it holds a set, which no file of CIFAR-10 does")

    dispatch |= {pickle.SETITEM[0]: _set_item, pickle.SETITEMS[0]: _set_items, pickle.DICT[0]: _make_dict}
    dispatch |= dict.fromkeys((pickle.EMPTY_SET[0], pickle.ADDITEMS[0], pickle.FROZENSET[0]), _refuse_set)

    def find_class(self, module: str, name: str) -> Any:
        """Return the stand-in for one of the few names that a batch needs."""
        try:
            return _ALLOWED[module, name]
        except KeyError:
            raise pickle.UnpicklingError(f"it calls for {module}.{name}, which no file of CIFAR-10 does") from None


def read_batch(content: bytes) -> dict[str, Any]:
    """Read a pickled dict of plain values and arrays of 8-bit numbers, by whichever Python it was written.

    Nothing but dicts, lists, tuples, numbers, strings and bytes is built: what else the pickle asks for is refused,
    and arrays are put together from their bytes afterwards.

    Returns:
        The dict, its keys as str, arrays at its first level as uint8 arrays.

    Raises:
        ValueError: with the reason, if the content is anything else, or damaged.
    """
    try:
        batch = _Unpickler(io.BytesIO(content), encoding="bytes").load()
    except pickle.UnpicklingError as error:
        raise ValueError(" ".join(str(error).split())) from None
    except Exception as error:  # a damaged pickle can fail in any way
        raise ValueError(f"it is no pickle, or a damaged one ({type(error).__name__})") from None
    if not isinstance(batch, dict):
        raise ValueError("it holds no dict")
    return {
        key.decode("latin1") if isinstance(key, bytes) else str(key): _as_array(value)
        if isinstance(value, _Array)
        else value
        for key, value in batch.items()
    }


def _as_array(record: _Array) -> NDArray[np.uint8]:
    try:
        content, dtype, shape, order = record.pieces()
        (code, *_) = dtype.arguments
        code = code.decode("latin1") if isinstance(code, bytes) else code
        if code not in ("u1", "|u1", "uint8"):
            raise ValueError(f"it holds an array of {code!r}, not of 8-bit numbers")
        return np.frombuffer(content, np.uint8).reshape(shape, order=order)
    except ValueError as error:
        raise ValueError(" ".join(str(error).split())) from None
    except (TypeError, AttributeError):
        raise ValueError("it holds a damaged array") from None
