"""Values from a file that are not what this program writes: named in one line, with the file."""

import contextlib
from collections.abc import Iterator, Mapping
from tokenize import TokenError
from typing import Any

from ppt_core.errors import DataError


def checked(document: Any, needed: Mapping[str, type | tuple[type, ...]], place: object) -> Any:
    """Return a JSON object that has the ``needed`` keys, with values of these types. Raises `DataError` for others."""
    if not isinstance(document, Mapping):
        raise DataError(f"{place} is damaged (not a JSON object); make it again")
    for key, kinds in needed.items():
        value = document.get(key)
        if key not in document or not isinstance(value, kinds) or (isinstance(value, bool) and kinds is not bool):
            found = repr(value)[:40] if key in document else "nothing"
            raise DataError(f"{place} is damaged (it says {found} for {key!r}); make it again")
    return document


_OF_OTHER_SHAPE = (
    KeyError,
    TypeError,
    AttributeError,
    IndexError,
    ValueError,
    EOFError,
    ArithmeticError,
    RecursionError,
    MemoryError,
    SyntaxError,  # this and the next: of the header of a NumPy file
    TokenError,
)


@contextlib.contextmanager
def understanding(place: object, *others: type[Exception]) -> Iterator[None]:
    """Turn what reading values of another shape raises in the block into a `DataError` that names their ``place``.

    A checksum says that values are those that were written, and not that this program wrote them. ``others`` are the
    errors of a library that reads.
    """
    try:
        yield
    except DataError:
        raise
    except Exception as error:
        if not isinstance(error, (*_OF_OTHER_SHAPE, *others)):
            raise
        reason = " ".join(f"{type(error).__name__}: {error}".split())[:200]
        raise DataError(f"{place} is damaged, or of another program ({reason}); make it again") from None
