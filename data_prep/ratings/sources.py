"""Ratings by name: known data sets, files and synthetic ones."""

from pathlib import Path
from typing import Any

from data_prep.ratings.download import KNOWN_DATASETS, fetch
from data_prep.ratings.raw_ratings import Ratings
from data_prep.ratings.readers import read_ratings
from data_prep.ratings.synthetic import synthesize
from ppt_core.errors import DataError
from ppt_core.runs.files import file_sha256

SYNTHETIC = "synthetic"


def read_source(
    source: str,
    *,
    seed: int,
    source_file: Path | None,
    sizes: tuple[int, int, int],
    cache: Path | None,
    progress: bool,
) -> tuple[Ratings, dict[str, Any]]:
    """Return the ratings and where they came from. Base names only: the same file gives the same manifest.

    Args:
        source: a known data set, ``synthetic``, or a file that `data_prep.ratings.readers.read_ratings` reads.
        seed: of synthetic interactions.
        source_file: a copy at hand of a known data set, or None to download it.
        sizes: users, items and interactions of synthetic data.
        cache: where downloads are kept, or None for the usual place.
        progress: show a progress bar.

    Raises `DataError` if ``source`` is neither, or cannot be read.
    """
    if source == SYNTHETIC:
        n_users, n_items, n_interactions = sizes
        return synthesize(n_users, n_items, n_interactions, seed=seed), {
            "name": SYNTHETIC,
            "n_users": n_users,
            "n_items": n_items,
            "n_interactions": n_interactions,
            "seed": seed,
        }
    if source in KNOWN_DATASETS:
        dataset = KNOWN_DATASETS[source]
        path = fetch(dataset, cache=cache, progress=progress) if source_file is None else source_file
        ratings = read_ratings(path)
        digest = file_sha256(path)
        return ratings, {
            "name": source,
            "file": path.name,
            "sha256": digest,
            "is_official": digest == dataset.sha256,
        }
    path = Path(source)
    if not path.exists():
        raise DataError(
            f"{source!r} is neither a file nor a known data set; known: {', '.join(KNOWN_DATASETS)}, {SYNTHETIC}"
        )
    ratings = read_ratings(path)
    return ratings, {"name": path.name, "file": path.name, "sha256": file_sha256(path)}
