"""Which prepared data something was made from: data are the same where their content is, whatever it was made of."""

import hashlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Protocol

from ppt_core.json_text import json_text

_CONTENT, _SHA256, _PATH = "content", "sha256", "path"


class Prepared(Protocol):
    """A prepared set of any kind."""

    @property
    def manifest(self) -> dict[str, Any]:
        """Where it came from; its ``sha256`` is that of the whole manifest, file names of the source included."""

    @property
    def content(self) -> str | None:
        """`content_identity` of all that a training or an evaluation reads of it."""

    @property
    def path(self) -> Path | None:
        """Its folder; None if it was never saved."""

    @property
    def is_sample(self) -> bool:
        """Whether it is the built-in sample."""


def content_identity(checksums: Mapping[str, str] | None, *others: Any) -> str | None:
    """Return one SHA-256, 64 hexadecimal digits, over the content of a prepared set.

    Args:
        checksums: SHA-256 of each of its files by name; None for a set that was never saved, which has no identity.
        others: what else belongs to the content, as JSON values.
    """
    if checksums is None:
        return None
    return hashlib.sha256(json_text([dict(sorted(checksums.items())), *others]).encode()).hexdigest()


def data_record(data: Prepared) -> dict[str, Any]:
    """What a run keeps to know its data again: their place, their content, and the manifest's own ``sha256``.

    The place is None for the built-in sample, and missing for data that were never saved.
    """
    place = {_PATH: str(data.path.resolve())} if data.path else {_PATH: None} if data.is_sample else {}
    return {**place, _SHA256: data.manifest.get("sha256"), _CONTENT: data.content}


def copied_record(record: Mapping[str, Any]) -> dict[str, Any]:
    """The part of a record of data that says which they are, and not where."""
    return {key: record.get(key) for key in (_SHA256, _CONTENT)}


def same_data(first: Mapping[str, Any], second: Mapping[str, Any]) -> bool:
    """Whether two records name the same data: by their content, or by the manifest's ``sha256`` where one is older."""
    return bool(first.get(_identity(first, second)) == second.get(_identity(first, second)))


def differences(old: Any, new: Any, name: str = "settings") -> Iterator[tuple[str, Any, Any]]:
    """Yield the name, the old and the new value of each setting in which two trees of settings differ.

    Where data lie may change, what they are may not: in a group called ``data`` they are compared by `same_data`.
    A setting that only one of the two has differs from None.
    """
    if not (isinstance(old, dict) and isinstance(new, dict)):
        if old != new:
            yield name, old, new
        return
    others = {_PATH}
    if name == "data":
        others |= {_SHA256, _CONTENT}
        if not same_data(old, new):
            key = _identity(old, new)
            yield key, old.get(key), new.get(key)
    for key in [*old, *(key for key in new if key not in old)]:
        if key not in others:
            yield from differences(old.get(key), new.get(key), key)


def in_words(name: str, old: Any, new: Any) -> str:
    """One of the `differences` for an error, behind "was started": ``with seed = 0, not 1``."""
    if name in (_CONTENT, _SHA256):
        return f"with other data (their {name} is {str(old)[:12]}, not {str(new)[:12]})"
    return f"with {name} = {old}, not {new}"


def _identity(first: Mapping[str, Any], second: Mapping[str, Any]) -> str:
    """The key by which two records are compared: runs before this one kept no content."""
    return _CONTENT if first.get(_CONTENT) and second.get(_CONTENT) else _SHA256
