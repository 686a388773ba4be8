"""Ratings by name: known data sets, files and synthetic ones."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

from data_prep.ratings.archives import files_of
from data_prep.ratings.columns import ReadOptions
from data_prep.ratings.download import KNOWN_DATASETS, fetch
from data_prep.ratings.readers import ReadRatings
from data_prep.ratings.streamed_reading import StreamedRatings
from data_prep.ratings.synthetic import SAMPLE, synthesize
from ppt_core.errors import DataError
from ppt_core.runs.files import file_sha256

SYNTHETIC = "synthetic"
Found = TypeVar("Found", bound=ReadRatings | StreamedRatings)


def read_source(
    paths: Sequence[str],
    options: ReadOptions | None = None,
    *,
    seed: int = 0,
    source_file: Path | None = None,
    synthetic: Mapping[str, Any] = SAMPLE,
    cache: Path | None = None,
    progress: bool = False,
    read_paths: Callable[[Sequence[Path], ReadOptions | None], Found],
) -> tuple[ReadRatings | Found, dict[str, Any]]:
    """Return the ratings and where they came from. Base names only: the same file gives the same manifest.

    Args:
        paths: a known data set, ``synthetic``, or files that `data_prep.ratings.readers.read_files` reads.
        options: how files are read.
        seed: of synthetic interactions.
        source_file: a copy at hand of a known data set, or None to download it.
        synthetic: arguments of `data_prep.ratings.synthetic.synthesize`, without the seed.
        cache: where downloads are kept, or None for the usual place.
        progress: show a progress bar.
        read_paths: reads files: `data_prep.ratings.readers.read_files`, or another, which may leave rows on disk.

    Raises `DataError` if a path is none of these, or cannot be read.
    """
    source = paths[0] if len(paths) == 1 else ""
    if source == SYNTHETIC:
        made = ReadRatings(synthesize(**synthetic, seed=seed), None)
        return made, {"name": SYNTHETIC, **synthetic, "seed": seed}
    if source in KNOWN_DATASETS:
        dataset = KNOWN_DATASETS[source]
        path = fetch(dataset, cache=cache, progress=progress) if source_file is None else source_file
        read = read_paths([path], options)
        files = _described([path])
        is_official = files.get("sha256") == dataset.sha256
        origin: dict[str, Any] = {"name": source, **files, "is_official": is_official}
        found = (len(read.ratings), len(read.ratings.user_ids), len(read.ratings.item_ids))
        is_whole = options is None or not (options.min_rating is not None or options.events or options.skip_bad_rows)
        if dataset.counts and is_whole and not is_official and found != dataset.counts:
            origin["unlike_published"] = (
                f"{path.name} holds {_shape(found)}, and the published {source} has {_shape(dataset.counts)}, so this "
                f"is not {source}; name {path.name} as the source to prepare it under its own name"
            )
        return read, origin
    for path in map(Path, paths):
        if not path.exists():
            raise DataError(
                f"{str(path)!r} is neither a file nor a known data set; known: {', '.join(KNOWN_DATASETS)}, {SYNTHETIC}"
            )
    read = read_paths([Path(path) for path in paths], options)
    return read, {"name": Path(paths[0]).name or Path(paths[0]).resolve().name, **_described([*map(Path, paths)])}


def _described(paths: Sequence[Path]) -> dict[str, Any]:
    """Name and checksum of the one file that is named, or else of all files and those of folders."""
    if len(paths) == 1 and paths[0].is_file():
        return {"file": paths[0].name, "sha256": file_sha256(paths[0])}
    files = [file for path in paths for file in ([path] if path.is_file() else files_of(path))]
    return {"files": [{"name": file.name, "sha256": file_sha256(file)} for file in files]}


def _shape(counts: tuple[int, int, int]) -> str:
    return f"{counts[0]:,} ratings of {counts[1]:,} users and {counts[2]:,} items"
