"""The OpenAPI description of each call, generated from the types in `requests`. One name for each method of
`views`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import msgspec
from django.conf import settings
from drf_spectacular.extensions import OpenApiAuthenticationExtension
from drf_spectacular.utils import OpenApiExample, OpenApiParameter, OpenApiResponse, extend_schema

from counters.api import requests
from counters.api.authentication import scope_of
from counters.api.media import ARROW, JSON, MSGPACK, NDJSON
from counters.api.problems import MEDIA_TYPE
from counters.api.quotas import COUNTED
from counters.keys import KEY_PATTERN, KEY_RULE, RESERVED
from counters.write_id import WRITE_ID_PATTERN

_TYPES = [
    requests.Increment,
    requests.KeyedIncrement,
    requests.Increments,
    requests.IncrementColumns,
    requests.Set,
    requests.Queued,
    requests.Applied,
    requests.Accepted,
    requests.Changed,
    requests.Pending,
    requests.Counter,
    requests.Counters,
    requests.Write,
    requests.Digest,
    requests.Asked,
    requests.ProblemDocument,
    requests.Health,
    requests.Probe,
]
_TALLY = settings.TALLY
_DAYS = f"{_TALLY.retention_days} days"
_KEY_TYPE = {"type": "string", "pattern": f"^{KEY_PATTERN}$", "not": {"enum": sorted(RESERVED)}}
_, COMPONENTS = msgspec.json.schema_components(_TYPES, ref_template="#/components/schemas/{name}")
COMPONENTS["KeyedIncrement"]["properties"]["key"] |= {**_KEY_TYPE, "description": KEY_RULE}
_COUNT = {"minItems": 1, "maxItems": _TALLY.max_increments}
COMPONENTS["Increments"]["properties"]["increments"] |= _COUNT
_COLUMNS = COMPONENTS["IncrementColumns"]["properties"]
_COLUMNS["keys"] |= _COUNT | {"items": COMPONENTS["KeyedIncrement"]["properties"]["key"]}
_COLUMNS["deltas"] |= _COUNT | {"description": "As many as keys."}

_PROBLEMS = {
    400: "A field breaks a rule; `errors` names both.",
    401: "The API key is missing, unknown, revoked or expired.",
    403: "The API key lacks the scope.",
    404: "Unknown.",
    406: "Only JSON is answered.",
    409: "It cannot be done as things are (the counter would leave 64 bits; newer operations were applied before it; "
    "the shard's servers do not allow it); nothing was changed.",
    412: "The counter's version is not the one in If-Match; nothing was changed.",
    413: f"The body is larger than {_TALLY.max_body_bytes:,} bytes, or has more than {_TALLY.max_increments:,} increments.",
    414: "The request line is too long.",
    415: "The Content-Type is not one that this call takes, or the body is compressed.",
    422: "The Idempotency-Key was used before with another request.",
    429: "The caller is over its quota, which `violated-policies` names, or a limit of the counters was reached, and `errors` "
    "names keys and limits. Nothing was done. Try again after Retry-After seconds.",
    503: "A component is down; nothing is lost. Try again after Retry-After seconds.",
}
_NODE = {
    "Tally-Node": {
        "description": "The process that answered: an API process, or `nginx`.",
        "required": True,
        "schema": {"type": "string"},
    },
    "X-Request-ID": {
        "description": "The id of the request: the caller's X-Request-ID, the trace id of its `traceparent`, or a new one.",
        "required": True,
        "schema": {"type": "string"},
    },
}
_LIMIT_HEADERS = {
    "RateLimit-Policy": {
        "description": "The caller's quotas (draft-ietf-httpapi-ratelimit-headers): units `q` in any `w` seconds.",
        "schema": {"type": "string"},
        "example": '"requests";q=6000;w=60, "increments";q=100000;w=60;tally-unit="increments"',
    },
    "RateLimit": {
        "description": "What remains of them (`r`), and seconds until more does (`t`).",
        "schema": {"type": "string"},
        "example": '"requests";r=5990;t=60',
    },
    "Retry-After": {
        "description": "Seconds until what was wanted may be free.",
        "schema": {"type": "integer", "minimum": 1},
    },
}
WRITING = ("/v1/counters", "/v1/increments", "/v1/likes")  # how the paths of calls that write begin
_WRITE = {
    "Tally-Write": {
        "description": "The id of the write that the request has made: `GET /v1/writes/{write_id}` says what became of it.",
        "schema": {"type": "string"},
    }
}
_HOST = "The Host is not one that is served here."


class ApiKeyScheme(OpenApiAuthenticationExtension):  # type: ignore[no-untyped-call]
    """The authentication in the schema."""

    target_class = "counters.api.authentication.ApiKeyAuthentication"
    name = "ApiKey"

    def get_security_requirement(self, auto_schema: Any) -> list[dict[str, list[Any]]]:
        """A call that needs no scope needs no key."""
        key: dict[str, list[Any]] = {self.name: []}
        return [key] if scope_of(auto_schema.view, auto_schema.method) else [key, {}]

    def get_security_definition(self, _auto_schema: Any) -> dict[str, str]:
        return {"type": "apiKey", "in": "header", "name": "Authorization", "description": "`Api-Key <key>`"}


def add_types(types: Sequence[type]) -> None:
    """Add the types of calls described in other modules."""
    COMPONENTS.update(msgspec.json.schema_components(types, ref_template="#/components/schemas/{name}")[1])


def add_components(result: dict[str, Any], **_: Any) -> dict[str, Any]:
    """drf-spectacular's postprocessing hook: add the types and the headers of answers to the document, and mark every
    request body as required."""
    components = result.setdefault("components", {})
    components.setdefault("schemas", {}).update(COMPONENTS)
    components.setdefault("headers", {}).update(_NODE | _LIMIT_HEADERS | _WRITE)
    for path, calls in result["paths"].items():
        for method, call in calls.items():
            if "requestBody" in call:
                call["requestBody"]["required"] = True
            for status, answer in call["responses"].items():
                references = {name: {"$ref": f"#/components/headers/{name}"} for name in _headers(method, path, status)}
                answer.setdefault("headers", {}).update(references)
    return result


def _headers(method: str, path: str, status: str) -> list[str]:
    """The headers that such an answer of a path has."""
    names = list(_NODE)
    if method != "get" and path.startswith(WRITING) and status in ("200", "202"):
        names += _WRITE
    if path.startswith(COUNTED):
        names += [name for name in _LIMIT_HEADERS if name != "Retry-After" or status == "429"]
    return names


def reference(kind: type) -> dict[str, str]:
    """A reference to a type in the document."""
    return {"$ref": f"#/components/schemas/{kind.__name__}"}


def answers(good: dict[int, tuple[type, str]], *bad: int) -> dict[Any, Any]:
    """The answers of a call. `good`: status → type and meaning. `bad`: statuses of problems, in addition to those of
    every call."""
    answers: dict[Any, Any] = {
        (status, JSON): OpenApiResponse(reference(kind), description=description)
        for status, (kind, description) in good.items()
    }
    for status in (*bad, 400, 401, 406, 429, 503):
        answers[status, MEDIA_TYPE] = OpenApiResponse(
            reference(requests.ProblemDocument), description=_PROBLEMS[status]
        )
    return answers


def query(name: str, schema: dict[str, Any], description: str) -> OpenApiParameter:
    """A parameter of the query."""
    return OpenApiParameter(name, schema, OpenApiParameter.QUERY, description=description)


_KEY = OpenApiParameter("key", _KEY_TYPE, OpenApiParameter.PATH, required=True, description=KEY_RULE)
IDEMPOTENCY = OpenApiParameter(
    "Idempotency-Key",
    {"type": "string", "minLength": 1, "maxLength": 255, "pattern": "^[ -~]+$"},
    OpenApiParameter.HEADER,
    description=f"The same key with the same request is counted once and answered the same, for {_DAYS}.",
)
PRIORITY = OpenApiParameter(
    "Priority",
    {"type": "string"},
    OpenApiParameter.HEADER,
    description="RFC 9218. Increments of urgency 6 and 7 (`u=7`) go to the excess queue, unless the request waits.",
)
_IF_MATCH = OpenApiParameter(
    "If-Match",
    {"type": "string", "pattern": '^"[0-9]{1,19}"$'},
    OpenApiParameter.HEADER,
    description='Only if the counter has this version (`"0"`: was never written).',
)
_SECONDS = {"type": "number", "minimum": 0, "maximum": _TALLY.max_wait_seconds}
WAIT = query("wait", _SECONDS, "Wait so many seconds for the result, and answer 200 with it.")
ETAG = OpenApiParameter(
    "ETag",
    {"type": "string", "pattern": '^"[0-9]{1,19}"$'},
    OpenApiParameter.HEADER,
    required=True,
    response=[200],
    description="The version, as If-Match wants it.",
)
AFTER = query(
    "after",
    {"type": "string", "pattern": f"^{WRITE_ID_PATTERN}$"},
    "The id of a write: wait until it is applied, and read from a server that has it, a replica where one has. Not from the cache.",
)
AFTER_WAIT = query(
    "wait",
    {**_SECONDS, "default": _TALLY.max_wait_seconds},
    "With `after`: wait so many seconds, then answer 202.",
)
LIMIT = {
    "type": "integer",
    "minimum": 1,
    "maximum": _TALLY.max_keys,
    "default": min(requests.PAGE, _TALLY.max_keys),
}
PAGING = [
    query("cursor", {"type": "string"}, "`next` of the page before."),
    query("limit", LIMIT, "Size of a page."),
]
PREFIX = query("prefix", {"type": "string"}, "All written counters whose key starts so.")
_SHARD = {"type": "integer", "enum": list(range(_TALLY.shard_count))}
CONSISTENCY = query(
    "consistency",
    {"type": "string", "enum": ["eventual", "primary"], "default": "eventual"},
    "`eventual`: cache, replica or primary, whichever answers first. `primary`: the primary.",
)
_PENDING = query(
    "pending",
    {"type": "boolean", "default": False},
    "Say also what is pending: accepted, not applied yet.",
)

increment = extend_schema(
    operation_id="increment",
    tags=["writes"],
    parameters=[_KEY, WAIT, IDEMPOTENCY, PRIORITY],
    request={JSON: reference(requests.Increment)},
    examples=[OpenApiExample("one more", {"delta": 1}, request_only=True)],
    responses=answers(
        {
            200: (requests.Applied, "Counted; with `wait`."),
            202: (requests.Queued, "Durable; it will be counted exactly once."),
        },
        *(403, 409, 413, 415, 422, 429),
    ),
)
_BULK = {"oneOf": [reference(requests.Increments), reference(requests.IncrementColumns)]}
_ARROW = (
    "An Arrow IPC stream with two columns: `key` (string, large_string, string_view, or a dictionary of these) and "
    "`delta` (any integer type), neither with nulls. 415 if the server lacks its extra `arrow`."
)
bulk = extend_schema(
    operation_id="increment_many",
    description=(
        f"Add to many counters in one request, up to {settings.TALLY.max_increments:,} increments or "
        f"{settings.TALLY.max_body_bytes:,} bytes. They are folded, and each is counted exactly once."
    ),
    tags=["writes"],
    parameters=[IDEMPOTENCY, PRIORITY],
    request={
        JSON: _BULK,
        NDJSON: COMPONENTS["Increments"]["properties"]["increments"] | {"description": "One a line."},
        MSGPACK: _BULK,
        ARROW: COMPONENTS["IncrementColumns"]
        | {
            "title": "Arrow stream",
            "description": _ARROW,
            "properties": {"key": _COLUMNS["keys"], "delta": _COLUMNS["deltas"]},
            "required": ["key", "delta"],
        },
    },
    examples=[
        OpenApiExample(
            "rows", {"increments": [{"key": "a", "delta": 1}, {"key": "b", "delta": -2}]}, request_only=True
        ),
        OpenApiExample("columns", {"keys": ["a", "b"], "deltas": [1, -2]}, request_only=True),
    ],
    responses=answers(
        {202: (requests.Accepted, "Durable; each increment will be counted exactly once, but for keys in `refused`.")},
        *(403, 413, 415, 422, 429),
    ),
)
get = extend_schema(
    operation_id="read",
    tags=["reads"],
    parameters=[_KEY, CONSISTENCY, AFTER, AFTER_WAIT, _PENDING, ETAG],
    responses=answers(
        {
            200: (requests.Counter, "The counter; `ETag` is its version."),
            202: (requests.Write, "The write in `after` is not applied yet."),
        },
        404,
    ),
)
put = extend_schema(
    operation_id="set",
    tags=["writes"],
    parameters=[_KEY, _IF_MATCH, IDEMPOTENCY, ETAG],
    request={JSON: reference(requests.Set)},
    responses=answers(
        {
            200: (requests.Changed, "Set."),
            202: (requests.Pending, "Durable, but not applied yet: a shard's primary is away."),
        },
        *(403, 409, 412, 413, 415, 422, 429),
    ),
)
delete = extend_schema(
    operation_id="reset",
    tags=["writes"],
    parameters=[_KEY, _IF_MATCH, IDEMPOTENCY, ETAG],
    responses=answers(
        {
            200: (requests.Changed, "Reset."),
            202: (requests.Pending, "Durable, but not applied yet: a shard's primary is away."),
        },
        *(403, 409, 412, 413, 415, 422, 429),
    ),
)
get_many = extend_schema(
    operation_id="read_many",
    tags=["reads"],
    parameters=[
        query("key", {"type": "array", "items": _KEY.type, "maxItems": _TALLY.max_keys}, "Keys, each as one `key=`."),
        query("prefix", {"type": "string"}, "All written counters whose key starts so; not together with `key`."),
        *PAGING,
        CONSISTENCY,
        AFTER,
        AFTER_WAIT,
    ],
    responses=answers(
        {200: (requests.Counters, "The counters."), 202: (requests.Write, "The write in `after` is not applied yet.")},
        *(404, 414),
    ),
)
write = extend_schema(
    operation_id="read_write",
    tags=["writes"],
    description=f"What became of a write: queued, excess, stale, applied or rejected. Known for {_DAYS}.",
    parameters=[
        OpenApiParameter(
            "write_id", {"type": "string", "pattern": f"^{WRITE_ID_PATTERN}$"}, OpenApiParameter.PATH, required=True
        )
    ],
    responses=answers({200: (requests.Write, "What became of the write.")}, 404),
)
digest = extend_schema(
    operation_id="read_digest",
    tags=["shards"],
    parameters=[
        OpenApiParameter("shard", _SHARD, OpenApiParameter.PATH, required=True),
        WAIT,
    ],
    responses=answers(
        {
            200: (
                requests.Digest,
                "The shard's last reconciliation; with `wait`, of one that began after this request.",
            ),
            202: (requests.Asked, "It is being compared, and has not ended in time; later the answer will be there."),
        },
        *(403, 404),
    ),
)
metrics = extend_schema(exclude=True)  # not public
_REFUSED = {
    (400, MEDIA_TYPE): OpenApiResponse(reference(requests.ProblemDocument), description=_HOST),
    (406, MEDIA_TYPE): OpenApiResponse(reference(requests.ProblemDocument), description=_PROBLEMS[406]),
}
live = extend_schema(
    operation_id="live",
    tags=["operation"],
    auth=[],
    responses={(200, JSON): OpenApiResponse(reference(requests.Probe), description="It answers."), **_REFUSED},
)
ready = extend_schema(
    operation_id="ready",
    tags=["operation"],
    auth=[],
    responses={
        (200, JSON): OpenApiResponse(reference(requests.Probe), description="It can serve."),
        (503, MEDIA_TYPE): OpenApiResponse(
            reference(requests.ProblemDocument), description="It cannot serve now; `detail` says what is missing."
        ),
        **_REFUSED,
    },
)
health = extend_schema(
    operation_id="health",
    tags=["operation"],
    auth=[],
    responses={
        (200, JSON): OpenApiResponse(reference(requests.Health), description="Ready: writes are taken."),
        (503, JSON): OpenApiResponse(reference(requests.Health), description="Not ready."),
        **_REFUSED,
    },
)
