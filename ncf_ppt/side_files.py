"""Small files beside the data: lists of users or items, pairs of them, titles of items."""

import csv
import gzip
import io
import json
import zlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from data_prep.ratings.columns import known_names, plain_name
from ppt_core.errors import DataError
from ppt_core.runs.files import read_bytes

Role = Literal["user", "item", "title"]
Id = int | str

_NAMES: dict[Role, tuple[str, ...]] = {
    "user": known_names("user"),
    "item": known_names("item"),
    "title": ("title", "name", "text", "description"),
}
_SEPARATORS = ("\t", "::", "|", ";", ",")


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
    files have them (``user_id``, ``item_id``): text with a header line, Parquet, or a JSON object a line. It may be
    gzipped, and what `ncf_ppt.item_lists.Recommendations.save` wrote.

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
    content, unit = read_bytes(path), "row"
    if content.startswith(b"\x1f\x8b"):
        try:
            content = gzip.decompress(content)
        except (OSError, EOFError, zlib.error) as error:
            raise DataError(f"{path} is a truncated or damaged gzip file ({error}); fetch it again") from None
    if content.startswith(b"PAR1"):
        names, rows = _parquet(path, content, roles)
    else:
        unit, text = "line", _text(path, content, latin="title" in roles)
        names, rows = _json_lines(path, text) if text.lstrip().startswith("{") else _delimited(text, roles, alone=alone)
    found = [_find(path, role, names, rows) for role in roles] if names else list(range(len(roles)))
    kept = [(number, fields) for number, fields in rows if any(str(field).strip() for field in fields)]
    if not kept:
        raise DataError(f"{path} holds no {' and '.join(roles)}; give one a line, or a column {roles[0]}_id")
    for number, fields in kept:
        if len(fields) <= max(found) or any(fields[position] in (None, "") for position in found):
            listed = " and ".join(roles)
            raise DataError(f"{path}: {unit} {number} has no {listed} ({shown(fields)}); correct the file")
    places = tuple(number for number, _ in kept)
    return [
        Entries(values=tuple(_id(fields[position]) for _, fields in kept), source=path, unit=unit, places=places)
        for position in found
    ]


_Rows = list[tuple[int, list[Any]]]


def _parquet(path: Path, content: bytes, roles: tuple[Role, ...]) -> tuple[list[str], _Rows]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        names = pq.read_schema(pa.BufferReader(content)).names
        wanted = [name for name in names if plain_name(name) in {each for role in roles for each in _NAMES[role]}]
        columns = [column.to_pylist() for column in pq.read_table(pa.BufferReader(content), columns=wanted).columns]
    except (pa.ArrowException, OSError) as error:
        reason = " ".join(str(error).split())
        raise DataError(f"{path} is a truncated or damaged parquet file ({reason}); fetch it again") from None
    rows = [(number, list(fields)) for number, fields in enumerate(zip(*columns, strict=True), 1)]
    return wanted or names, rows


def _json_lines(path: Path, text: str) -> tuple[list[str], _Rows]:
    names: dict[str, None] = {}
    objects: list[tuple[int, dict[str, Any]]] = []
    for number, line in enumerate(text.splitlines(), 1):
        if line.strip():
            try:
                value = json.loads(line)
            except ValueError as error:
                raise DataError(f"{path}: line {number} is no JSON object ({error}); write one a line") from None
            if not isinstance(value, dict):
                raise DataError(f"{path}: line {number} is no JSON object ({line[:40]!r}); write one a line")
            objects.append((number, value))
            names.update(dict.fromkeys(value))
    return list(names), [(number, [value.get(name) for name in names]) for number, value in objects]


def _delimited(text: str, roles: tuple[Role, ...], *, alone: bool) -> tuple[list[str], _Rows]:
    """Text with a header that names one of the roles, or without: then no names."""
    lines = text.splitlines()
    first = next((line for line in lines if line.strip()), "")
    separator = next((each for each in _SEPARATORS if each in first), " ")
    header = _split(first, separator)
    has_header = any(plain_name(name) in _NAMES[role] for name in header for role in roles)
    if alone and not has_header:
        return [], [(number, [line.strip()]) for number, line in enumerate(lines, 1)]
    if separator in ("::", " "):
        rows = [(number, line.split(None if separator == " " else separator)) for number, line in enumerate(lines, 1)]
    else:
        reader = csv.reader(io.StringIO(text), delimiter=separator, quoting=_quoting(separator))
        rows = [(reader.line_num, fields) for fields in reader]
    rows = [(number, [field.strip() for field in fields]) for number, fields in rows if any(fields)]
    return (header, rows[1:]) if has_header else ([], rows)


def _quoting(separator: str) -> Any:
    return csv.QUOTE_MINIMAL if separator in (",", ";") else csv.QUOTE_NONE


def _split(line: str, separator: str) -> list[str]:
    if separator == "::":
        return line.split(separator)
    return [field.strip() for field in next(csv.reader([line], delimiter=separator, quoting=_quoting(separator)))]


def _text(path: Path, content: bytes, *, latin: bool) -> str:
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError:
        if latin:
            return content.decode("latin-1")
        raise DataError(f"{path} is not UTF-8 text; convert the file") from None


def _find(path: Path, role: Role, names: list[str], rows: _Rows) -> int:
    found = [position for position, name in enumerate(names) if plain_name(name) in _NAMES[role]]
    if len(found) != 1:
        problem = "more than one column" if found else "no column"
        raise DataError(
            f"{path} has {problem} for the {role} (its columns: {shown(names)}); call one {_NAMES[role][0]} or {role}"
        )
    return found[0]


def _id(value: Any) -> Id:
    """An id as Parquet or JSON has it: a whole float stands for the integer that it was before a gap."""
    if isinstance(value, float) and value.is_integer():
        return int(value)
    return value if isinstance(value, int) and not isinstance(value, bool) else str(value)


def shown(values: Iterable[Any]) -> str:
    """The first values for a message, on one line."""
    text = ", ".join(str(value) for value in values)
    return repr(text if len(text) <= 60 else f"{text[:60]}...")
