"""Ratings as files have them, to write and change in tests."""

import datetime
import json
import random
from pathlib import Path
from typing import Any

import pandas as pd

from data_prep.ratings.any_source import prepare_source
from data_prep.ratings.interactions import PreparedData

Rows = list[list[str]]


HEADER = ["user_id", "item_id", "rating", "timestamp"]


def base() -> Rows:
    """60 users with 25 of 300 items each, at distinct times."""
    r = random.Random(1)
    rows = [
        [u, i, r.randint(1, 5), 1_600_000_000 + u * 1000 + n * 7]
        for u in range(1, 61)
        for n, i in enumerate(r.sample(range(1, 301), 25))
    ]
    r.shuffle(rows)
    return [list(map(str, row)) for row in rows]


def text(rows: Rows, *, separator: str = ",", header: list[str] | None = HEADER) -> str:
    lines = ([header] if header else []) + rows
    return "".join(separator.join(row) + "\n" for row in lines)


def file(folder: Path, content: str | bytes, name: str = "ratings") -> Path:
    path = folder / name
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return path


def plays(rows: Rows) -> Rows:
    return [[f"u{int(u):05}", f"mbid-{int(i):04}", f"Artist {i}", str(int(t) % 997 + 1)] for u, i, _, t in rows]


def dated(rows: Rows, form: str) -> Rows:
    return [
        [*row[:3], datetime.datetime.fromtimestamp(int(row[3]), datetime.timezone.utc).strftime(form)] for row in rows
    ]


def pick(rows: Rows, *places: int) -> Rows:
    return [[row[place] for place in places] for row in rows]


def json_lines(rows: Rows) -> str:
    return "".join(
        json.dumps({"reviewerID": "U" + u, "text": "x, y", "asin": "B" + i, "unixReviewTime": int(t)}) + "\n"
        for u, i, _, t in rows
    )


def quoted(rows: Rows) -> str:
    return "".join(" ".join(f'"{cell}"' for cell in row) + "\n" for row in [HEADER, *rows])


def frame(rows: Rows) -> pd.DataFrame:
    return pd.DataFrame(rows, columns=pd.Index(HEADER)).astype(int)


def prepared(path: Path, **options: Any) -> PreparedData:
    return prepare_source(str(path), n_negatives=99, **options)
