"""The OpenAPI description of the calls on likes; see `counters.api.schema`."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

from django.conf import settings
from drf_spectacular.utils import OpenApiExample, OpenApiParameter, extend_schema

from counters.api import schema
from counters.api.media import ARROW, JSON, MSGPACK, NDJSON
from counters.api.requests import Write
from counters.api.schema import answers, query, reference
from likes.api import requests
from likes.events import NOW
from likes.names import NAME_PATTERN, NAME_RULE, RESERVED, TYPE_PATTERN, TYPE_RULE

schema.add_types(
    [
        requests.Event,
        requests.Events,
        requests.EventColumns,
        requests.LikeQueued,
        requests.LikeApplied,
        requests.State,
        requests.LikeCount,
        requests.ItemCounts,
        requests.Likers,
        requests.LikedItems,
        requests.Removal,
        requests.LikesAccepted,
    ]
)
F = TypeVar("F", bound=Callable[..., Any])
_TALLY = settings.TALLY
_TYPE_SCHEMA = {"type": "string", "pattern": f"^{TYPE_PATTERN}$", "not": {"enum": [RESERVED]}}
_NAME_SCHEMA = {"type": "string", "pattern": f"^{NAME_PATTERN}$"}
_COUNT = {"minItems": 1, "maxItems": _TALLY.max_increments}
_NAMES: dict[str, dict[str, Any]] = {
    "user_id": {**_NAME_SCHEMA, "description": NAME_RULE},
    "item_type": {**_TYPE_SCHEMA, "description": TYPE_RULE},
    "item_id": {**_NAME_SCHEMA, "description": NAME_RULE},
}
_SECONDS = {"type": "number", "minimum": 0, "maximum": 9_007_199_254}
_DAY = "(19[89]|20[0-9])[0-9]-(0[1-9]|1[0-2])-(0[1-9]|1[0-9]|2[0-8])"
_TIME = r"([01][0-9]|2[0-3]):[0-5][0-9]:[0-5][0-9](\.[0-9]{1,6})?(Z|[+-](0[0-9]|1[0-3]):[0-5][0-9])"
_TIMESTAMP = {
    "anyOf": [{"type": "string", "pattern": f"^{_DAY}T{_TIME}$"}, _SECONDS, {"type": "null"}],
    "description": "RFC 3339 with a zone, or seconds since 1970; until 2255. Without it: the moment of acceptance.",
}
_ROW = schema.COMPONENTS["Event"]["properties"]
_ROW["timestamp"] |= {"default": None, **_TIMESTAMP}
for _name, _rule in _NAMES.items():
    _ROW[_name] |= _rule
schema.COMPONENTS["Events"]["properties"]["events"] |= _COUNT
_COLUMNS = schema.COMPONENTS["EventColumns"]["properties"]
for _name, _property in _ROW.items():
    _COLUMNS[f"{_name}s"] |= _COUNT | {"items": {key: one for key, one in _property.items() if key != "default"}}
for _name in ("event_ids", "timestamps"):
    del _COLUMNS[_name]["default"]


def _path(name: str, kind: dict[str, Any], rule: str) -> OpenApiParameter:
    return OpenApiParameter(name, kind, OpenApiParameter.PATH, required=True, description=rule)


_TYPE, _ITEM, _USER = (
    _path("type", _TYPE_SCHEMA, TYPE_RULE),
    _path("item", _NAME_SCHEMA, NAME_RULE),
    _path("user", _NAME_SCHEMA, NAME_RULE),
)
_PENDING = query("pending", {"type": "boolean", "default": True}, "Whether to say what is pending; false: it is null.")
_NOT_YET = (Write, "The write in `after` is not applied yet.")


def _change(operation: str, description: str) -> Callable[[F], F]:
    described: Callable[[F], F] = extend_schema(
        operation_id=operation,
        tags=["likes"],
        description=description,
        parameters=[_TYPE, _ITEM, _USER, schema.WAIT, schema.IDEMPOTENCY, schema.PRIORITY],
        request=None,
        responses=answers(
            {
                200: (requests.LikeApplied, "Applied; with `wait`."),
                202: (requests.LikeQueued, "Durable; it will be applied."),
            },
            *(403, 413, 415, 422),
        ),
    )
    return described


put = _change("like", "A user likes an item from now on. A repeat changes nothing.")
delete = _change("unlike", "A user does not like an item any longer. A repeat changes nothing.")
get = extend_schema(
    operation_id="read_like",
    tags=["likes"],
    parameters=[_TYPE, _ITEM, _USER, schema.CONSISTENCY],
    responses=answers({200: (requests.State, "Whether the user likes the item.")}),
)
count = extend_schema(
    operation_id="count_likes",
    tags=["likes"],
    parameters=[
        _path("type", {"type": "string", "pattern": f"^{TYPE_PATTERN}$"}, TYPE_RULE),  # with `users` it is `read_liked`
        _ITEM,
        schema.CONSISTENCY,
        schema.AFTER,
        schema.AFTER_WAIT,
        _PENDING,
        schema.ETAG,
    ],
    responses=answers(
        {200: (requests.LikeCount, "The likes of the item; `ETag` is their version."), 202: _NOT_YET}, 404
    ),
)
counts = extend_schema(
    operation_id="count_many_likes",
    tags=["likes"],
    parameters=[
        _TYPE,
        OpenApiParameter(
            "item",
            {"type": "array", "items": _NAME_SCHEMA, "minItems": 1, "maxItems": _TALLY.max_keys},
            OpenApiParameter.QUERY,
            required=True,
            description="Items, each as one `item=`.",
        ),
        query("user", _NAME_SCHEMA, "Say also whether this user likes each of them."),
        schema.CONSISTENCY,
        schema.AFTER,
        schema.AFTER_WAIT,
    ],
    responses=answers({200: (requests.ItemCounts, "The likes of each item."), 202: _NOT_YET}, 404, 414),
)
likers = extend_schema(
    operation_id="read_likers",
    tags=["likes"],
    parameters=[_TYPE, _ITEM, *schema.PAGING, schema.CONSISTENCY],
    responses=answers({200: (requests.Likers, "Who likes the item.")}),
)
liked = extend_schema(
    operation_id="read_liked",
    tags=["likes"],
    parameters=[_USER, *schema.PAGING, schema.CONSISTENCY],
    responses=answers({200: (requests.LikedItems, "What the user likes.")}),
)
_MICROSECONDS = {"type": ["integer", "null"], "minimum": 0, "maximum": NOW - 1}
remove = extend_schema(
    operation_id="remove_user",
    tags=["likes"],
    description=(
        "Remove every like of a user that was accepted before, and correct every count, as a task. The event log forgets the "
        "user, too. Needs the scope `staff`."
    ),
    parameters=[_USER, schema.IDEMPOTENCY],
    request=None,
    responses=answers({202: (requests.Removal, "It will be done; `Location` is its address.")}, *(403, 413, 415)),
)
removal = extend_schema(
    operation_id="read_removal",
    tags=["likes"],
    parameters=[_path("id", {"type": "string", "format": "uuid"}, "The id of a removal.")],
    responses=answers({200: (requests.Removal, "How far it is.")}, 403, 404),
)
_BODY = {"oneOf": [reference(requests.Events), reference(requests.EventColumns)]}
_ARROW = (
    "An Arrow IPC stream with columns of the names of the fields. `timestamp` is of a timestamp type, without a zone in UTC; "
    "the others are string, large_string, string_view, or a dictionary of string or large_string. Only `event_id` and "
    "`timestamp` may be missing or have nulls. 415 if the server lacks its extra `arrow`."
)
events = extend_schema(
    operation_id="send_like_events",
    tags=["likes"],
    description=(
        f"Likes and ends of likes of many users and items, up to {_TALLY.max_increments:,} events or "
        f"{_TALLY.max_body_bytes:,} bytes. Of a user and an item, the event with the newest timestamp decides, then that with "
        "the greatest id, in whatever order they come. An `event_id` of a user and an item counts once."
    ),
    parameters=[schema.IDEMPOTENCY, schema.PRIORITY],
    request={
        JSON: _BODY,
        NDJSON: schema.COMPONENTS["Events"]["properties"]["events"] | {"description": "One a line."},
        MSGPACK: _BODY,
        ARROW: schema.COMPONENTS["EventColumns"]
        | {
            "title": "Arrow stream",
            "description": _ARROW,
            "properties": {
                name: _COLUMNS[f"{name}s"] for name in ("user_id", "item_type", "item_id", "action", "event_id")
            }
            | {"timestamp": {"type": "array", "items": _MICROSECONDS, "description": "Of a timestamp type."}},
            "required": ["user_id", "item_type", "item_id", "action"],
        },
    },
    examples=[
        OpenApiExample(
            "rows",
            {"events": [{"user_id": "ann", "item_type": "post", "item_id": "42", "action": "like"}]},
            request_only=True,
        ),
        OpenApiExample(
            "columns",
            {
                "user_ids": ["ann", "bob"],
                "item_types": ["post"] * 2,
                "item_ids": ["42"] * 2,
                "actions": ["like", "unlike"],
            },
            request_only=True,
        ),
    ],
    responses=answers(
        {202: (requests.LikesAccepted, "Durable; the events will be applied, but for those of `refused`.")},
        *(403, 413, 415, 422),
    ),
)
