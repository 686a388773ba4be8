"""A prepared set from whatever a source is: a known name, files of any layout, or an object in memory."""

import contextlib
import warnings
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, cast

from data_prep.ratings.columns import ReadOptions
from data_prep.ratings.download import KNOWN_DATASETS
from data_prep.ratings.filters import Filters, HeavyUsers
from data_prep.ratings.in_memory import read_object
from data_prep.ratings.interactions import PreparedData
from data_prep.ratings.memory_limit import bytes_of, read_within, refuse_large
from data_prep.ratings.ncf_files import is_ncf_train_file, read_ncf_files
from data_prep.ratings.own_split import prepare_own
from data_prep.ratings.prepare import MIN_RATINGS, N_NEGATIVES, DrawnProtocol, Order, Settings, prepare, prepare_with
from data_prep.ratings.readers import ReadRatings, read_files
from data_prep.ratings.remarks import warnings_of
from data_prep.ratings.sources import SYNTHETIC, read_source
from data_prep.ratings.streamed import prepare_stored
from data_prep.ratings.streamed_reading import StreamedRatings
from data_prep.ratings.synthetic import SAMPLE
from ppt_core.errors import DataError, DataWarning
from ppt_core.runs.files import new_directory, refuse_existing


def sample() -> PreparedData:
    """The built-in sample: synthetic interactions of a fixed seed, prepared with the defaults."""
    read, origin = read_source([SYNTHETIC], read_paths=read_files)
    return replace(prepare(read.ratings, source=origin), is_sample=True)


def prepare_source(
    source: Any,
    out: Path | str | None = None,
    *,
    min_ratings: int = MIN_RATINGS,
    min_item_ratings: int = 1,
    heavy_users: HeavyUsers = "drop",
    n_negatives: int = N_NEGATIVES,
    protocol: DrawnProtocol = "strict",
    seed: int = 0,
    order: Order | None = None,
    test: Any = None,
    test_negatives: Path | str | None = None,
    split_time: str | float | None = None,
    source_file: Path | str | None = None,
    n_users: int | None = None,
    n_items: int | None = None,
    n_interactions: int | None = None,
    in_order: float | None = None,
    validation: bool = False,
    cache: Path | str | None = None,
    progress: bool = True,
    memory: int | str | None = None,
    **reading: Any,
) -> PreparedData:
    """Make a prepared set from whatever ``source`` is or names, and write it to the new folder ``out``, if given.

    ===================  ====================================================================================
    a known name         one of ``data_prep.ratings.download.KNOWN_DATASETS``: downloaded, or read from ``source_file``
    ``synthetic``        `data_prep.ratings.synthetic.synthesize` with ``n_users`` ... ``in_order``
    X.train.rating[.gz]  the NCF authors' split and negatives, as they are: protocol ``published``
    train-ratings.csv    beside ``test-ratings.csv`` and ``test-negative.csv``: MLPerf's, as its converter wrote them
    another path         a ratings file, a folder or an archive of them (`data_prep.ratings.readers.read_files`)
    a list of paths      files of one table
    another object       a DataFrame, columns, rows, a sparse matrix (`data_prep.ratings.in_memory.read_object`)
    ===================  ====================================================================================

    A known name wins over a file of that name; write ``./ml-1m`` for the file.

    Args:
        source: see above.
        out: must not exist. None keeps the set in memory; `PreparedData.save` writes it later.
        min_ratings: see `prepare`.
        min_item_ratings: see `prepare`.
        heavy_users: see `prepare`.
        n_negatives: see `prepare`.
        protocol: see `prepare`.
        seed: decides the negatives, synthetic data, and what is held out where the source has no times.
        order: see `prepare`.
        test: the test rows of a split that was made already, of which ``source`` holds the train rows; any source. See
            `data_prep.ratings.own_split.prepare_split`. No filter applies.
        test_negatives: a file of the negatives of each test user (`data_prep.ratings.own_split.read_negatives`).
        split_time: a date or a time: rows before it train, and of each user the first item after it is held out.
            Leave-one-out lets other users' future into training; one moment for all does not.
        source_file: a copy at hand of the known data set, in any form that `read_ratings` reads. The manifest
            records its checksum and, as ``is_official``, whether the bytes are the published archive's.
        n_users: number of synthetic users; the built-in sample's by default, as for the next two.
        n_items: number of synthetic items.
        n_interactions: number of synthetic interactions.
        in_order: share of each synthetic user's items that follow an order of the catalogue; none by default.
        validation: see `prepare`.
        cache: folder for downloads; the user's cache folder by default.
        progress: whether a download shows a progress bar on standard error.
        memory: bytes that preparing may take, or a size as ``4GB``. Files that may need more are prepared in parts,
            rows on disk beside ``out``, to the same bytes: texts and Parquet, split by leave-one-out. None takes what
            the machine has available; what cannot be prepared in parts is then prepared in memory all the same.
        reading: how the source is read: `data_prep.ratings.columns.ReadOptions` has the names, as ``user_column``,
            ``separator``, ``min_rating``, ``events`` or ``skip_bad_rows``.

    Warns `ppt_core.errors.DataWarning` of what may not be as it seems; `PreparedData.warnings` keeps it.

    Raises:
        DataError: ``out`` exists, ``source`` is nothing of the above or cannot be read, an option does not apply
            to it, or the ratings cannot be prepared.
        ValueError: an argument is out of its range.
    """
    if out is not None:
        refuse_existing(Path(out))
    filters = Filters(min_ratings=min_ratings, min_item_ratings=min_item_ratings, heavy_users=heavy_users)
    settings = Settings(
        filters=filters, n_negatives=n_negatives, protocol=protocol, seed=seed, order=order, validation=validation
    )
    found: list[str] = []
    options = ReadOptions(**reading)
    paths = _paths(source)
    name = str(paths[0]) if len(paths) == 1 else None
    if source_file is not None and name not in KNOWN_DATASETS:
        raise DataError(
            f"source_file is for a copy of a known data set ({', '.join(KNOWN_DATASETS)}), not of {name!r}; "
            f"name {source_file} as the source to read that file"
        )
    chosen = {"n_users": n_users, "n_items": n_items, "n_interactions": n_interactions, "in_order": in_order}
    if name != SYNTHETIC and any(value is not None for value in chosen.values()):
        raise DataError(f"{', '.join(chosen)} are for `synthetic` only; leave them out for {name!r}")

    own = _own_split(test, test_negatives, split_time, filters, order, validation=validation)
    if test_negatives is not None and (n_negatives, protocol) != (N_NEGATIVES, "strict"):
        raise DataError("test_negatives= holds the negatives, so none are drawn; leave out n_negatives and protocol=")
    if not own and name is not None and name not in (*KNOWN_DATASETS, SYNTHETIC) and is_ncf_train_file(Path(name)):
        said = (filters, n_negatives, protocol, seed, validation, order, options, memory)
        if said != (Filters(), N_NEGATIVES, "strict", 0, False, None, ReadOptions(), None):
            raise DataError(
                f"{name} comes with its own split and negatives; leave out min_ratings, n_negatives, protocol=, "
                "validation=, seed=, memory= and all that says how to read it"
            )
        data = read_ncf_files(Path(name))
    else:
        limit = None if memory is None else bytes_of(memory)
        with contextlib.ExitStack() as stack:
            read: ReadRatings | StreamedRatings
            if not paths:
                read, origin = read_object(source, options), {"name": type(source).__name__}
            else:
                synthetic = SAMPLE | {name: value for name, value in chosen.items() if value is not None}
                if name == SYNTHETIC:
                    refuse_large("synthetic data", int(synthetic["n_interactions"]), limit, settings)
                read, origin = read_source(
                    paths,
                    options,
                    seed=seed,
                    source_file=None if source_file is None else Path(source_file),
                    synthetic=synthetic,
                    cache=None if cache is None else Path(cache),
                    progress=progress,
                    read_paths=partial(
                        read_within,
                        memory=limit,
                        settings=settings,
                        folder=None if out is None else partial(_beside, stack, Path(out)),
                        whole="a split of your own is made of all rows at once" if own else None,
                    ),
                )
            found += [origin.pop("unlike_published")] if "unlike_published" in origin else []
            if isinstance(read, StreamedRatings):
                made = prepare_stored(read, settings, source=origin)
                _note(made.manifest, len(made.user_ids), options, found)
                made.write(read.folder)
            elif own:
                data = prepare_own(
                    read,
                    None if test is None else _read_test(test, options),
                    None if split_time is None else str(split_time),
                    filters,
                    time_format=options.time_format,
                    negatives=None if test_negatives is None else Path(test_negatives),
                    n_negatives=n_negatives,
                    protocol=protocol,
                    seed=seed,
                    source=origin,
                )
            else:
                data = prepare_with(read.ratings, settings, source=origin, reading=read.reading)
        if isinstance(read, StreamedRatings):
            return PreparedData.load(cast(Path, out))
    _note(data.manifest, data.n_users, options, found)
    return data if out is None else data.save(out)


def _beside(stack: contextlib.ExitStack, out: Path) -> Path:
    """The folder that becomes ``out`` when the stack is left without an error."""
    return stack.enter_context(new_directory(out))


def _note(manifest: dict[str, Any], n_users: int, options: ReadOptions, found: list[str]) -> None:
    """Complete a manifest by what counted as a positive and by warnings, found before or now, which are said, too."""
    if options.min_rating is not None or options.events:
        manifest.update(min_rating=options.min_rating, events=list(options.events))
    found += warnings_of(manifest, n_users=n_users)
    if found:
        manifest["warnings"] = found
    for sentence in found:
        warnings.warn(sentence, DataWarning, stacklevel=3)


def _own_split(
    test: Any, test_negatives: Any, split_time: Any, filters: Filters, order: Order | None, *, validation: bool
) -> bool:
    """Whether the split is no leave-one-out. Raises `DataError` for arguments that do not go with one another."""
    if test is None and split_time is None:
        if test_negatives is not None:
            raise DataError("test_negatives= belong to the test rows of a split of your own; name them with test=")
        return False
    if test is not None and split_time is not None:
        raise DataError("test= is a split of its own; leave out split_time=")
    if validation or order is not None or (test is not None and filters != Filters()):
        raise DataError(
            "a split of your own is taken as it is; leave out validation=, order=, min_ratings, min_item_ratings and "
            "heavy_users"
        )
    return True


def _read_test(test: Any, options: ReadOptions) -> tuple[ReadRatings, dict[str, Any]]:
    """The test rows of a split, and where they came from."""
    paths = _paths(test)
    if not paths:
        return read_object(test, options), {"name": type(test).__name__}
    return read_source(paths, options, read_paths=read_files)


def _paths(source: Any) -> list[str]:
    """The paths or the name that a source is; none for an object."""
    if isinstance(source, (str, Path)):
        return [str(source)]
    is_list = isinstance(source, (list, tuple)) and len(source) > 0
    return [str(each) for each in source] if is_list and all(isinstance(e, (str, Path)) for e in source) else []


def load_data(path: Path | str | None = None) -> PreparedData:
    """Open the prepared set in the folder ``path`` (`PreparedData.load`), or without one the built-in sample."""
    return sample() if path is None else PreparedData.load(path)
