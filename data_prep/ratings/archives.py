"""Where the bytes of a ratings file are: in a plain or a compressed file, or in a member of an archive."""

import bz2
import contextlib
import gzip
import lzma
import stat
import tarfile
import zipfile
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from fnmatch import fnmatchcase
from pathlib import Path, PurePosixPath
from typing import BinaryIO, Literal, cast

from data_prep.ratings.foreign_files import foreign_archive, foreign_kind
from data_prep.tar_members import MOST_MEMBERS, members_of, open_member, open_tar, refuse_unsafe_name
from ppt_core.errors import DataError

MOVIELENS_NAMES = ("ratings.csv", "ratings.dat", "u.data")
RATING_SUFFIXES = (
    *(".csv", ".tsv", ".txt", ".dat", ".data", ".inter", ".rating"),
    *(".parquet", ".pq", ".jsonl", ".ndjson", ".json", ".feather", ".arrow"),
)
_PACKED_SUFFIXES = (".gz", ".bz2", ".xz", ".zst")
_ZIP_MAGIC = (b"PK\x03\x04", b"PK\x05\x06")  # the second: an archive without members
_UNPACKED_BYTES, _UNPACKED_SHARE = 1 << 28, 100
_HEAD_BYTES = 512  # a tar says what it is at byte 257

Compression = Literal["gzip", "bz2", "xz", "zstd"]
_COMPRESSIONS: dict[bytes, Compression] = {
    b"\x1f\x8b": "gzip",
    b"BZh": "bz2",
    b"\xfd7zXZ\0": "xz",
    b"\x28\xb5\x2f\xfd": "zstd",
}


@dataclass(frozen=True, kw_only=True)
class Source:
    """Readable bytes of one ratings file, whatever they are packed in.

    Attributes:
        path: the file on disk.
        archive: ``zip`` or ``tar``; None if ``path`` is no archive.
        member: the member of the archive, or None.
        packed: how a tar archive itself is compressed.
        compression: how these bytes, the file's or the member's, are compressed.
    """

    path: Path
    archive: Literal["zip", "tar"] | None = None
    member: str | None = None
    packed: Compression | None = None
    compression: Compression | None = None

    def __str__(self) -> str:
        return str(self.path) if self.member is None else f"{self.path} ({self.member})"

    @property
    def is_plain(self) -> bool:
        """Whether the bytes are the file's own."""
        return self.archive is None and self.compression is None

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
            except (zipfile.BadZipFile, tarfile.TarError, lzma.LZMAError, EOFError, zlib.error) as error:
                raise self._damaged(error) from None
            except OSError as error:
                raise DataError(f"{self} cannot be read ({error.strerror or error})") from None
            try:
                yield stream
            except (EOFError, zlib.error, gzip.BadGzipFile, zipfile.BadZipFile, lzma.LZMAError) as error:
                raise self._damaged(error) from None
            except (tarfile.TarError, OSError) as error:
                if self.is_plain:
                    raise
                raise self._damaged(error) from None

    def read(self) -> bytes:
        """The unpacked bytes. Raises what `open` does, and `DataError` for a few that unpack to very many."""
        limit = max(_UNPACKED_BYTES, _UNPACKED_SHARE * self.path.stat().st_size)
        with self.open() as stream:
            content = stream.read(limit + 1)
        if len(content) > limit:
            raise DataError(
                f"{self} unpacks to more than {limit:,} bytes and more than {_UNPACKED_SHARE} times its size; unpack "
                "it yourself if that is right"
            )
        return content

    def _damaged(self, error: Exception) -> DataError:
        return DataError(f"{self} is truncated or damaged ({str(error).rstrip('.')}); fetch it again")

    def _enter(self, stack: contextlib.ExitStack) -> BinaryIO:
        if self.archive == "zip":
            archive = stack.enter_context(zipfile.ZipFile(self.path))
            stream = cast(BinaryIO, stack.enter_context(archive.open(cast(str, self.member))))
        else:
            stream = stack.enter_context(self.path.open("rb"))
        if self.archive == "tar":
            stream = _decompressed(stack, stream, self.packed)
            tar = stack.enter_context(open_tar(self.path, stream))
            found = (each for each in members_of(self.path, tar) if each.name == self.member)
            stream = next(open_member(tar, each) for each in found)
        return _decompressed(stack, stream, self.compression)


def _decompressed(stack: contextlib.ExitStack, stream: BinaryIO, compression: Compression | None) -> BinaryIO:
    if compression is None:
        return stream
    if compression == "zstd":
        import pyarrow as pa

        return cast(BinaryIO, stack.enter_context(pa.CompressedInputStream(pa.PythonFile(stream, mode="r"), "zstd")))
    if compression == "gzip":
        return cast(BinaryIO, stack.enter_context(gzip.GzipFile(fileobj=stream)))
    return cast(BinaryIO, stack.enter_context({"bz2": bz2.BZ2File, "xz": lzma.LZMAFile}[compression](stream)))


def find_source(path: Path) -> Source:
    """Find the one ratings file at ``path``; see `find_sources`. Raises `DataError` if there are several."""
    sources = find_sources(path)
    if len(sources) > 1:
        raise DataError(f"{path} holds {len(sources)} files of ratings; name one of them")
    return sources[0]


def find_sources(path: Path, members: Sequence[str] = ()) -> list[Source]:
    """Find the ratings at ``path``: the file itself, the files of a folder, or members of an archive.

    Compression (gzip, bz2, xz, zstd) and archives (zip, tar) are recognised by their first bytes, never by the name.
    In an archive ``members`` are read, names or patterns of names. Without, a member named as in a MovieLens archive
    wins (``ratings.csv``, ``ratings.dat`` or ``u.data``, in any folder), else the only member that looks like data. Of
    a folder all files that look like data are read, as parts of one table, in the order of their names.

    Raises `DataError` if there is no such file or member, if several could be meant, or if it is the file of a program
    that is not read here.
    """
    if path.is_dir():
        return [source for file in files_of(path) for source in find_sources(file, members)]
    head = _head(Source(path=path))
    if head[:4] in _ZIP_MAGIC:
        chosen = _choose_members(path, _zip_names(path), members, "zip archive")
        return [_with_compression(Source(path=path, archive="zip", member=name)) for name in chosen]
    source = _with_compression(Source(path=path))
    head = _head(source)
    if head[257:262] == b"ustar":
        packed = Source(path=path, archive="tar", packed=source.compression)
        chosen = _choose_members(path, _tar_names(source), members, "tar archive")
        return [_with_compression(replace(packed, member=name)) for name in chosen]
    if members:
        raise DataError(f"{path} is no archive, so it has no members; leave out members=")
    return [source]


def _with_compression(source: Source) -> Source:
    head = _head(source)
    found = next((kind for magic, kind in _COMPRESSIONS.items() if head.startswith(magic)), None)
    source = replace(source, compression=found)
    inner = _head(source) if found else b""
    if inner[:4] in _ZIP_MAGIC or any(map(inner.startswith, _COMPRESSIONS)):
        raise DataError(f"{source} is packed twice; unpack it once")
    foreign = foreign_kind(inner or head)
    if foreign:
        raise DataError(f"{source} is {foreign[0]}; {foreign[1]}")
    return source


def _head(source: Source) -> bytes:
    try:
        mode = source.path.stat().st_mode
    except (FileNotFoundError, NotADirectoryError):
        raise DataError(f"{source.path} does not exist; check the spelling of the path") from None
    except OSError as error:
        raise DataError(f"{source.path} cannot be read ({error.strerror})") from None
    if not stat.S_ISREG(mode):  # a pipe cannot be read twice
        raise DataError(f"{source.path} is not a regular file; save what it gives to a file first")
    with source.open() as stream:
        head = stream.read(_HEAD_BYTES)
    if not head:
        raise DataError(f"{source} is empty")
    return head


def files_of(folder: Path) -> list[Path]:
    """The files of a folder that are read, in the order of their names. Raises `DataError` if there is none."""
    files = sorted(file for file in folder.rglob("*") if file.is_file())
    seen = [file for file in files if not _is_hidden(str(file.relative_to(folder)))]
    found = [file for file in seen if file.name in MOVIELENS_NAMES] or [
        file for file in seen if _looks_like_data(file.name)
    ]
    if not found:
        raise DataError(f"{folder} is a folder that holds no file of ratings ({', '.join(RATING_SUFFIXES)})")
    return found


def _zip_names(path: Path) -> list[str]:
    try:
        with zipfile.ZipFile(path) as archive:
            infos = archive.infolist()
    except (zipfile.BadZipFile, EOFError, OSError) as error:
        raise DataError(f"{path} is a truncated or damaged zip archive ({error}); fetch it again") from None
    if len(infos) > MOST_MEMBERS:
        raise DataError(f"{path} has more than {MOST_MEMBERS:,} members; do not use this archive")
    for info in infos:
        refuse_unsafe_name(path, info.orig_filename)
    return [info.filename for info in infos if not info.is_dir()]


def _tar_names(source: Source) -> list[str]:
    names = []
    with source.open() as stream, contextlib.ExitStack() as stack:
        try:
            for each in members_of(source.path, stack.enter_context(open_tar(source.path, stream))):
                refuse_unsafe_name(source.path, each.name)
                names += [each.name] if each.isfile() else []
        except tarfile.TarError as error:
            raise source._damaged(error) from None
    return names


def _choose_members(path: Path, names: Sequence[str], wanted: Sequence[str], kind: str) -> list[str]:
    foreign = foreign_archive(names)
    if foreign:
        raise DataError(f"{path} is {foreign[0]}; {foreign[1]}")
    names = [name for name in names if not _is_hidden(name)]
    if not names:
        raise DataError(f"{path} is a {kind} without files")
    if wanted:
        return [name for pattern in wanted for name in _matching(path, names, pattern)]
    usable = (
        [name for name in names if PurePosixPath(name).name in MOVIELENS_NAMES]
        or [name for name in names if _looks_like_data(name)]
        or names
    )
    if len(usable) == 1:
        return usable
    raise DataError(
        f"{path} holds {len(usable)} files that could be the ratings ({_listed(usable)}); unpack it and name one, or "
        "name one with members=, or with a pattern several that are parts of one table"
    )


def _matching(path: Path, names: Sequence[str], pattern: str) -> list[str]:
    found = [name for name in names if pattern in (name, PurePosixPath(name).name)]
    found = found or sorted(
        name for name in names if fnmatchcase(name, pattern) or fnmatchcase(PurePosixPath(name).name, pattern)
    )
    if not found:
        raise DataError(f"{path} has no member {pattern!r}; it holds {_listed(names)}")
    return found


def _listed(names: Sequence[str]) -> str:
    return ", ".join(names[:10]) + (f" and {len(names) - 10} more" if len(names) > 10 else "")


def _is_hidden(name: str) -> bool:
    return any(part.startswith((".", "_")) for part in PurePosixPath(name).parts if part != ".")


def _looks_like_data(name: str) -> bool:
    plain = PurePosixPath(name.lower())
    if plain.suffix in _PACKED_SUFFIXES:
        plain = plain.with_suffix("")
    return plain.suffix in RATING_SUFFIXES and "readme" not in name.lower()
