"""Where the bytes of a ratings file are: in a plain file, a gzipped one, or a member of a zip archive."""

import contextlib
import gzip
import stat
import zipfile
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import BinaryIO, cast

from ppt_core.errors import DataError

MOVIELENS_NAMES = ("ratings.csv", "ratings.dat", "u.data")
RATING_SUFFIXES = (".csv", ".tsv", ".txt", ".dat", ".data", ".inter", ".rating", ".parquet")
_GZIP_MAGIC = b"\x1f\x8b"
_ZIP_MAGIC = (b"PK\x03\x04", b"PK\x05\x06")  # the second: an archive without members


@dataclass(frozen=True, kw_only=True)
class Source:
    """Readable bytes of one ratings file, whatever they are packed in.

    Attributes:
        path: the file on disk.
        member: the member of the zip archive ``path``, or None if ``path`` is no archive.
        gzipped: whether these bytes (the file's or the member's) are gzipped.
    """

    path: Path
    member: str | None = None
    gzipped: bool = False

    def __str__(self) -> str:
        return str(self.path) if self.member is None else f"{self.path} ({self.member})"

    @contextlib.contextmanager
    def open(self) -> Iterator[BinaryIO]:
        """Yield the unpacked bytes as a stream; it need not be seekable.

        Raises `DataError` if the file cannot be read or turns out damaged or truncated, also while reading.
        """
        with contextlib.ExitStack() as stack:
            try:
                stream = self._enter(stack)
            except (NotImplementedError, RuntimeError) as error:  # zipfile: unknown compression, password
                raise DataError(f"{self} cannot be unpacked ({error}); unpack it yourself and name the file") from None
            except zipfile.BadZipFile as error:
                raise DataError(f"{self} is truncated or damaged ({error}); fetch it again") from None
            except OSError as error:
                raise DataError(f"{self} cannot be read ({error.strerror or error})") from None
            try:
                yield stream
            except (EOFError, zlib.error, gzip.BadGzipFile, zipfile.BadZipFile) as error:
                reason = str(error).rstrip(".")
                raise DataError(f"{self} is truncated or damaged ({reason}); fetch it again") from None

    def _enter(self, stack: contextlib.ExitStack) -> BinaryIO:
        if self.member is None:
            stream: BinaryIO = stack.enter_context(self.path.open("rb"))
        else:
            archive = stack.enter_context(zipfile.ZipFile(self.path))
            stream = cast(BinaryIO, stack.enter_context(archive.open(self.member)))
        if self.gzipped:
            stream = cast(BinaryIO, stack.enter_context(gzip.GzipFile(fileobj=stream)))
        return stream


def find_source(path: Path) -> Source:
    """Find the ratings file at ``path``: the file itself, or the member of a zip archive that holds ratings.

    gzip and zip are recognised by their first bytes, never by the name. In an archive, a member named as in
    a MovieLens archive wins (``ratings.csv``, ``ratings.dat`` or ``u.data``, in any folder), else the only
    member that looks like data. Raises `DataError` if there is no such file or member, or if several could
    be meant.
    """
    magic = _first_bytes(Source(path=path))
    if magic in _ZIP_MAGIC:
        source = Source(path=path, member=_choose_member(path))
        magic = _first_bytes(source)
    else:
        source = Source(path=path)
    if magic.startswith(_GZIP_MAGIC):
        return Source(path=path, member=source.member, gzipped=True)
    return source


def _first_bytes(source: Source) -> bytes:
    try:
        mode = source.path.stat().st_mode
    except (FileNotFoundError, NotADirectoryError):
        raise DataError(f"{source.path} does not exist; check the spelling of the path") from None
    except OSError as error:
        raise DataError(f"{source.path} cannot be read ({error.strerror})") from None
    if stat.S_ISDIR(mode):
        raise DataError(f"{source.path} is a folder; name the ratings file inside it")
    if not stat.S_ISREG(mode):  # a pipe cannot be read twice
        raise DataError(f"{source.path} is not a regular file; save the ratings to a file first")
    with source.open() as stream:
        magic = stream.read(4)
    if not magic:
        raise DataError(f"{source} is empty")
    return magic


def _choose_member(path: Path) -> str:
    try:
        with zipfile.ZipFile(path) as archive:
            infos = archive.infolist()
    except (zipfile.BadZipFile, EOFError, OSError) as error:
        raise DataError(f"{path} is a truncated or damaged zip archive ({error}); fetch it again") from None
    for info in infos:
        _refuse_unsafe(path, info.orig_filename)
    names = [info.filename for info in infos if not info.is_dir() and not _is_hidden(info.filename)]
    usable = (
        [name for name in names if PurePosixPath(name).name in MOVIELENS_NAMES]
        or [name for name in names if _looks_like_data(name)]
        or names
    )
    if len(usable) == 1:
        return usable[0]
    if not usable:
        raise DataError(f"{path} is a zip archive without files")
    listed = ", ".join(usable[:10]) + (f" and {len(usable) - 10} more" if len(usable) > 10 else "")
    raise DataError(f"{path} holds {len(usable)} files that could be the ratings ({listed}); unpack it and name one")


def _refuse_unsafe(path: Path, name: str) -> None:
    # Nothing is ever written under a member's name, but such an archive is not what it claims to be.
    if PureWindowsPath(name).anchor or ".." in PureWindowsPath(name).parts:  # knows / and \\ and C:
        raise DataError(
            f"{path} holds a member with the unsafe name {name!r} (absolute, or with '..'); do not use this archive"
        )


def _is_hidden(name: str) -> bool:
    return any(part.startswith((".", "__MACOSX")) for part in PurePosixPath(name).parts)


def _looks_like_data(name: str) -> bool:
    suffixes = PurePosixPath(name.lower().removesuffix(".gz")).suffixes
    return suffixes[-1:] != [] and suffixes[-1] in RATING_SUFFIXES and "readme" not in name.lower()
