"""Splits for neural collaborative filtering that others made, read as they are: its authors' and MLPerf's.

Three files side by side, tab-separated and without a header, each plain or gzipped, as the authors published them (He
et al. 2017)::

    X.train.rating     user  item  rating  time      the training positives
    X.test.rating      user  item  rating  time      one held-out item for each user
    X.test.negative    (user,item)  negative ...     the same user and item, then the negatives

or as the converter of MLPerf v0.5's reference writes them (mlcommons/training, recommendation/pytorch/convert.py)::

    train-ratings.csv  user  item  1                 the training positives
    test-ratings.csv   user  item  1                 one held-out item for each user
    test-negative.csv  negative ...                  of user 0 in the first line, and so on
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from data_prep.ratings.archives import Source, find_source
from data_prep.ratings.interactions import Interactions, PreparedData
from data_prep.ratings.leave_one_out import latest_of_each
from data_prep.ratings.text_lines import Kind, TextLayout, shorten, text_fields
from data_prep.ratings.text_tables import read_text
from ppt_core.errors import DataError
from ppt_core.runs.files import file_sha256


@dataclass(frozen=True, kw_only=True)
class _Names:
    """How the files of a split end, and what a prepared set of them says."""

    train: str
    test: str
    negatives: str
    format: str
    protocol: Literal["published", "mlperf"]


_AUTHORS = _Names(
    train=".train.rating", test=".test.rating", negatives=".test.negative", format="ncf", protocol="published"
)
_MLPERF = _Names(
    train="train-ratings.csv",
    test="test-ratings.csv",
    negatives="test-negative.csv",
    format="mlperf",
    protocol="mlperf",
)
_KEY = r"^\((?P<user>[0-9]{1,10}), ?(?P<item>[0-9]{1,10})\)$"


def is_ncf_train_file(path: Path) -> bool:
    """Whether ``path`` is the train file of such a split.

    ``X.train.rating[.gz]`` is one by its name alone. Others may call their ratings ``train-ratings.csv``, so that is
    one only beside MLPerf's ``test-negative.csv``.
    """
    names = _names_of(path)
    return names is _AUTHORS or (
        names is _MLPERF and any(each.exists() for each in _siblings(path, names, "negatives"))
    )


def _names_of(train: Path) -> _Names | None:
    plain = train.name.removesuffix(".gz")
    return _AUTHORS if plain.endswith(_AUTHORS.train) else _MLPERF if plain == _MLPERF.train else None


def read_ncf_files(train: Path) -> PreparedData:
    """Read a train file and its siblings into a prepared set with exactly their split and negatives.

    Ids are kept: user u and item i of the files are row u and column i, so ``n_users`` and ``n_items`` are
    the largest id of the three files + 1, and ``user_ids`` and ``item_ids`` count from 0. A pair that occurs
    twice in the train file is one positive; as in the authors' code, a rating of 0 or less is none. Each
    user's negatives are sorted; repeats and the held-out item among them (156 in ml-1m) are kept: protocol
    ``published``, or ``mlperf`` of its converter's files. A fourth column holds times: the histories are ordered by it,
    equal times by their row in the file, a repeated pair at its latest row. Without it the set has no histories.

    Raises `DataError` if ``train`` is not named so, a sibling is missing, a line cannot be read, a user has
    no test line or several, or the two test files disagree.
    """
    names = _names_of(train)
    if names is None:
        raise DataError(
            f"{train} is not named like an NCF train file; its name must end in {_AUTHORS.train} or "
            f"{_AUTHORS.train}.gz, or be {_MLPERF.train}"
        )
    sources = {
        "train": find_source(train),
        "test": find_source(_sibling(train, names, "test")),
        "negatives": find_source(_sibling(train, names, "negatives")),
    }
    rows, ratings, times = _read_rows(sources["train"])
    held_out, _, _ = _read_rows(sources["test"])
    pairs = rows[ratings > 0]
    if names is _MLPERF:
        negatives = _read_table_of_negatives(sources["negatives"])
        keys = _keys_in_order(held_out, len(negatives))
    else:
        keys, negatives = _read_negatives(sources["negatives"])
    test_items, order = _match_test_files(sources, held_out, keys)
    test_negatives = np.sort(negatives[order], axis=1)
    n_users = len(test_items)
    _refuse_users_without_test(sources, pairs[:, 0], n_users)

    n_items = 1 + max(int(array.max(initial=-1)) for array in (pairs[:, 1], test_items, test_negatives))
    in_time_order = pairs[:, 0] * n_items + pairs[:, 1]
    history = None
    if times is not None:
        in_time_order = in_time_order[np.lexsort((times[ratings > 0], pairs[:, 0]))]
        history = (latest_of_each(in_time_order) % n_items).astype(np.int32)
    codes = np.sort(in_time_order)
    codes = codes[np.diff(codes, prepend=-1) > 0]  # NumPy 2.3's unique hashes: 4 times as slow
    interactions = Interactions.from_pairs(
        (codes // n_items).astype(np.int32),
        (codes % n_items).astype(np.int32),
        n_users=n_users,
        n_items=n_items,
    )
    held_out_codes = np.arange(n_users) * n_items + test_items
    manifest: dict[str, Any] = {
        "source": {
            "format": names.format,
            "files": {
                role: {"name": source.path.name, "sha256": file_sha256(source.path)} for role, source in sources.items()
            },
        },
        "n_train_rows_read": len(rows),
        "n_ratings_of_zero_or_less_dropped": len(rows) - len(pairs),
        "n_duplicates_dropped": len(pairs) - len(codes),
        "n_test_rows_read": len(held_out),
        "n_negatives_equal_to_held_out": int((test_negatives == test_items[:, None]).sum()),
        "n_held_out_in_train": int(
            (codes.searchsorted(held_out_codes, "right") - codes.searchsorted(held_out_codes)).sum()
        ),
        "ids": "the integers of the files as they are: row and column numbers",
    }
    return PreparedData(
        train=interactions,
        history=history,
        test_items=test_items.astype(np.int32),
        test_negatives=test_negatives.astype(np.int32),
        user_ids=np.arange(n_users, dtype=np.int64),
        item_ids=np.arange(n_items, dtype=np.int64),
        protocol=names.protocol,
        manifest=manifest,
    )


def _siblings(train: Path, names: _Names, role: Literal["test", "negatives"]) -> list[Path]:
    """Where the file of a role may be; packed like the train file first."""
    stem, ending = train.name.removesuffix(".gz").removesuffix(names.train), getattr(names, role)
    endings = (ending + ".gz", ending) if train.name.endswith(".gz") else (ending, ending + ".gz")
    return [train.with_name(stem + each) for each in endings]


def _sibling(train: Path, names: _Names, role: Literal["test", "negatives"]) -> Path:
    candidates = _siblings(train, names, role)
    for candidate in candidates:
        if candidate.exists():
            return candidate
    stem = train.name.removesuffix(".gz").removesuffix(names.train)
    raise DataError(
        f"{candidates[0]} is missing (nor is there {candidates[1].name}); the NCF files {stem}{names.train}, "
        f"{stem}{names.test} and {stem}{names.negatives} must lie side by side"
    )


def _n_columns(source: Source) -> int:
    layout = TextLayout(separator="\t", n_columns=0, columns={})
    _, fields = next(text_fields(source, layout), (0, []))
    if not fields:
        raise DataError(f"{source} is empty")
    return len(fields)


def _read_rows(source: Source) -> tuple[NDArray[np.int64], NDArray[Any], NDArray[Any] | None]:
    """Return the (user, item) pairs of a rating file, int64 (n, 2), ratings (n,) and, if it has them, times (n,)."""
    n_columns = _n_columns(source)
    if n_columns < 3:
        raise DataError(f"{source}: line 1 has {n_columns} tab-separated values; user, item and rating are needed")
    columns: dict[str, tuple[int, Kind]] = {
        "user": (0, "integer"),
        "item": (1, "integer"),
        "rating": (2, "number"),
    }
    if n_columns > 3:
        columns["time"] = (3, "number")
    table = read_text(source, TextLayout(separator="\t", n_columns=n_columns, columns=columns))
    pairs = np.column_stack([table.column(name).to_numpy() for name in ("user", "item")])
    _check_range(source, pairs)
    times = table.column("time").to_numpy() if "time" in columns else None
    return pairs, table.column("rating").to_numpy(), times


def _read_negatives(source: Source) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return the (user, item) keys, int64 (n, 2), and the negatives behind them, int64 (n, n_negatives)."""
    n_columns = _n_columns(source)
    if n_columns < 2:
        raise DataError(f"{source}: line 1 has no tab-separated negatives behind its (user,item)")
    columns: dict[str, tuple[int, Kind]] = {f"negative {n}": (n, "integer") for n in range(1, n_columns)}
    table = read_text(
        source, TextLayout(separator="\t", n_columns=n_columns, columns={"(user,item)": (0, "id"), **columns})
    )
    texts = table.column(0).cast(pa.string())
    found = pc.extract_regex(texts, _KEY)
    if found.null_count:
        row = pc.index(pc.is_null(found), True).as_py()
        raise DataError(f"{source}: row {row + 1} begins with {shorten(texts[row].as_py())}, not with (user,item)")
    keys = np.column_stack([pc.struct_field(found, name).cast(pa.int64()).to_numpy() for name in ("user", "item")])
    negatives = np.column_stack([column.to_numpy() for column in table.columns[1:]])
    _check_range(source, keys)
    _check_range(source, negatives)
    return keys, negatives


def _read_table_of_negatives(source: Source) -> NDArray[np.int64]:
    """Return the negatives of each line, int64 (n, n_negatives)."""
    n_columns = _n_columns(source)
    columns: dict[str, tuple[int, Kind]] = {f"negative {n + 1}": (n, "integer") for n in range(n_columns)}
    table = read_text(source, TextLayout(separator="\t", n_columns=n_columns, columns=columns))
    negatives = np.column_stack([column.to_numpy() for column in table.columns])
    _check_range(source, negatives)
    return negatives


def _keys_in_order(held_out: NDArray[np.int64], n_lines: int) -> NDArray[np.int64]:
    """The user and held-out item of each line of a file that names none: line k is of user k, int64 (n_lines, 2)."""
    keys = np.column_stack([np.arange(n_lines), np.full(n_lines, -1)])
    known = held_out[held_out[:, 0] < n_lines]
    keys[known[:, 0], 1] = known[:, 1]
    return keys


def _check_range(source: Source, ids: NDArray[np.int64]) -> None:
    for limit in (int(ids.min(initial=0)), int(ids.max(initial=0))):
        if not 0 <= limit < np.iinfo(np.int32).max:
            raise DataError(f"{source} holds the id {limit}; ids must be row and column numbers from 0 to 2147483646")


def _match_test_files(
    sources: dict[str, Source], held_out: NDArray[np.int64], keys: NDArray[np.int64]
) -> tuple[NDArray[np.int64], NDArray[np.intp]]:
    """Return each user's held-out item, int64 (n_users,), and the row of the user's negatives, (n_users,)."""
    order = {}
    for role, pairs in (("test", held_out), ("negatives", keys)):
        order[role] = np.argsort(pairs[:, 0], kind="stable")
        users = pairs[order[role], 0]
        if repeated := users[1:][users[1:] == users[:-1]].tolist():
            raise DataError(f"{sources[role]} has more than one line for user {repeated[0]}; one for each is needed")
        if gaps := np.flatnonzero(users != np.arange(len(users))).tolist():
            raise DataError(f"{sources[role]} has no line for user {gaps[0]}; users must count from 0 without a gap")
    test, negatives = held_out[order["test"]], keys[order["negatives"]]
    n_both = min(len(test), len(negatives))
    for user in np.flatnonzero(test[:n_both, 1] != negatives[:n_both, 1]).tolist():
        raise DataError(
            f"{sources['negatives'].path.name} has item {negatives[user, 1]} for user {user}, and "
            f"{sources['test'].path.name} has item {test[user, 1]}; the files do not belong together"
        )
    if len(test) != len(negatives):
        shorter, longer = ("test", "negatives") if len(test) < len(negatives) else ("negatives", "test")
        raise DataError(
            f"{sources[shorter]} has no line for user {n_both}, and {sources[longer].path.name} has one; "
            "the files do not belong together"
        )
    items: NDArray[np.int64] = test[:, 1]
    return items, order["negatives"]


def _refuse_users_without_test(sources: dict[str, Source], users: NDArray[np.int64], n_users: int) -> None:
    last = int(users.max(initial=-1))
    if last >= n_users:
        raise DataError(
            f"{sources['test']} has no line for user {users[users >= n_users].min()}, who is in "
            f"{sources['train'].path.name}; every user needs a held-out item"
        )
