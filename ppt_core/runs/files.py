"""Files that are either complete or absent, and that notice a changed byte.

Everything is written beside its final name and renamed into place. A sealed file holds the SHA-256 of all its
bytes, taken with 64 zeros in the place of the digest; other files have theirs recorded in such a file.
"""

import contextlib
import glob
import hashlib
import json
import os
import re
import shutil
import stat
import tempfile
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any, BinaryIO

from ppt_core.damaged import checked
from ppt_core.errors import DataError
from ppt_core.json_text import json_text
from ppt_core.runs.partial_files import PARTIAL, exchange, held, leftovers, prefix_of, remove_leftovers

NO_DIGEST = "0" * 64

# Errors about a source or a connection have other classes, and say it better themselves.
_WRITE_ERRORS = (OSError, PermissionError, FileExistsError, NotADirectoryError, IsADirectoryError)


class _WriteError(DataError):
    def __init__(self, path: Path, reason: str) -> None:
        super().__init__(f"{path} cannot be written ({reason}); free some space or choose another place")
        self.reason = reason


@contextlib.contextmanager
def writing(path: Path) -> Iterator[None]:
    """Turn a full disk, missing rights and the like, met in the block, into a `DataError` that names ``path``."""
    try:
        yield
    except _WriteError as error:  # of a file inside the folder that is to become ``path``
        raise _WriteError(path, error.reason) from error
    except OSError as error:
        if type(error) not in _WRITE_ERRORS:
            raise
        raise _WriteError(path, error.strerror or str(error)) from error


def refuse_existing(path: Path) -> None:
    """Raise `DataError` if ``path`` exists: outputs are never overwritten unasked."""
    if os.path.lexists(path):
        raise DataError(f"{path} already exists; choose another output or remove it first")


@contextlib.contextmanager
def new_directory(path: Path, *, replace: bool = False) -> Iterator[Path]:
    """Yield a temporary folder beside ``path`` that becomes ``path`` when the block succeeds.

    It is removed when the block raises. With ``replace`` the folder that may be there gives its place up in one step,
    where the system has such a step (Linux), or is away for a moment.

    Raises `DataError` if ``path`` exists and is not to be replaced, if it cannot be written, and for a full disk in the
    block.
    """
    if not replace:
        refuse_existing(path)
    with writing(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        partial = Path(tempfile.mkdtemp(prefix=prefix_of(path), suffix=PARTIAL, dir=path.parent))
        try:
            with held(partial):
                yield partial
                partial.chmod(0o777 & ~_umask())  # mkdtemp makes it private
                if replace and os.path.lexists(path):
                    _take_place(partial, path)
                else:
                    refuse_existing(path)
                    partial.rename(path)
        except BaseException:
            shutil.rmtree(partial, ignore_errors=True)
            raise
    remove_leftovers(leftovers(path.parent, glob.escape(prefix_of(path)) + "*"))


def _take_place(partial: Path, path: Path) -> None:
    """Put a new folder in the place of an old one, and remove that."""
    if not exchange(partial, path):
        old = Path(tempfile.mkdtemp(prefix=prefix_of(path), suffix=PARTIAL, dir=path.parent))
        path.rename(old / path.name)
        partial.rename(path)
        partial = old
    shutil.rmtree(partial)


@contextlib.contextmanager
def replaced_file(path: Path, *, new: bool = False) -> Iterator[Path]:
    """Yield a temporary name beside ``path`` that replaces ``path`` when the block succeeds.

    The content reaches the disk before the rename, so a crash leaves the old file or the new one, never half. With
    ``new`` nothing is replaced: of two that write there one succeeds.

    Raises `DataError` if ``path`` cannot be written, if it exists and must be ``new``, and for a full disk in the
    block.
    """
    if new:
        refuse_existing(path)
    with writing(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(prefix=prefix_of(path), suffix=PARTIAL, dir=path.parent)
        os.close(handle)
        partial = Path(name)
        try:
            with held(partial):
                yield partial
                partial.chmod(0o666 & ~_umask())
                with partial.open("rb+") as file:
                    os.fsync(file.fileno())
                if new:
                    _put_if_free(partial, path)
                else:
                    partial.replace(path)
        except BaseException:
            partial.unlink(missing_ok=True)
            raise
    remove_leftovers(leftovers(path.parent, glob.escape(prefix_of(path)) + "*"))


def _put_if_free(partial: Path, path: Path) -> None:
    """Rename a file to ``path`` unless something is there: a link is made only where nothing is."""
    try:
        os.link(partial, path)
    except FileExistsError:
        raise DataError(f"{path} already exists; choose another output or remove it first") from None
    except OSError:  # a file system without links
        refuse_existing(path)
        partial.replace(path)
    else:
        partial.unlink()


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask


def refuse_special(path: Path) -> None:
    """Raise `DataError` if ``path`` is a pipe or a device, which might be read, or waited for, for ever."""
    if not stat.S_ISREG(path.stat().st_mode) and not path.is_dir():
        raise DataError(f"{path} is no regular file; name a file or a folder of files")


@contextlib.contextmanager
def reading(path: Path) -> Iterator[BinaryIO]:
    """Open a file for reading. Raises `DataError` if it does not exist or cannot be read, then or in the block.

    A pipe or a device, which might be read for ever, is refused.
    """
    try:
        refuse_special(path)
        with path.open("rb") as file:
            yield file
    except FileNotFoundError:
        raise DataError(f"{path} does not exist") from None
    except OSError as error:
        raise DataError(f"{path} cannot be read ({error.strerror})") from None


def read_bytes(path: Path) -> bytes:
    """Return the content of a file. Raises `DataError` if it does not exist or cannot be read."""
    with reading(path) as file:
        return file.read()


def chunks(file: BinaryIO) -> Iterator[bytes]:
    """Read what is left of a file, 1 MB at a time."""
    while chunk := file.read(1 << 20):
        yield chunk


def file_sha256(path: Path) -> str:
    """Return the SHA-256 of a file's bytes as 64 hexadecimal digits."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        for chunk in chunks(file):
            digest.update(chunk)
    return digest.hexdigest()


def file_checksums(folder: Path) -> dict[str, str]:
    """Return the SHA-256 of each file in ``folder``, by name."""
    return {file.name: file_sha256(file) for file in sorted(folder.iterdir())}


def verify_checksums(folder: Path, checksums: Any, *, needed: Iterable[str] = ()) -> None:
    """Raise `DataError` unless ``folder`` holds files of these names with these SHA-256.

    Args:
        folder: where they are, and nowhere else: a name with a folder in it is refused.
        checksums: hexadecimal digits by name, as read from a file; anything.
        needed: names that must be among them.
    """
    if not isinstance(checksums, dict):
        raise DataError(f"{folder} lists no checksums of its files; make the folder again")
    for name in needed:
        if name not in checksums:
            raise DataError(f"{folder / name} has no checksum; make the folder again")
    for name, digest in checksums.items():
        file = folder / name
        if name != file.name:
            raise DataError(f"{folder} lists {name!r}, which is no name of a file in it; make the folder again")
        if not file.exists():
            raise DataError(f"{file} is missing; make the folder again")
        if not file.is_file():  # a pipe or a device could be read for ever
            raise DataError(f"{file} is no file; make the folder again")
        if file_sha256(file) != digest:
            raise DataError(
                f"{file} was changed after it was written (its checksum does not match); make the folder again"
            )


def seal(content: bytes) -> bytes:
    """Put the SHA-256 of ``content`` in the place of its first `NO_DIGEST`."""
    return content.replace(NO_DIGEST.encode(), hashlib.sha256(content).hexdigest().encode(), 1)


def check_seal(
    path: Path, head: bytes, rest: Iterable[bytes] = (), *, digest: object, found_version: object, format_version: int
) -> None:
    """Raise `DataError` unless a file's content is sealed, as by `seal`, and of the version that the caller reads.

    Args:
        path: named in the error.
        head: the content from its start until behind the digest, at least.
        rest: what comes after it, in pieces: a large file is never in memory as a whole.
        digest: as read from it; anything.
        found_version: as read from it; anything. A later version is told before a wrong checksum, since it may
            be sealed in another way.
        format_version: the one that the caller reads.
    """
    versions = f"{path} has format version {found_version} and this version of ppt-ncf reads {format_version}"
    if isinstance(found_version, int) and found_version > format_version:
        raise DataError(f"{versions}; upgrade ppt-ncf")
    if not _is_sealed(head, rest, digest):
        raise DataError(f"{path} was changed after it was written (its checksum does not match); make it again")
    if found_version != format_version:
        raise DataError(f"{versions}; make it again")


def _is_sealed(head: bytes, rest: Iterable[bytes], digest: object) -> bool:
    if not isinstance(digest, str) or not re.fullmatch("[0-9a-f]{64}", digest):
        return False
    found = hashlib.sha256(head.replace(digest.encode(), NO_DIGEST.encode(), 1))
    for piece in rest:
        found.update(piece)
    return found.hexdigest() == digest


def write_json(path: Path, document: dict[str, Any]) -> None:
    """Write ``document`` as a sealed JSON file: its ``sha256``, anew, and its other keys."""
    others = {key: value for key, value in document.items() if key != "sha256"}
    content = json_text({"sha256": NO_DIGEST, **others}, indent=2) + "\n"
    with replaced_file(path) as partial:
        partial.write_bytes(seal(content.encode()))


def read_json(
    path: Path,
    *,
    format_version: int,
    oldest_version: int | None = None,
    needed: Mapping[str, type | tuple[type, ...]] = MappingProxyType({}),
) -> dict[str, Any]:
    """Read what `write_json` wrote, its ``sha256`` included.

    ``needed`` says which keys there must be, and of what type their values.

    Raises `DataError` if the file is missing, is not JSON, was changed since it was written, has a version other
    than ``format_version``, or than those from ``oldest_version`` to it, or lacks what is needed.
    """
    content = read_bytes(path)
    try:
        document = json.loads(content.decode())
    except (ValueError, RecursionError) as error:
        raise DataError(f"{path} is damaged ({error}); make it again") from None
    if not isinstance(document, dict):
        raise DataError(f"{path} is damaged (not a JSON object); make it again")
    found_version, digest = document.get("format_version"), document.get("sha256")
    if isinstance(found_version, int) and found_version in range(oldest_version or format_version, format_version):
        format_version = found_version
    check_seal(path, content, digest=digest, found_version=found_version, format_version=format_version)
    checked(document, needed, path)
    return document
