"""Files that are either complete or absent, and that notice a changed byte.

Everything is written beside its final name and renamed into place. JSON documents carry a SHA-256 of
their own content; other files have theirs recorded in such a document.
"""

import contextlib
import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from ppt_core.errors import DataError


def refuse_existing(path: Path) -> None:
    """Raise `DataError` if ``path`` exists: outputs are never overwritten unasked."""
    if path.exists() or path.is_symlink():
        raise DataError(f"{path} already exists; choose another output or remove it first")


@contextlib.contextmanager
def new_directory(path: Path) -> Iterator[Path]:
    """Yield a temporary folder beside ``path`` that becomes ``path`` when the block succeeds.

    Nothing is left behind when the block raises, a full disk included. Raises `DataError` if ``path`` exists.
    """
    refuse_existing(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = Path(tempfile.mkdtemp(prefix=f".{path.name}.", dir=path.parent))
    try:
        yield partial
        partial.chmod(0o777 & ~_umask())  # mkdtemp makes it private
        refuse_existing(path)
        partial.rename(path)
    except BaseException:
        shutil.rmtree(partial, ignore_errors=True)
        raise


@contextlib.contextmanager
def replaced_file(path: Path) -> Iterator[Path]:
    """Yield a temporary name beside ``path`` that replaces ``path`` when the block succeeds.

    The content reaches the disk before the rename, so a crash leaves the old file or the new one, never half.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
    os.close(handle)
    partial = Path(name)
    try:
        yield partial
        partial.chmod(0o666 & ~_umask())
        with partial.open("rb+") as file:
            os.fsync(file.fileno())
        partial.replace(path)
    except BaseException:
        partial.unlink(missing_ok=True)
        raise


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask


def file_sha256(path: Path) -> str:
    """Return the SHA-256 of a file's bytes as 64 hexadecimal digits."""
    with path.open("rb") as file:
        digest = hashlib.sha256()
        while chunk := file.read(1 << 20):
            digest.update(chunk)
    return digest.hexdigest()


def file_checksums(folder: Path) -> dict[str, str]:
    """Return the SHA-256 of each file in ``folder``, by name."""
    return {file.name: file_sha256(file) for file in sorted(folder.iterdir())}


def verify_checksums(folder: Path, checksums: dict[str, str]) -> None:
    """Raise `DataError` unless ``folder`` holds files of these names with these SHA-256."""
    for name, digest in checksums.items():
        file = folder / name
        if not file.exists():
            raise DataError(f"{file} is missing; prepare the data again")
        if file_sha256(file) != digest:
            raise DataError(
                f"{file} was changed after it was written (its checksum does not match); prepare the data again"
            )


def write_json(path: Path, document: dict[str, Any]) -> None:
    """Write ``document`` as JSON with a ``sha256`` over its other keys."""
    document = {**document, "sha256": _document_sha256(document)}
    with replaced_file(path) as partial:
        partial.write_text(json.dumps(document, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def read_json(path: Path, *, format_version: int) -> dict[str, Any]:
    """Read what `write_json` wrote, its ``sha256`` included.

    Raises `DataError` if the file is missing, is not JSON, was changed since it was written, or has another
    ``format_version``.
    """
    try:
        document = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise DataError(f"{path} does not exist") from None
    except (UnicodeDecodeError, json.JSONDecodeError) as error:
        raise DataError(f"{path} is damaged ({error}); make it again") from None
    if not isinstance(document, dict):
        raise DataError(f"{path} is damaged (not a JSON object); make it again")
    found = document.get("format_version")
    digest = document.get("sha256")
    if isinstance(found, int) and found > format_version:
        raise DataError(
            f"{path} has format version {found} and this version of ppt-ncf reads {format_version}; upgrade ppt-ncf"
        )
    if digest != _document_sha256(document):
        raise DataError(f"{path} was changed after it was written (its checksum does not match); make it again")
    if found != format_version:
        raise DataError(
            f"{path} has format version {found} and this version of ppt-ncf reads {format_version}; make it again"
        )
    return document


def _document_sha256(document: dict[str, Any]) -> str:
    document = {key: value for key, value in document.items() if key != "sha256"}
    canonical = json.dumps(document, sort_keys=True, ensure_ascii=False, separators=(",", ":"))
    return hashlib.sha256(canonical.encode()).hexdigest()
