"""Archives of unknown origin: what the headers of a tar may cost, and names that no archive of data has."""

import contextlib
import io
import tarfile
from collections.abc import Iterator
from pathlib import Path, PureWindowsPath
from typing import Any, BinaryIO

from ppt_core.errors import DataError

MOST_MEMBERS = 100_000
LONGEST_HEADER = 1 << 20
"""Bytes of a long name, or of what pax keeps in front of a member: `tarfile` holds them in memory as they are."""

_EXTENDED = (
    *(tarfile.XHDTYPE, tarfile.XGLTYPE, tarfile.SOLARIS_XHDTYPE),
    *(tarfile.GNUTYPE_LONGNAME, tarfile.GNUTYPE_LONGLINK),
)


class _TooMuch(Exception):
    """No `tarfile.TarError`, behind which `tarfile` would see the end of the archive."""


class _ShortHeader(tarfile.TarInfo):
    @classmethod
    def frombuf(cls, buf: bytes | bytearray, encoding: str, errors: str) -> "_ShortHeader":
        info = super().frombuf(buf, encoding, errors)
        if info.type in _EXTENDED and not 0 <= info.size <= LONGEST_HEADER:
            raise _TooMuch(f"a header of {info.size:,} bytes, more than the {LONGEST_HEADER:,} of any name")
        return info


def open_tar(path: Path, stream: BinaryIO | None = None) -> tarfile.TarFile:
    """Open the archive ``path``, packed or not, or the unpacked ``stream`` of it, to be read from front to end.

    Raises what `tarfile` does, and what `members_of` does.
    """
    with _refusing(path):
        if stream is None:
            return tarfile.open(path, tarinfo=_ShortHeader)
        return tarfile.TarFile.open(fileobj=stream, mode="r|", tarinfo=_ShortHeader)


def members_of(path: Path, archive: tarfile.TarFile) -> Iterator[tarfile.TarInfo]:
    """The members of the archive ``path`` in their order.

    Raises what `tarfile` does, and `DataError` for longer headers, or more members, than any archive of data has.
    """
    with _refusing(path):
        for number, member in enumerate(archive, 1):
            if number > MOST_MEMBERS:
                raise _TooMuch(f"more than {MOST_MEMBERS:,} members")
            yield member
            archive.members = []  # type: ignore[attr-defined]  # each that was read would stay in memory


def refuse_unsafe_name(path: Path, name: str) -> None:
    """Raise `DataError` for a member whose name is absolute or has ``..`` in it.

    Nothing is ever written under a member's name, but such an archive is not what it claims to be.
    """
    found = PureWindowsPath(name)  # knows / and \\ and C:
    if found.anchor or ".." in found.parts:
        raise DataError(
            f"{path} holds a member with the unsafe name {name!r} (absolute, or with '..'); do not use this archive"
        )


@contextlib.contextmanager
def _refusing(path: Path) -> Iterator[None]:
    try:
        yield
    except _TooMuch as error:
        raise DataError(f"{path} has {error}; do not use this archive") from None


def open_member(archive: tarfile.TarFile, member: tarfile.TarInfo) -> BinaryIO:
    """The bytes of a regular file in an archive that is read from front to end."""
    return io.BufferedReader(_Forward(archive.extractfile(member)))


class _Forward(io.RawIOBase):
    """What `tarfile` gives of a stream asks that for ``seekable``, which it has not; a reader of text wants to know."""

    def __init__(self, file: Any) -> None:
        self._file = file

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        octets = self._file.read(len(buffer))
        buffer[: len(octets)] = octets
        return len(octets)
