"""What is asked, read from a query or a body: values of the right kinds and sizes, or a problem."""

import json
from collections.abc import Mapping
from typing import Any
from urllib.parse import parse_qsl

import numpy as np
from numpy.typing import NDArray

from ncf_ppt.http.engine import Engine, Wanted
from ncf_ppt.http.known_ids import KnownIds, shortened
from ncf_ppt.http.problems import Problem
from ncf_ppt.http.settings import Limits
from ncf_ppt.recommendation import nothing_left

_MAX_FIELDS = 10_000

Names = Mapping[str, str]
"""Parameters of a query by name, and the field of a body that each stands for; one that ends in ``*`` is a list."""

RECOMMEND: Names = {
    "user": "users*",
    "history": "history*",
    "k": "k",
    "include_seen": "include_seen",
    "items": "items*",
    "exclude": "exclude*",
}
SIMILAR: Names = {"item": "items*", "k": "k"}
SCORE: Names = {"user": "user", "item": "items*"}
USER: Names = {"user": "user"}


def of_query(query: bytes, names: Names) -> dict[str, Any]:
    """Read a query as the fields that a body would have; ``names`` are the parameters that there are."""
    try:
        pairs = parse_qsl(query.decode("ascii"), True, errors="strict", max_num_fields=_MAX_FIELDS)
    except (UnicodeError, ValueError):
        raise Problem(
            400, "the query cannot be read; write name=value with & between, in UTF-8 with % escapes"
        ) from None
    fields: dict[str, Any] = {}
    for name, value in pairs:
        field = names.get(name)
        if field is None:
            raise Problem(400, f"parameter {shortened(name)} is unknown; it must be one of {', '.join(names)}")
        if field.endswith("*"):
            fields.setdefault(field[:-1], []).append(value)
        elif field in fields:
            raise Problem(400, f"parameter {name} is there twice; leave one out")
        else:
            fields[field] = value
    return fields


def of_body(body: bytes, fields: tuple[str, ...]) -> dict[str, Any]:
    """Read a body, a JSON object with some of these ``fields``."""
    try:
        value = json.loads(body)
    except (ValueError, RecursionError) as error:
        raise Problem(400, f"the body is no JSON object ({shortened(str(error))}); send one") from None
    if not isinstance(value, dict):
        raise Problem(400, f"the body is no JSON object ({shortened(value)}); send one")
    for name in value:
        if name not in fields:
            raise Problem(400, f"field {shortened(name)} is unknown; it must be one of {', '.join(fields)}")
    return value


def lists_wanted(fields: dict[str, Any], engine: Engine, limits: Limits) -> tuple[list[Wanted], int, int]:
    """What `Engine.recommend` is to find, k, and how many of the items that were named are unknown."""
    k = _k(fields, limits)
    include_seen = _flag(fields, "include_seen")
    left_out, n_unknown = _left_out(fields, engine.items)
    if "history" not in fields:
        users = _ids(fields, "users", engine.users, limits.max_users)
        return [Wanted(user=user, k=k, include_seen=include_seen, left_out=left_out) for user in users], k, n_unknown
    if "users" in fields:
        raise Problem(400, "history is there with users; name either users, or the history of somebody who is none")
    history = _history(fields, engine, limits.max_users)
    n_unknown += len(fields["history"]) - len(history)
    known = tuple(dict.fromkeys(reversed(history)))[::-1]  # each item once, at its latest place
    return [Wanted(user=None, k=k, include_seen=include_seen, left_out=left_out, history=known)], k, n_unknown


def alike_wanted(fields: dict[str, Any], engine: Engine, limits: Limits) -> tuple[list[tuple[int, int]], int]:
    """What `Engine.similar` is to find, and k."""
    k = _k(fields, limits)
    return [(item, k) for item in _ids(fields, "items", engine.items, limits.max_users)], k


def pairs_wanted(fields: dict[str, Any], engine: Engine, limits: Limits) -> list[tuple[int, int]]:
    """What `Engine.score` is to score: one user with ``items``, or ``pairs``."""
    if "pairs" not in fields:
        user = one_user(fields, engine)
        return [(user, item) for item in _ids(fields, "items", engine.items, limits.max_users)]
    if len(fields) > 1:
        raise Problem(400, "pairs is there with other fields; name either pairs, or user and items")
    pairs = _list(fields, "pairs", limits.max_users)
    for pair in pairs:
        if not isinstance(pair, list) or len(pair) != 2:
            raise Problem(400, f"pairs holds {shortened(pair)}; it must be lists of a user and an item")
    return [(engine.users.number(user), engine.items.number(item)) for user, item in pairs]


def one_user(fields: dict[str, Any], engine: Engine) -> int:
    """The number of the one user that is named."""
    if "user" not in fields:
        raise Problem(400, "user is missing; name one")
    return engine.users.number(fields["user"])


def _history(fields: dict[str, Any], engine: Engine, most: int) -> list[int]:
    """Numbers of the items of a history, as far as the catalogue has them."""
    named = _list(fields, "history", most)
    if not engine.reads_histories:
        raise Problem(400, "this server cannot read a history; it takes two towers, or the data of the training")
    history = [number for number in engine.items.numbers(named).tolist() if number >= 0]
    if not history:
        begin = ", ".join(shortened(item) for item in named[:3])
        raise Problem(400, f"no item of the history is in the catalogue (it begins with {begin}); check the ids")
    return history


def _k(fields: dict[str, Any], limits: Limits) -> int:
    value = fields.get("k", limits.k)
    if isinstance(value, str) and value.isascii() and value.isdigit() and len(value) < 10:
        value = int(value)
    if isinstance(value, bool) or not isinstance(value, int):
        raise Problem(400, f"k is {shortened(value)}; it must be an integer")
    if not 1 <= value <= limits.max_k:
        raise Problem(400, f"k is {shortened(value)}; it must be at least 1 and at most {limits.max_k:,}")
    return value


def _flag(fields: dict[str, Any], name: str) -> bool:
    value = fields.get(name, False)
    if isinstance(value, bool):
        return value
    if value in ("true", "1", "false", "0"):
        return value in ("true", "1")
    raise Problem(400, f"{name} is {shortened(value)}; it must be true or false")


def _list(fields: dict[str, Any], name: str, most: int | None = None) -> list[Any]:
    value = fields.get(name)
    if not isinstance(value, list) or not value:
        found = "missing" if value is None else shortened(value)
        raise Problem(400, f"{name} is {found}; it must be a list that is not empty")
    if most is not None and len(value) > most:
        raise Problem(400, f"{name} holds {len(value):,} entries; it must be at most {most:,}: ask several times")
    return value


def _ids(fields: dict[str, Any], name: str, known: KnownIds, most: int) -> list[int]:
    return [known.number(value) for value in _list(fields, name, most)]


def _left_out(fields: dict[str, Any], known: KnownIds) -> tuple[NDArray[np.bool_] | None, int]:
    """Which items must not be listed: not among ``items``, or among ``exclude``; and how many named are unknown."""
    if "items" not in fields and "exclude" not in fields:
        return None, 0
    is_left_out = np.full(len(known), "items" in fields)
    n_unknown = 0
    for name, value in (("items", False), ("exclude", True)):
        if name in fields:
            numbers = known.numbers(_list(fields, name))
            is_left_out[numbers[numbers >= 0]] = value
            n_unknown += int((numbers < 0).sum())
    if is_left_out.all():
        raise Problem(400, nothing_left(len(known), n_unknown, known.examples))
    return is_left_out, n_unknown
