"""Small files beside the data: lists of users or items, pairs of them, titles of items."""

import csv
import io
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Literal

import pyarrow as pa
import pyarrow.compute as pc

from data_prep.ratings.archives import Source, find_source
from data_prep.ratings.columns import known_names, plain_name
from data_prep.ratings.id_columns import id_texts, plain_column, refuse_row
from data_prep.ratings.text_layout import split
from data_prep.ratings.typed_tables import SAMPLE_BYTES, read_typed, typed_format
from ppt_core.errors import DataError

Role = Literal["user", "item", "title"]
Id = int | str

_NAMES: dict[Role, tuple[str, ...]] = {
    "user": known_names("user"),
    "item": known_names("item"),
    "title": ("title", "name", "text", "description"),
}
_SEPARATORS = ("\t", "::", "|", ";", ",")  # titles hold commas


@dataclass(frozen=True, kw_only=True)
class Entries:
    """Values as somebody wrote them, and where each of them stands.

    Attributes:
        values: ids, or titles.
        source: the file; None if they come from a program.
        unit: what the file is made of, ``line`` or ``row``.
        places: line or row of each value, from 1.
    """

    values: tuple[Id, ...]
    source: Path | None = None
    unit: str = "line"
    places: tuple[int, ...] = ()

    def where(self, number: int) -> str:
        """Where value ``number`` stands, for an error: `` (users.csv, line 3)``, or nothing."""
        return "" if self.source is None else f" ({self.source}, {self.unit} {self.places[number]})"

    def distinct(self) -> "Entries":
        """Each value once, where it comes first."""
        first: dict[Id, int] = {}
        for number, value in enumerate(self.values):
            first.setdefault(value, number)
        places = tuple(self.places[number] for number in first.values()) if self.places else ()
        return Entries(values=tuple(first), source=self.source, unit=self.unit, places=places)


def read_ids(path: Path, role: Role) -> Entries:
    """Read a list of users or items, each once, in the order in which they come first.

    The file is text with one id a line, which may hold commas; or it has a column that names the ``role``, as ratings
    files have them (``user_id``, ``item_id``): text with a header line, Parquet, Arrow, or a JSON object a line. It may
    be packed as ratings files may, and what `ncf_ppt.item_lists.Recommendations.save` wrote.

    Raises `DataError` if it cannot be read, names no such column, or holds no id.
    """
    return _columns(path, (role,), alone=True)[0].distinct()


def read_pairs(path: Path) -> tuple[Entries, Entries]:
    """Read users and items of pairs: a file as `read_ids` reads, or text whose lines begin with a user and an item."""
    users, items = _columns(path, ("user", "item"))
    return users, items


def read_titles(source: Path | str | Mapping[Any, str]) -> dict[str, str]:
    """Read titles of items: text by id, ids as text.

    A mapping has them already. A file has columns ``item_id`` and ``title`` (or ``movieId``, ``name``, ...), or its
    lines begin with the two, as MovieLens's ``u.item`` (``|``) and ``movies.dat`` (``::``) do. Text that is not UTF-8
    is taken for Latin-1.
    """
    if isinstance(source, Mapping):
        return {str(item): str(title) for item, title in source.items()}
    items, titles = _columns(Path(source), ("item", "title"))
    return {str(item): str(title).strip() for item, title in zip(items.values, titles.values, strict=True)}


def _columns(path: Path, roles: tuple[Role, ...], *, alone: bool = False) -> list[Entries]:
    """The columns of these roles; ``alone`` takes text without a header for one value a line."""
    source = find_source(path)
    with source.open() as stream:
        sample = stream.read(SAMPLE_BYTES)
    kind = typed_format(sample)
    if kind is not None:
        table, _ = read_typed(source, kind, sample, partial(_named, source, roles))
        columns = [_values(source, role, table.column(role)) for role in roles]
        places = tuple(range(1, len(table) + 1))
        return [Entries(values=values, source=path, unit="row", places=places) for values in columns]
    text = _text(source, source.read(), latin="title" in roles)
    names, rows = _delimited(source, text, roles, alone=alone)
    by_name = _named(source, roles, names) if names else {}
    places_of = [names.index(name) for name in by_name.values()] or list(range(len(roles)))
    kept = [(number, fields) for number, fields in rows if any(field.strip() for field in fields)]
    if not kept:
        raise DataError(f"{source} holds no {' and '.join(roles)}; give one a line, or a column {roles[0]}_id")
    for number, fields in kept:
        if len(fields) <= max(places_of) or not all(fields[position] for position in places_of):
            listed = " and ".join(roles)
            raise DataError(f"{source}: line {number} has no {listed} ({shown(fields)}); correct the file")
    places = tuple(number for number, _ in kept)
    return [
        Entries(values=tuple(fields[position] for _, fields in kept), source=path, places=places)
        for position in places_of
    ]


def _named(source: Source, roles: Sequence[Role], names: Sequence[str]) -> dict[str, str]:
    """The name of each role's column. Raises `DataError` unless there is one of each."""
    found: dict[str, str] = {}
    for role in roles:
        fitting = [name for name in names if plain_name(name) in _NAMES[role]]
        if len(fitting) != 1:
            problem = "more than one column" if fitting else "no column"
            raise DataError(
                f"{source} has {problem} for the {role} (its columns: {shown(names)}); call one {_NAMES[role][0]} or "
                f"{role}"
            )
        found[role] = fitting[0]
    return found


def _values(source: Source, role: Role, column: pa.ChunkedArray) -> tuple[Id, ...]:
    """The values of a typed column, ids as `data_prep` reads them. Raises `DataError` for a row without."""
    found = plain_column(column) if role == "title" else id_texts(source, role, column)
    refuse_row(source, pc.is_null(found), f"has no {role}; correct the file")
    if not len(found):
        raise DataError(f"{source} holds no {role}")
    return tuple(found.to_pylist())


_Rows = list[tuple[int, list[str]]]


def _delimited(source: Source, text: str, roles: tuple[Role, ...], *, alone: bool) -> tuple[list[str], _Rows]:
    """Text with a header that names one of the roles, or without: then no names."""
    lines = text.splitlines()
    first = next((line for line in lines if line.strip()), "")
    separator = next((each for each in _SEPARATORS if each in first), " ")
    quoted = separator in (",", ";")
    header = [name.strip() for name in split(first, separator, quoted=quoted)]
    has_header = any(plain_name(name) in _NAMES[role] for name in header for role in roles)
    if alone and not has_header:
        return [], [(number, [line.strip()]) for number, line in enumerate(lines, 1)]
    if not quoted:
        rows = [(number, line.split(None if separator == " " else separator)) for number, line in enumerate(lines, 1)]
    else:
        reader = csv.reader(io.StringIO(text), delimiter=separator)
        try:
            rows = [(reader.line_num, fields) for fields in reader]
        except csv.Error as error:
            raise DataError(f"{source}: line {reader.line_num} cannot be split into values ({error})") from None
    rows = [(number, [field.strip() for field in fields]) for number, fields in rows if any(fields)]
    return (header, rows[1:]) if has_header else ([], rows)


def _text(source: Source, content: bytes, *, latin: bool) -> str:
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError:
        if latin:
            return content.decode("latin-1")
        raise DataError(f"{source} is not UTF-8 text; convert the file") from None


def shown(values: Iterable[Any]) -> str:
    """The first values for a message, on one line."""
    text = ", ".join(str(value) for value in values)
    return repr(text if len(text) <= 60 else f"{text[:60]}...")
