"""Known data sets: where they are published, what their bytes hash to, and fetching them once."""

import contextlib
import os
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType

from ppt_core.errors import DataError
from ppt_core.runs.files import file_sha256
from ppt_core.runs.partial_files import PARTIAL, held, prefix_of

_GROUPLENS = "https://files.grouplens.org/datasets/movielens"
_HUGGING_FACE = "https://huggingface.co/datasets/Recommenders/MovieLens/resolve/main"
_TIMEOUT_S = 30  # for connecting and for each read, not for the whole download


@dataclass(frozen=True, kw_only=True)
class KnownDataset:
    """A published archive.

    Attributes:
        name: what the user calls it.
        sha256: of the archive, 64 hexadecimal digits.
        urls: addresses of the same bytes, tried in this order.
        counts: ratings, users and items that it holds, if known.
    """

    name: str
    sha256: str
    urls: tuple[str, ...]
    counts: tuple[int, int, int] | None = None


def _movielens(name: str, sha256: str, counts: tuple[int, int, int], *mirrors: str) -> KnownDataset:
    urls = tuple(f"{host}/{name}.zip" for host in (_GROUPLENS, *mirrors))
    return KnownDataset(name=name, sha256=sha256, urls=urls, counts=counts)


_PUBLISHED = {
    "ml-100k": ("50d2a982c66986937beb9ffb3aa76efe955bf3d5c6b761f4e3a7cd717c6a3229", (100_000, 943, 1_682)),
    "ml-1m": ("a6898adb50b9ca05aa231689da44c217cb524e7ebd39d264c56e2832f2c54e20", (1_000_209, 6_040, 3_706)),
    "ml-20m": ("96f243c338a8665f6bcc89c53edf6ee39162a846940de6b7c8c48aeada765ff3", (20_000_263, 138_493, 26_744)),
    "ml-25m": ("8b21cfb7eb1706b4ec0aac894368d90acf26ebdfb6aced3ebd4ad5bd1eb9c6aa", (25_000_095, 162_541, 59_047)),
    "ml-32m": ("e4a68655d7386b8f95f2f2424b2ff975dfdd15ffd59e0d864a14dca43e99d6ee", (32_000_204, 200_948, 84_432)),
}
_OLDER = ("ml-100k", "ml-1m", "ml-20m")  # the mirror holds these only
KNOWN_DATASETS: Mapping[str, KnownDataset] = MappingProxyType(
    {
        name: _movielens(name, sha256, counts, *((_HUGGING_FACE,) if name in _OLDER else ()))
        for name, (sha256, counts) in _PUBLISHED.items()
    }
)


def fetch(dataset: KnownDataset, *, cache: Path | None = None, progress: bool = True) -> Path:
    """Return the archive of a known data set, downloading it unless the cache holds it already.

    Args:
        dataset: one of ``KNOWN_DATASETS``.
        cache: folder for archives; the user's cache folder for ``ppt-ncf`` by default.
        progress: whether to show a progress bar on standard error.

    Returns:
        A file whose SHA-256 is ``dataset.sha256``: a download with another one is deleted and the next address
        is tried, and a changed file in the cache is fetched again. What an interrupted download left, in
        ``NAME.zip.part``, is gone on with, at any address.

    Raises:
        DataError: no address gave these bytes; it names each with its failure, the checksum, and how to hand
            over a copy.
    """
    import platformdirs

    folder = platformdirs.user_cache_path("ppt-ncf") if cache is None else cache
    archive = folder / f"{dataset.name}.zip"
    failures = []
    with contextlib.ExitStack() as stack:
        try:
            if archive.exists() and file_sha256(archive) == dataset.sha256:
                return archive
            folder.mkdir(parents=True, exist_ok=True)
            partial = stack.enter_context(_begun(archive))
        except OSError as error:
            raise DataError(
                f"the cache {folder} cannot be used ({error.strerror}); make it writable, or fetch {archive.name} "
                f"elsewhere and run `ppt-ncf prepare {dataset.name} --source FILE`"
            ) from None
        for url in dataset.urls:
            is_rest = partial.stat().st_size > 0
            try:
                _go_on(url, partial, progress=progress)
                if is_rest and file_sha256(partial) != dataset.sha256:  # what was there was of other bytes
                    os.truncate(partial, 0)
                    _go_on(url, partial, progress=progress)
            except OSError as error:  # requests' exceptions are such
                failures.append(f"{url} ({_reason(error)})")
                continue
            if file_sha256(partial) == dataset.sha256:
                partial.replace(archive)
                return archive
            os.truncate(partial, 0)
            failures.append(f"{url} (wrong checksum)")
    raise DataError(
        f"{dataset.name} could not be downloaded from {' or '.join(failures)}; fetch {archive.name} with sha256 "
        f"{dataset.sha256} elsewhere and run `ppt-ncf prepare {dataset.name} --source FILE`"
    )


def _reason(error: Exception) -> str:
    import requests

    if isinstance(error, requests.HTTPError) and error.response is not None:
        return f"HTTP status {error.response.status_code}"
    if isinstance(error, requests.exceptions.SSLError):
        return "its certificate is not valid" if "CERTIFICATE" in str(error) else "no secure connection"
    if isinstance(error, requests.Timeout):
        return f"no answer in {_TIMEOUT_S} s"
    if isinstance(error, requests.ConnectionError):
        return "no connection"
    if isinstance(error, requests.exceptions.ChunkedEncodingError):
        return "it broke off; the same command goes on from there"
    if isinstance(error, requests.RequestException):
        return type(error).__name__
    if isinstance(error, OSError):
        return error.strerror or type(error).__name__
    return " ".join(str(error).split())


@contextlib.contextmanager
def _begun(archive: Path) -> Iterator[Path]:
    """The file that a download grows in, which holds what an interrupted one left, and is kept where this one is.

    While another process goes on with that, it is a file of this process alone.
    """
    begun = archive.with_name(f"{archive.name}.part")
    with contextlib.ExitStack() as stack:
        begun.touch()
        if not stack.enter_context(held(begun)):
            folder = stack.enter_context(tempfile.TemporaryDirectory(PARTIAL, prefix_of(archive), archive.parent))
            begun = Path(folder) / begun.name
            begun.touch()
        try:
            yield begun
        finally:
            if begun.exists() and not begun.stat().st_size:
                begun.unlink()


def _go_on(url: str, partial: Path, *, progress: bool) -> None:
    """Download ``url`` into ``partial``, or the rest of it where some bytes are there and the server sends parts."""
    import requests
    from tqdm import tqdm

    start = partial.stat().st_size
    wanted = {"Accept-Encoding": "identity", **({"Range": f"bytes={start}-"} if start else {})}
    with requests.get(url, headers=wanted, stream=True, timeout=_TIMEOUT_S) as answer:
        if start and answer.status_code == 416:  # nothing is behind what is there
            return
        answer.raise_for_status()
        if answer.status_code != 206 or not answer.headers.get("Content-Range", "").startswith(f"bytes {start}-"):
            start = 0
        length = answer.headers.get("Content-Length")
        total = None if length is None else start + int(length)
        with (
            partial.open("ab" if start else "wb") as file,
            tqdm(total=total, initial=start, unit="B", unit_scale=True, disable=not progress, leave=True) as bar,
        ):
            for chunk in answer.iter_content(1 << 16):
                file.write(chunk)
                bar.update(len(chunk))
        if total is not None and partial.stat().st_size < total:
            raise requests.exceptions.ChunkedEncodingError
