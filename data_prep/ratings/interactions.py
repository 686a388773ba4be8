"""Implicit-feedback interactions, and the prepared set that every command reads.

A prepared set is a folder::

    manifest.json        format version, protocol, every choice made, counts, SHA-256 of the files below
    offsets.npy          int64 (n_users + 1,): user u's train items are items[offsets[u]:offsets[u + 1]]
    items.npy            int32 (n_train,): ascending within each user
    history.npy          int32 (n_train,): the same items in the order of time; absent where no order is known
    test_items.npy       int32 (n_users,): the held-out item of each user; of the first users only, in an own split
    test_negatives.npy   int32 (n_users, n_negatives): ascending within each user
    users.parquet        one column user_id: row u holds the original id of user u
    items.parquet        one column item_id: row i holds the original id of item i

Sets of format version 1 have no ``history.npy``. With a validation split (``prepare --validation``) also::

    validation_items.npy      int32 (n_users,): the second-last item of each user, no train item
    validation_negatives.npy  int32 (n_users, n_negatives): ascending within each user
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
from numpy.typing import NDArray

from data_prep.ratings.prepared_arrays import load_array, read_ids, refuse_misfits
from data_prep.ratings.remarks import summary
from ppt_core.errors import DataError
from ppt_core.identity import content_identity
from ppt_core.mapped import release_pages
from ppt_core.runs.files import file_checksums, new_directory, read_json, verify_checksums, write_json

FORMAT_VERSION = 2
Protocol = Literal["strict", "mlperf", "published"]
_SPLITS = {"own": "own split", "moment": "split at {}, next item"}
_HELD_OUT = {"drawn": ", random item", "file": ", last row of the file", "ties drawn": ", equal times drawn"}
_ARRAYS = ("offsets", "items", "test_items", "test_negatives")
_CHECKED_ITEMS = 1 << 22
_VALIDATION_ARRAYS = ("validation_items", "validation_negatives")


@dataclass(frozen=True, kw_only=True)
class Interactions:
    """Who interacted with what: a sparse binary matrix of shape (n_users, n_items) by rows (CSR).

    Attributes:
        offsets: int64 (n_users + 1,), ascending from 0 to ``len(items)``.
        items: int32 (n_interactions,), strictly ascending within each user.
        n_items: number of columns; items without an interaction count too.
    """

    offsets: NDArray[np.int64]
    items: NDArray[np.int32]
    n_items: int

    def __post_init__(self) -> None:
        for name, array in (("offsets", self.offsets), ("items", self.items)):
            if array.dtype.kind != "i" or array.ndim != 1:
                raise ValueError(f"{name} is {array.dtype} {array.shape}; it must be one row of integers")
        if not len(self.offsets) or self.offsets[0] != 0 or self.offsets[-1] != len(self.items):
            raise ValueError("offsets must ascend from 0 to the number of items")
        if (self.offsets[1:] < self.offsets[:-1]).any():  # differences could overflow
            raise ValueError("offsets must ascend from 0 to the number of items")
        for first in range(0, len(self.items), _CHECKED_ITEMS):  # a block at a time: the items may be mapped, and many
            block = self.items[max(first - 1, 0) : first + _CHECKED_ITEMS]
            if block.min() < 0 or block.max() >= self.n_items:
                raise ValueError(f"items must be between 0 and {self.n_items - 1}")
            descents = np.flatnonzero(block[1:] <= block[:-1]) + max(first, 1)
            places = np.minimum(np.searchsorted(self.offsets, descents), len(self.offsets) - 1)
            if (self.offsets[places] != descents).any():
                raise ValueError("items must be strictly ascending within each user")
            release_pages(self.items)

    @classmethod
    def from_pairs(
        cls, users: NDArray[np.integer[Any]], items: NDArray[np.integer[Any]], *, n_users: int, n_items: int
    ) -> "Interactions":
        """Build from parallel arrays of user and item numbers in any order; a pair may occur once only.

        Raises ValueError if it occurs twice or a number is out of range.
        """
        for name, numbers, n in (("users", users, n_users), ("items", items, n_items)):
            if len(numbers) and not 0 <= numbers.min() <= numbers.max() < n:
                raise ValueError(f"{name} must be between 0 and {n - 1}")
        order = np.lexsort((items, users))
        offsets = np.zeros(n_users + 1, np.int64)
        np.cumsum(np.bincount(users, minlength=n_users), out=offsets[1:])
        return cls(offsets=offsets, items=items[order].astype(np.int32), n_items=n_items)

    @classmethod
    def none(cls, *, n_users: int, n_items: int) -> "Interactions":
        """Nobody interacted with anything."""
        return cls(offsets=np.zeros(n_users + 1, np.int64), items=np.empty(0, np.int32), n_items=n_items)

    @property
    def n_users(self) -> int:
        """Number of rows."""
        return len(self.offsets) - 1

    def __len__(self) -> int:
        return len(self.items)

    @property
    def degrees(self) -> NDArray[np.int64]:
        """Number of items of each user, int64 (n_users,)."""
        return np.diff(self.offsets)

    def users(self) -> NDArray[np.int32]:
        """The user of each entry of ``items``, int32 (n_interactions,)."""
        return np.repeat(np.arange(self.n_users, dtype=np.int32), self.degrees)

    def items_of(self, user: int) -> NDArray[np.int32]:
        """The items of one user, ascending."""
        return self.items[self.offsets[user] : self.offsets[user + 1]]

    def __repr__(self) -> str:
        return f"Interactions({self.n_users:,} users x {self.n_items:,} items, {len(self):,} interactions)"


@dataclass(frozen=True, kw_only=True, repr=False)
class PreparedData:
    """A leave-one-out split with frozen test negatives and the original ids.

    Attributes:
        train: the training positives.
        history: int32 (n_train,), each user's train items, oldest first: user u's are
            ``history[train.offsets[u]:train.offsets[u + 1]]``. None if the order in time is not known. It never holds
            a held-out item: neither the test item nor the validation item.
        test_items: int32 (n_users,), the held-out item of each user.
        test_negatives: int32 (n_users, n_negatives), ascending in each row. Under protocol ``strict`` a row
            holds distinct items, none a train positive or the held-out item. Under ``mlperf`` items may repeat
            and the held-out item may occur. ``published`` negatives are taken as they were published.
        user_ids: original id of each user, int64 or str objects (n_users,).
        item_ids: original id of each item, int64 or str objects (n_items,).
        protocol: how the negatives were drawn; numbers of different protocols must not be compared.
        manifest: every choice and count of the preparation, as JSON values.
        validation_items: int32 (n_users,), the item before each user's held-out one, held out of training too; None
            if the set was made without. What is chosen is chosen on these, never on the test items.
        validation_negatives: int32 (n_users, n_negatives), what they are ranked among, drawn by the same protocol
            from what is no train positive. The test item may be among them: validation knows nothing of the test.
        path: the folder that the set was loaded from or saved to; None if it was never saved.
        is_sample: whether it is the built-in sample, which needs no folder.
    """

    train: Interactions
    test_items: NDArray[np.int32]
    test_negatives: NDArray[np.int32]
    user_ids: NDArray[Any]
    item_ids: NDArray[Any]
    protocol: Protocol
    manifest: dict[str, Any]
    history: NDArray[np.int32] | None = None
    validation_items: NDArray[np.int32] | None = None
    validation_negatives: NDArray[np.int32] | None = None
    path: Path | None = None
    is_sample: bool = False

    def __post_init__(self) -> None:
        names = ("history", "test_items", "test_negatives", *_VALIDATION_ARRAYS)
        refuse_misfits(
            {name: getattr(self, name) for name in names},
            self.user_ids,
            self.item_ids,
            n_users=self.n_users,
            n_items=self.n_items,
            n_train=len(self.train),
            n_tested=min(self.n_tested, self.n_users) if "n_tested_users" in self.manifest else self.n_users,
        )

    @property
    def n_tested(self) -> int:
        """Number of users with a held-out item: the first ones. All of them, but in a split of somebody's own."""
        return len(self.test_items)

    @property
    def n_users(self) -> int:
        """Number of users; each has one held-out item, see `n_tested`."""
        return self.train.n_users

    @property
    def n_items(self) -> int:
        """Number of items in the catalogue."""
        return self.train.n_items

    @property
    def n_negatives(self) -> int:
        """Number of test negatives of each user."""
        return int(self.test_negatives.shape[1])

    @property
    def content(self) -> str | None:
        """What identifies the set: see `ppt_core.identity.content_identity`."""
        return content_identity(self.manifest.get("files"), self.protocol)

    @property
    def protocol_label(self) -> str:
        """What a printed metric must carry, e.g. ``leave-one-out, 999 negatives, strict``."""
        return f"{self.split_label}, {self.n_negatives} negatives, {self.protocol}"

    @property
    def split_label(self) -> str:
        """What is held out, for any metric."""
        if self.manifest.get("held_out") in _SPLITS:
            return _SPLITS[self.manifest["held_out"]].format(self.manifest.get("split_time"))
        chosen = _HELD_OUT.get(self.manifest.get("held_out", ""), "")
        before = "" if self.validation_items is None else ", the item before it held out too"
        return f"leave-one-out{chosen}{before}"

    @property
    def warnings(self) -> list[str]:
        """Reasons for caution that were found in preparing, a sentence each."""
        return list(self.manifest.get("warnings", []))

    @property
    def summary(self) -> list[str]:
        """What was read as what and what the filters did, a line each."""
        return list(summary(self.manifest, n_users=self.n_users))

    def known(self) -> Interactions:
        """What is known of each user before the test item: train positives and the validation item, if any."""
        if self.validation_items is None:
            return self.train
        smaller = self.train.items < np.repeat(self.validation_items, self.train.degrees)
        before = np.append(0, np.cumsum(smaller))
        place = before[self.train.offsets[1:]] - before[self.train.offsets[:-1]] + self.train.offsets[:-1]
        return Interactions(
            offsets=self.train.offsets + np.arange(self.n_users + 1),
            items=np.insert(self.train.items, place, self.validation_items),
            n_items=self.n_items,
        )

    def for_validation(self) -> "PreparedData":
        """The same set with the validation items and negatives in the place of the test's, which it does not hold.

        Raises `DataError` if it was prepared without.
        """
        if self.validation_items is None or self.validation_negatives is None:
            raise DataError("the data hold no validation items; make them with `ppt-ncf prepare SOURCE --validation`")
        return replace(
            self,
            test_items=self.validation_items,
            test_negatives=self.validation_negatives,
            validation_items=None,
            validation_negatives=None,
        )

    def save(self, path: Path | str) -> "PreparedData":
        """Write the set to the new folder ``path`` and return it as it stands there: it knows its path and content.

        Raises `DataError` if the folder exists.
        """
        path = Path(path)
        arrays: dict[str, NDArray[Any]] = {
            "offsets": self.train.offsets,
            "items": self.train.items,
            "test_items": self.test_items,
            "test_negatives": self.test_negatives,
        }
        if self.history is not None:
            arrays["history"] = self.history
        if self.validation_items is not None and self.validation_negatives is not None:
            arrays |= {"validation_items": self.validation_items, "validation_negatives": self.validation_negatives}
        with new_directory(path) as folder:
            for name, array in arrays.items():
                np.save(folder / f"{name}.npy", array, allow_pickle=False)
            write_rest(
                folder,
                self.manifest,
                self.user_ids,
                self.item_ids,
                protocol=self.protocol,
                n_train=len(self.train),
                n_negatives=self.n_negatives,
            )
        manifest = read_json(path / "manifest.json", format_version=FORMAT_VERSION)
        return replace(self, manifest=manifest, path=path, is_sample=False)

    @classmethod
    def load(cls, path: Path | str) -> "PreparedData":
        """Open a prepared set; its arrays are memory-mapped.

        Raises `DataError` if the folder is missing, is not a prepared set, has a format version this code
        does not know, if any byte differs from what was written, or if what was written does not fit together.
        """
        path = Path(path)
        if not path.is_dir():
            raise DataError(f"{path} is not a folder; make a prepared set with `ppt-ncf prepare SOURCE --out {path}`")
        if not (path / "manifest.json").exists():
            raise DataError(f"{path} holds no manifest.json, so it is not a prepared set; run `ppt-ncf prepare` first")
        manifest = read_json(path / "manifest.json", format_version=FORMAT_VERSION, oldest_version=1)
        if "kind" in manifest:
            raise DataError(f"{path} is a prepared set of {manifest['kind']}, not of ratings; use it with `ppt-vision`")
        n_items, protocol = manifest.get("n_items"), manifest.get("protocol")
        if type(n_items) is not int or protocol not in get_args(Protocol):
            raise DataError(
                f"{path / 'manifest.json'} says n_items = {n_items!r} and protocol = {protocol!r}; make it again"
            )
        names = (
            *_ARRAYS,
            *(("history",) if manifest.get("history") else ()),
            *(_VALIDATION_ARRAYS if manifest.get("validation") else ()),
        )
        files = [f"{name}.npy" for name in names]
        verify_checksums(path, manifest.get("files"), needed=[*files, "users.parquet", "items.parquet"])
        arrays = {name: load_array(path / file) for name, file in zip(names, files, strict=True)}
        ids = {f"{kind}_ids": read_ids(path / f"{kind}s.parquet") for kind in ("user", "item")}
        try:
            train = Interactions(offsets=arrays.pop("offsets"), items=arrays.pop("items"), n_items=n_items)
            return cls(train=train, **arrays, **ids, protocol=protocol, manifest=manifest, path=path)  # type: ignore[arg-type]
        except ValueError as error:
            raise DataError(f"{path} does not fit together: {error}; make it again") from None

    def __repr__(self) -> str:
        where = f" at {self.path}" if self.path else ""
        return (
            f"PreparedData({self.n_users:,} users x {self.n_items:,} items, {len(self.train):,} train positives"
            f"{where}; {self.protocol_label})"
        )


def write_rest(
    folder: Path,
    manifest: Mapping[str, Any],
    user_ids: NDArray[Any],
    item_ids: NDArray[Any],
    *,
    protocol: Protocol,
    n_train: int,
    n_negatives: int,
) -> None:
    """Write the ids and the manifest into a folder that holds the arrays of a prepared set and nothing else."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    for kind, ids in (("user", user_ids), ("item", item_ids)):
        pq.write_table(pa.table({f"{kind}_id": id_column(ids)}), folder / f"{kind}s.parquet")
    files = file_checksums(folder)
    write_json(
        folder / "manifest.json",
        {
            **manifest,
            "format_version": FORMAT_VERSION,
            "protocol": protocol,
            "n_users": len(user_ids),
            "n_items": len(item_ids),
            "n_train": n_train,
            "n_negatives": n_negatives,
            "history": "history.npy" in files,
            **({"validation": True} if "validation_items.npy" in files else {}),
            "files": files,
        },
    )


def id_column(ids: NDArray[Any]) -> Any:
    """Original ids, int64 or str objects (n,), as a pyarrow array of the same type."""
    import pyarrow as pa

    return pa.array(ids, pa.int64()) if ids.dtype.kind == "i" else pa.array(ids.tolist(), pa.string())
