"""Original ids as arrays: found by binary search, in memory that processes share."""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ncf_ppt.original_ids import Kind, as_integer, unknown_id
from ncf_ppt.side_files import Entries
from ppt_core.errors import DataError

MAX_LENGTH = 1000
"""Letters of an id that is looked up."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Texts:
    """Strings in one block of memory.

    Attributes:
        octets: uint8, all of them in UTF-8, one behind the other.
        offsets: int64 (n + 1,): string number n is ``octets[offsets[n]:offsets[n + 1]]``.
    """

    octets: NDArray[np.uint8]
    offsets: NDArray[np.int64]

    @classmethod
    def of(cls, texts: Sequence[str]) -> "Texts":
        """Put strings into one block."""
        encoded = [text.encode() for text in texts]
        offsets = np.zeros(len(encoded) + 1, np.int64)
        np.cumsum([len(each) for each in encoded], out=offsets[1:])
        return cls(octets=np.frombuffer(b"".join(encoded), np.uint8), offsets=offsets)

    def __getitem__(self, number: int) -> str:
        return self.octets[self.offsets[number] : self.offsets[number + 1]].tobytes().decode()


@dataclass(frozen=True, kw_only=True, eq=False)
class KnownIds:
    """The original ids of users or items, and their numbers.

    Attributes:
        kind: what they are ids of.
        ids: of integers int64 (n,), else the strings.
        keys: ascending: the integers, or the hashes of strings, uint64; both (n,).
        numbers_of_keys: int32 (n,), the number of each key's id.
    """

    kind: Kind
    ids: NDArray[np.int64] | Texts
    keys: NDArray[Any]
    numbers_of_keys: NDArray[np.int32]

    @classmethod
    def of(cls, kind: Kind, ids: NDArray[Any]) -> "KnownIds":
        """Index original ids by number, int64 or str objects (n,)."""
        keys = ids if ids.dtype.kind == "i" else np.array([_hash(each) for each in ids.tolist()], np.uint64)
        order = np.argsort(keys, kind="stable").astype(np.int32)
        kept = ids if ids.dtype.kind == "i" else Texts.of(ids.tolist())
        return cls(kind=kind, ids=kept, keys=keys[order], numbers_of_keys=order)

    def __len__(self) -> int:
        return len(self.keys)

    def number(self, value: Any) -> int:
        """Look up an id, see `numbers`; raise `UnknownId` if it is none."""
        (number,) = self.numbers([value]).tolist()
        if number < 0:
            shown = value if isinstance(self.ids, Texts) else int(value)
            raise UnknownId(unknown_id(self.kind, shown, n_known=len(self), examples=self.examples))
        return int(number)

    def numbers(self, values: Sequence[Any]) -> NDArray[np.int64]:
        """Look up ids by the rules of `ncf_ppt.original_ids.find_ids`: int64 (n,), -1 for an unknown one.

        Raises `DataError` for what cannot be one.
        """
        for value in values:
            if isinstance(value, bool) or not isinstance(value, int | str) or len(str(value)) > MAX_LENGTH:
                raise DataError(
                    f"{self.kind} {shortened(value)} cannot be an id, which is an integer or a string of "
                    f"{MAX_LENGTH} letters at most"
                )
        if isinstance(self.ids, Texts):
            return np.array([self._number_of_text(str(value)) for value in values], np.int64)
        entries = Entries(values=tuple(values))
        keys = np.array([as_integer(self.kind, entries, number) for number in range(len(values))], np.int64)
        places = np.minimum(np.searchsorted(self.keys, keys), len(self.keys) - 1)
        return np.where(self.keys[places] == keys, self.numbers_of_keys[places], -1)

    def _number_of_text(self, text: str) -> int:
        assert isinstance(self.ids, Texts)
        key = np.uint64(_hash(text))
        place = int(np.searchsorted(self.keys, key))
        while place < len(self.keys) and self.keys[place] == key:
            number = int(self.numbers_of_keys[place])
            if self.ids[number] == text:
                return number
            place += 1
        return -1

    def of_numbers(self, numbers: Any) -> list[Any]:
        """The original ids of numbers."""
        if isinstance(self.ids, Texts):
            return [self.ids[number] for number in numbers]
        return self.ids[numbers].tolist()  # type: ignore[no-any-return]

    @property
    def examples(self) -> list[Any]:
        """The first three ids."""
        return self.of_numbers(np.arange(min(3, len(self))))


class UnknownId(DataError):
    """An id that the training data do not hold."""


def shortened(value: Any) -> str:
    """A value for an error, at most 80 letters of it."""
    text = repr(value)
    return text if len(text) <= 80 else f"{text[:80]}..."


def _hash(text: str) -> int:
    return int.from_bytes(hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=8).digest(), "little")
