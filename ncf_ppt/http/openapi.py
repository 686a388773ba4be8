"""What can be asked and what comes back, as an OpenAPI 3.1 document."""

from functools import cache
from typing import Any

from ncf_ppt.http.problems import PROTOCOL_VERSION
from ncf_ppt.http.settings import Limits
from ppt_core.json_text import json_text

_ID: dict[str, Any] = {"type": ["string", "integer"], "description": "An original id."}
_NUMBERS = {"type": "array", "items": {"type": "number"}}
_TITLES = {"type": "array", "items": {"type": "string"}}


def _many(schema: dict[str, Any], most: int | None = None) -> dict[str, Any]:
    return {"type": "array", "items": schema, "minItems": 1} | ({} if most is None else {"maxItems": most})


def _object(required: dict[str, Any], optional: dict[str, Any] | None = None) -> dict[str, Any]:
    return {"type": "object", "required": list(required), "properties": {**required, **(optional or {})}}


def _parameter(name: str, schema: dict[str, Any], words: str, *, required: bool = False) -> dict[str, Any]:
    return {"name": name, "in": "query", "required": required, "schema": schema, "description": words}


def _operation(words: str, answer: dict[str, Any], **more: Any) -> dict[str, Any]:
    common = {"protocol_version": {"const": PROTOCOL_VERSION}, "model": {"type": "string"}}
    answer = {**answer, "properties": {**common, **answer["properties"]}}
    problem = {"$ref": "#/components/responses/Problem"}
    content = {"application/json": {"schema": answer}}
    return {
        "summary": words,
        **more,
        "responses": {"200": {"description": "Found.", "content": content}, "default": problem},
    }


def _posted(schema: dict[str, Any]) -> dict[str, Any]:
    return {"requestBody": {"required": True, "content": {"application/json": {"schema": schema}}}}


@cache
def openapi(limits: Limits) -> bytes:
    """The document, as JSON."""
    k = {"type": "integer", "minimum": 1, "maximum": limits.max_k, "default": limits.k}
    seen = {"type": "boolean", "default": False}
    most = limits.max_users
    entry = _object(
        {"user_id": _ID, "item_ids": {"type": "array", "items": _ID}, "scores": _NUMBERS}, {"titles": _TITLES}
    )
    lists = _object({"k": k, "recommendations": _many(entry)}, {"n_unknown_items": {"type": "integer"}})
    alike = _object(
        {"item_id": _ID, "similar_ids": {"type": "array", "items": _ID}, "similarities": _NUMBERS},
        {"title": {"type": "string"}, "similar_titles": _TITLES},
    )
    scored = _object({"scores": _many(_object({"user_id": _ID, "item_id": _ID, "score": {"type": "number"}}))})
    had = _object({"user_id": _ID, "item_ids": {"type": ["array", "null"], "items": _ID}}, {"titles": _TITLES})
    status = _object({"status": {"const": "ok"}})
    users, items = _many(_ID, most), _many(_ID, most)
    pair = {"type": "array", "prefixItems": [_ID, _ID], "minItems": 2, "maxItems": 2}
    best, like, score = "The best items of users.", "Items alike.", "Scores of pairs, by which lists are ordered."
    paths = {
        "/recommend": {
            "get": _operation(
                best,
                lists,
                parameters=[
                    _parameter("user", users, "An original id; may be there several times."),
                    _parameter("history", items, "In place of users: an item that somebody had, oldest first."),
                    _parameter("k", k, "Length of the lists."),
                    _parameter("include_seen", seen, "List what a user has, too."),
                    _parameter("items", _many(_ID), "An item to choose among; may be there several times."),
                    _parameter("exclude", _many(_ID), "An item that must not be listed; may be there several times."),
                ],
            ),
            "post": _operation(
                best,
                lists,
                **_posted(
                    _object(
                        {},
                        {
                            "users": users,
                            "history": items,
                            "k": k,
                            "include_seen": seen,
                            "items": _many(_ID),
                            "exclude": _many(_ID),
                        },
                    )
                ),
            ),
        },
        "/similar": {
            "get": _operation(
                like,
                _object({"k": k, "similar": _many(alike)}),
                parameters=[
                    _parameter("item", items, "An original id; may be there several times.", required=True),
                    _parameter("k", k, "Length of the lists."),
                ],
            ),
            "post": _operation(
                like, _object({"k": k, "similar": _many(alike)}), **_posted(_object({"items": items}, {"k": k}))
            ),
        },
        "/score": {
            "get": _operation(
                score,
                scored,
                parameters=[
                    _parameter("user", _ID, "An original id.", required=True),
                    _parameter("item", items, "An original id; may be there several times.", required=True),
                ],
            ),
            "post": _operation(
                score,
                scored,
                **_posted({"oneOf": [_object({"pairs": _many(pair, most)}), _object({"user": _ID, "items": items})]}),
            ),
        },
        "/user": {
            "get": _operation(
                "What a user had; null where no data are at hand.",
                had,
                parameters=[_parameter("user", _ID, "An original id.", required=True)],
            )
        },
        "/healthz": {"get": _operation("Whether the process answers.", status)},
        "/readyz": {"get": _operation("Whether it wants requests; 503 once it is to stop.", status)},
    }
    problem = _object(
        {
            "type": {"type": "string"},
            "title": {"type": "string"},
            "status": {"type": "integer"},
            "detail": {"type": "string"},
        },
        {"protocol_version": {"const": PROTOCOL_VERSION}},
    )
    content = {"application/problem+json": {"schema": problem}}
    document = {
        "openapi": "3.1.0",
        "info": {"title": "ppt-ncf serve", "version": str(PROTOCOL_VERSION)},
        "paths": paths,
        "components": {
            "responses": {"Problem": {"description": "Problem details (RFC 9457).", "content": content}},
            "securitySchemes": {"token": {"type": "http", "scheme": "bearer"}},
        },
        "security": [{}, {"token": []}],
    }
    return json_text(document).encode()
