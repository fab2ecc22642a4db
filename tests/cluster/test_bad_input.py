"""Bad input: each is answered with its problem document (RFC 9457), says which field breaks which rule, and counts
nothing."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import Any
from uuid import uuid4

import httpx
import msgspec
import pytest
from django.conf import settings

from tests.support.cluster import Cluster, eventually, value_of, wait_applied
from tests.support.http import assert_problem, exchange

JSON, NDJSON, MSGPACK = "application/json", "application/x-ndjson", "application/msgpack"
MAX, MIN = 2**63 - 1, -(2**63)
KEY_RULE = "1 to 200 characters"
WHOLE = 16 * 1024 * 1024
BATCH = "0" * 32
KEY = "test:" + "0" * 32  # stands for the test's own, which is as long

Headers = dict[str, str | bytes]


@dataclass(frozen=True)
class Case:
    """A request, and the problem it is answered with. `KEY` in path and body is a key that was never written."""

    name: str
    method: str
    path: str
    body: bytes | None = None
    headers: Headers = field(default_factory=dict)
    who: str = "all"  # "all", "reader" or "nobody": whose API key
    status: int = 400
    slug: str = "invalid-request"
    field: str | None = None
    rule: str = ""


def encoded(body: Any) -> bytes | None:
    return body if body is None or isinstance(body, bytes) else msgspec.json.encode(body)


def add(name: str, body: Any = None, *, path: str = f"/v1/counters/{KEY}/increments", **expected: Any) -> Case:
    """`POST /v1/counters/{key}/increments`."""
    body = encoded({"delta": 1} if body is None else body)
    headers = {"Content-Type": JSON} | expected.pop("headers", {})
    return Case(f"increment: {name}", "POST", path, body, headers, **expected)


def bulk(name: str, body: Any, media: str = JSON, **expected: Any) -> Case:
    """`POST /v1/increments`."""
    return Case(f"bulk {media}: {name}", "POST", "/v1/increments", encoded(body), {"Content-Type": media}, **expected)


def put(name: str, body: Any = None, *, path: str = f"/v1/counters/{KEY}", **expected: Any) -> Case:
    """`PUT /v1/counters/{key}`."""
    body = encoded({"value": 1} if body is None else body)
    headers = {"Content-Type": JSON} | expected.pop("headers", {})
    return Case(f"set: {name}", "PUT", path, body, headers, **expected)


def delete(name: str, *, path: str = f"/v1/counters/{KEY}", **expected: Any) -> Case:
    """`DELETE /v1/counters/{key}`."""
    return Case(f"reset: {name}", "DELETE", path, **expected)


def get(name: str, path: str, **expected: Any) -> Case:
    """Any GET."""
    return Case(f"get: {name}", "GET", path, **expected)


def number(digits: str) -> bytes:
    return b'{"delta": ' + digits.encode() + b"}"


BAD_KEYS = {
    "empty": "",
    "too long": "a" * 201,
    "far too long": "a" * 60_000,
    "space": "%20",
    "slash": "a/b",
    "encoded slash": "a%2Fb",
    "two slashes": "a//b",
    "unicode": "%C3%A9",
    "no UTF-8": "%FF",
    "percent": "%25",
    "plus": "a+b",
    "newline at the end": "a%0A",
    "wide digit": "%EF%BC%91",
}
KEY_CASES = [
    case
    for name, key in BAD_KEYS.items()
    for case in (
        add(f"key {name}", path=f"/v1/counters/{key}/increments", field="key", rule=KEY_RULE),
        put(f"key {name}", path=f"/v1/counters/{key}", field="key", rule=KEY_RULE),
    )
] + [
    delete("key with a space", path="/v1/counters/a%20b", field="key", rule=KEY_RULE),
    delete("key empty", path="/v1/counters/", field="key", rule=KEY_RULE),
    get("key with a space", "/v1/counters/a%20b", field="key", rule=KEY_RULE),
    get("key empty", "/v1/counters/", field="key", rule=KEY_RULE),
    get("key with a slash", "/v1/counters/a/b", field="key", rule=KEY_RULE),
    # nginx knows these for what they are before the API sees them.
    add("key NUL", path="/v1/counters/%00/increments", slug="bad-request"),
    add("key with a broken escape", path="/v1/counters/%zz/increments", slug="bad-request"),
]

DELTAS = [
    add("string", {"delta": "1"}, field="delta", rule="`int`, got `str`"),
    add("float", {"delta": 1.5}, field="delta", rule="`int`, got `float`"),
    add("whole float", number("1.0"), field="delta", rule="`int`, got `float`"),
    add("exponent", number("1e3"), field="delta", rule="`int`, got `float`"),
    add("boolean", {"delta": True}, field="delta", rule="`int`, got `bool`"),
    add("null", {"delta": None}, field="delta", rule="`int`, got `null`"),
    add("array", {"delta": [1]}, field="delta", rule="`int`, got `array`"),
    add("object", {"delta": {"delta": 1}}, field="delta", rule="`int`, got `object`"),
    add("one more than 64 bits", {"delta": MAX + 1}, field="delta", rule=f"<= {MAX}"),
    add("one less than 64 bits", {"delta": MIN - 1}, field="delta", rule=f">= {MIN}"),
    add("unsigned 64 bits", {"delta": 2**64 - 1}, field="delta", rule=f"<= {MAX}"),
    add("beyond unsigned 64 bits", {"delta": 2**64}, field="delta", rule=f"<= {MAX}"),
    add("5,000 digits", number("9" * 5000), field="delta", rule="out of range"),
    add("minus 100,000 digits", number("-" + "9" * 100_000), field="delta", rule="out of range"),
    add("huge exponent", number("1e400"), field="delta", rule="out of range"),
    add("NaN", number("NaN"), field="body", rule="malformed"),
    add("leading zero", number("01"), field="body", rule="malformed"),
    add("plus sign", number("+1"), field="body", rule="malformed"),
    add(
        "deeply nested",
        b'{"delta": ' + b"[" * 200_000 + b"]" * 200_000 + b"}",
        field="delta",
        rule="`int`, got `array`",
    ),
]
BODIES = [
    add("missing", b"{}", field="body", rule="missing required field `delta`"),
    add("unknown field", {"delta": 1, "detla": 2}, field="body", rule="unknown field `detla`"),
    add("unknown field, deeply nested", b'{"x": ' + b"[" * 200_000, field="body", rule="unknown field `x`"),
    add("empty", b"", field="body", rule="truncated"),
    add("cut", b'{"delta": 1', field="body", rule="truncated"),
    add("no JSON", b"delta=1", field="body", rule="malformed"),
    add("two documents", b'{"delta": 1}{"delta": 1}', field="body", rule="trailing characters"),
    add("an array", [], field="body", rule="`object`, got `array`"),
    add("a bare null", b"null", field="body", rule="`object`, got `null`"),
    add("byte order mark", b'\xef\xbb\xbf{"delta": 1}', field="body", rule="malformed"),
    add("no UTF-8", b'{"\xff": 1}', field="body", rule="UTF-8"),
    add("UTF-16", '{"delta": 1}'.encode("utf-16"), field="body", rule="malformed"),
    put("missing", b"{}", field="body", rule="missing required field `value`"),
    put("delta", {"delta": 1}, field="body", rule="unknown field `delta`"),
    put("string", {"value": "1"}, field="value", rule="`int`, got `str`"),
    put("one more than 64 bits", {"value": MAX + 1}, field="value", rule=f"<= {MAX}"),
    put("empty", b"", field="body", rule="truncated"),
]
MEDIA = [
    add("text", headers={"Content-Type": "text/plain"}, status=415, slug="unsupported-media-type"),
    add(
        "form, curl's own",
        headers={"Content-Type": "application/x-www-form-urlencoded"},
        status=415,
        slug="unsupported-media-type",
    ),
    add(
        "multipart",
        headers={"Content-Type": "multipart/form-data; boundary=x"},
        status=415,
        slug="unsupported-media-type",
    ),
    add("NDJSON", headers={"Content-Type": NDJSON}, status=415, slug="unsupported-media-type"),
    add("compressed", headers={"Content-Encoding": "gzip"}, status=415, slug="unsupported-media-type"),
    put("MessagePack", headers={"Content-Type": MSGPACK}, status=415, slug="unsupported-media-type"),
    bulk("not taken", {"increments": []}, "text/csv", status=415, slug="unsupported-media-type"),
    add("HTML wanted", headers={"Accept": "text/html"}, status=406, slug="not-acceptable"),
    get("HTML wanted", f"/v1/counters/{KEY}", headers={"Accept": "text/html"}, status=406, slug="not-acceptable"),
    get("schema as HTML", "/v1/schema", headers={"Accept": "text/html"}, status=406, slug="not-acceptable"),
    get("docs as JSON", "/v1/docs", headers={"Accept": JSON}, status=406, slug="not-acceptable"),
    get("metrics, which are not public", "/metrics", status=404, slug="not-found"),
]


def in_all_media(name: str, items: list[Any], field: str, rule: str) -> list[Case]:
    """The same bulk in each media type: the same field, the same rule."""
    return [
        bulk(name, {"increments": items}, JSON, field=field, rule=rule),
        bulk(name, msgspec.json.Encoder().encode_lines(items), NDJSON, field=field, rule=rule),
        bulk(name, msgspec.msgpack.encode({"increments": items}), MSGPACK, field=field, rule=rule),
    ]


GOOD = {"key": KEY, "delta": 1}
BULK = [
    *in_all_media("nothing", [], "increments", "at least one"),
    *in_all_media(
        "string delta", [GOOD, GOOD, GOOD, {"key": "a", "delta": "1"}], "increments[3].delta", "`int`, got `str`"
    ),
    *in_all_media("float delta", [{"key": "a", "delta": 1.5}], "increments[0].delta", "`int`, got `float`"),
    *in_all_media("delta beyond 64 bits", [GOOD, {"key": "a", "delta": MAX + 1}], "increments[1].delta", f"<= {MAX}"),
    *in_all_media("no delta", [GOOD, {"key": "a"}], "increments[1]", "missing required field `delta`"),
    *in_all_media("unknown field", [{**GOOD, "wait": 1}], "increments[0]", "unknown field `wait`"),
    *in_all_media("key of another type", [GOOD, {"key": 1, "delta": 1}], "increments[1].key", "`str`, got `int`"),
    *in_all_media("bad key", [GOOD, GOOD, {"key": "a b", "delta": 1}], "increments[2].key", KEY_RULE),
    *in_all_media(
        "bad key that was there before",
        [GOOD, {"key": "", "delta": 1}, {"key": "", "delta": 1}],
        "increments[1].key",
        KEY_RULE,
    ),
    *in_all_media("key with a newline", [GOOD, {"key": "a\nb", "delta": 1}], "increments[1].key", KEY_RULE),
    *in_all_media("key with NUL", [{"key": "a\0", "delta": 1}], "increments[0].key", KEY_RULE),
    *in_all_media("item of another type", [GOOD, [1]], "increments[1]", "`object`, got `array`"),
    *in_all_media("sum beyond 64 bits", [{"key": KEY, "delta": MAX}, GOOD], "increments", "more than 64 bits"),
    *in_all_media(
        "negative sum beyond 64 bits", [{"key": KEY, "delta": MIN}, {"key": KEY, "delta": -1}], "increments", "64 bits"
    ),
    bulk("an array", [GOOD], field="body", rule="`object`, got `array`"),
    bulk("an object", {"increments": GOOD}, field="increments", rule="`array`, got `object`"),
    bulk("no field", {}, field="body", rule="missing required field `increments`"),
    bulk("empty", b"", field="body", rule="truncated"),
    bulk("a lone surrogate", rb'{"increments": [{"key": "\ud800", "delta": 1}]}', field="body", rule="surrogate"),
    bulk("empty body", b"", NDJSON, field="increments", rule="at least one"),
    bulk("blank lines", b"\n\n", NDJSON, field="increments", rule="at least one"),
    bulk("bad line", msgspec.json.encode(GOOD) + b"\nnonsense\n", NDJSON, field="body", rule="malformed"),
    bulk("cut line", msgspec.json.encode(GOOD) + b'\n{"key": "a", "de', NDJSON, field="body", rule="truncated"),
    bulk("no UTF-8", b'{"key": "\xff", "delta": 1}', NDJSON, field="body", rule="UTF-8"),
    bulk("empty", b"", MSGPACK, field="body", rule="truncated"),
    bulk("garbage", b"\xc1\xc1\xc1", MSGPACK, field="body", rule="malformed"),
    bulk("truncated", msgspec.msgpack.encode({"increments": [GOOD]})[:-1], MSGPACK, field="body", rule="truncated"),
    bulk("more than one", msgspec.msgpack.encode({"increments": [GOOD]}) * 2, MSGPACK, field="body", rule="trailing"),
    bulk("an array", msgspec.msgpack.encode([GOOD]), MSGPACK, field="body", rule="`object`, got `array`"),
    bulk("no text for a name", msgspec.msgpack.encode({1: []}), MSGPACK, field="body", rule="`str`, got `int`"),
    bulk("no UTF-8", b"\x81\xaaincrements\x91\x82\xa3key\xa1\xff\xa5delta\x01", MSGPACK, field="body", rule="UTF-8"),
    bulk(
        "a promise of 4 billion items",
        b"\x81\xaaincrements\xdd\xff\xff\xff\xff",
        MSGPACK,
        field="body",
        rule="truncated",
    ),
    bulk(
        "deeply nested",
        b"\x81\xaaincrements" + b"\x91" * 200_000,
        MSGPACK,
        field="increments[0]",
        rule="`object`, got `array`",
    ),
    bulk("JSON", {"increments": [GOOD]}, MSGPACK, field="body"),
    *(
        bulk("100,001 increments", body, media, status=413, slug="payload-too-large")
        for media, body in (
            (JSON, {"increments": [GOOD] * 100_001}),
            (NDJSON, msgspec.json.Encoder().encode_lines([GOOD] * 100_001)),
            (MSGPACK, msgspec.msgpack.encode({"increments": [GOOD] * 100_001})),
        )
    ),
    bulk("17 MiB", b" " * (17 * 1024 * 1024), status=413, slug="payload-too-large"),
]
WAIT_RULE = "a number of seconds from 0 to 30"
CURSOR_RULE = "the value of next from the page before"
QUERIES = [
    *(
        add(f"wait={wait}", path=f"/v1/counters/{KEY}/increments?wait={wait}", field="wait", rule=WAIT_RULE)
        for wait in (
            "",
            "abc",
            "-1",
            "31",
            "30.001",
            "nan",
            "inf",
            "-inf",
            "1_0",
            "%201",
            "1,5",
            "0x1",
            "1e3",
            "%D9%A1",
            "1s",
        )
    ),
    get("consistency", f"/v1/counters/{KEY}?consistency=x", field="consistency", rule="eventual or primary"),
    get("no consistency", f"/v1/counters/{KEY}?consistency=", field="consistency", rule="eventual or primary"),
    get(
        "consistency of many", "/v1/counters?key=a&consistency=strong", field="consistency", rule="eventual or primary"
    ),
    get(
        "consistency of a page",
        "/v1/counters?prefix=a&consistency=strong",
        field="consistency",
        rule="eventual or primary",
    ),
    *(
        get(f"limit={limit}", f"/v1/counters?limit={limit}", field="limit", rule="from 1 to 1000")
        for limit in ("", "0", "1001", "-1", "x", "1.0", "9" * 5000, "%D9%A1")
    ),
    *(
        get(f"cursor={cursor}", f"/v1/counters?cursor={cursor}", field="cursor", rule=CURSOR_RULE)
        for cursor in ("", "x", "!", "%FF", "IA", "w6k")  # the last two: a space, é
    ),
    get("cursor of another prefix", "/v1/counters?prefix=b&cursor=YTE", field="cursor", rule="with the same prefix"),
    get("prefix", "/v1/counters?prefix=a%20b", field="prefix", rule=KEY_RULE),
    get("prefix too long", f"/v1/counters?prefix={'a' * 201}", field="prefix", rule=KEY_RULE),
    get("key and prefix", "/v1/counters?key=a&prefix=a", field="prefix", rule="not together with key"),
    get("key and cursor", "/v1/counters?key=a&cursor=YTE", field="cursor", rule="not together with key"),
    get("key and limit", "/v1/counters?key=a&limit=1", field="limit", rule="not together with key"),
    get("empty key among many", "/v1/counters?key=a&key=", field="key", rule=KEY_RULE),
    get("bad key among many", "/v1/counters?key=a&key=%00", field="key", rule=KEY_RULE),
    get("1,001 keys", "/v1/counters?" + "&".join(["key=a"] * 1001), field="key", rule="1000 keys at most"),
    get("1,200 keys", "/v1/counters?" + "&".join(["key=a"] * 1200), field="query", rule="too many parameters"),
]
CONDITIONS = [
    put(f"If-Match: {form!r}", headers={"If-Match": form}, field="If-Match", rule="a version in quotes")
    for form in (
        "",
        "*",
        "1",
        '"1',
        '1"',
        '"a"',
        '""',
        'W/"1"',
        '"1", "2"',
        '"-1"',
        '" 1"',
        '"1.0"',
        '"' + "9" * 20 + '"',
        "\u0661".encode(),
    )
] + [
    delete("If-Match: 1", headers={"If-Match": "1"}, field="If-Match", rule="a version in quotes"),
    put(
        "another version",
        headers={"If-Match": '"1"'},
        status=412,
        slug="version-mismatch",
        field="If-Match",
        rule="not the one",
    ),
    delete(
        "another version",
        headers={"If-Match": '"1"'},
        status=412,
        slug="version-mismatch",
        field="If-Match",
        rule="not the one",
    ),
]
BAD_IDEMPOTENCY_KEYS: dict[str, str | bytes] = {
    "empty": "",
    "too long": "a" * 256,
    "UTF-8": "é".encode(),
    "Latin-1": "é".encode("latin-1"),
    "with a tab": "a\tb",
}
IDEMPOTENCY = [
    case
    for name, value in BAD_IDEMPOTENCY_KEYS.items()
    for headers in [{"Idempotency-Key": value}]
    for case in (
        add(f"Idempotency-Key {name}", headers=headers, field="Idempotency-Key", rule="1 to 255 printable ASCII"),
        put(f"Idempotency-Key {name}", headers=headers, field="Idempotency-Key", rule="1 to 255 printable ASCII"),
    )
] + [
    delete(
        "Idempotency-Key empty",
        headers={"Idempotency-Key": ""},
        field="Idempotency-Key",
        rule="1 to 255 printable ASCII",
    )
]

REFUSED: dict[str, Any] = {"status": 401, "slug": "unauthorized"}
FORBIDDEN: dict[str, Any] = {"status": 403, "slug": "forbidden"}
CALLERS = [
    *(
        add(f"Authorization: {form}", headers={"Authorization": form}, who="nobody", **REFUSED)
        for form in (
            "",
            "Api-Key",
            "Api-Key x",
            "Api-Key x.y",
            "Api-Key a b",
            "Bearer x",
            "Basic YTpi",
            "Api-Keyx",
            "x",
        )
    ),
    add("no key", who="nobody", **REFUSED),
    Case("bulk: no key", "POST", "/v1/increments", b"{}", {"Content-Type": JSON}, "nobody", **REFUSED),
    put("no key", who="nobody", **REFUSED),
    delete("no key", who="nobody", **REFUSED),
    get(
        "unknown key, though reading is open",
        f"/v1/counters/{KEY}",
        headers={"Authorization": "Api-Key x.y"},
        who="nobody",
        **REFUSED,
    ),
    add("key that may only read", who="reader", **FORBIDDEN),
    Case(
        "bulk: key that may only read", "POST", "/v1/increments", b"{}", {"Content-Type": JSON}, "reader", **FORBIDDEN
    ),
    put("key that may only read", who="reader", **FORBIDDEN),
    delete("key that may only read", who="reader", **FORBIDDEN),
]
NOT_ALLOWED: dict[str, Any] = {"status": 405, "slug": "method-not-allowed"}
ADDRESSES = [
    *(
        Case(f"method: {method} {path} by {who}", method, path, who=who, **NOT_ALLOWED)
        for method, path in (
            ("POST", f"/v1/counters/{KEY}"),
            ("PATCH", f"/v1/counters/{KEY}"),
            ("GET", f"/v1/counters/{KEY}/increments"),
            ("PUT", f"/v1/counters/{KEY}/increments"),
            ("POST", "/v1/counters"),
            ("DELETE", "/v1/counters"),
            ("GET", "/v1/increments"),
            ("DELETE", f"/v1/writes/{BATCH}-0-0"),
            ("POST", "/health"),
            ("POST", "/status"),
            ("DELETE", "/status/live"),
            ("PUT", "/v1/schema"),
            ("POST", "/v1/docs"),
            ("BREW", f"/v1/counters/{KEY}"),
        )
        for who in ("all", "nobody")
    ),
    Case("method: TRACE, which nginx refuses", "TRACE", f"/v1/counters/{KEY}", **NOT_ALLOWED),
    *(
        Case(f"unknown: {method} {path}", method, path, status=404, slug="not-found")
        for method, path in (
            ("GET", "/v1"),
            ("GET", "/v1/nothing"),
            ("POST", "/v1/counter/a/increments"),
            ("DELETE", "/v2/counters/a"),
        )
    ),
    *(
        get(f"write {write!r}", f"/v1/writes/{write}", field="id", rule="an id that a write was answered with")
        for write in (
            "",
            "x",
            "a/b",
            "%20",
            BATCH,
            f"{BATCH}-0-",
            f"{BATCH}-0-1.0",
            f"{BATCH}-01-0",
            f"{BATCH}-0-100",
            f"{BATCH}-0-0%0A",
        )
    ),
    *(
        get(f"write {write!r}", f"/v1/writes/{write}", status=404, slug="unknown-write")
        for write in (f"{BATCH}-0-0", f"{BATCH}-ffffffff-0.1", f"{BATCH}-0-63")
    ),
    get("another host", f"/v1/counters/{KEY}", headers={"Host": "evil.example"}),
]
CASES = [*KEY_CASES, *DELTAS, *BODIES, *MEDIA, *BULK, *QUERIES, *CONDITIONS, *IDEMPOTENCY, *CALLERS, *ADDRESSES]


@pytest.fixture(scope="module")
def clients(cluster: Cluster) -> Iterator[dict[str, httpx.Client]]:
    """Clients by what their API key allows."""
    reader = cluster.make_key("read")
    with cluster.client() as everything, cluster.client(reader) as reading, cluster.client("") as nobody:
        yield {"all": everything, "reader": reading, "nobody": nobody}


@pytest.fixture(scope="module")
def apis(cluster: Cluster) -> Iterator[list[httpx.Client]]:
    """Clients of the API processes themselves."""
    with ExitStack() as stack:
        headers = {"Authorization": f"Api-Key {cluster.key}"}
        addresses = [f"http://127.0.0.1:{process['port']}" for process in cluster.processes("api")]
        yield [
            stack.enter_context(httpx.Client(base_url=address, headers=headers, timeout=60)) for address in addresses
        ]


def accepted(apis: list[httpx.Client]) -> float:
    """Writes that the API processes have accepted since they started."""
    headers = {"Authorization": f"Bearer {settings.TALLY.metrics_token.get_secret_value()}"}
    name = "tally_writes_accepted_total"
    texts = [api.get("/metrics", params={"name[]": name}, headers=headers).text for api in apis]
    counts = [re.findall(rf"^{name} (\S+)$", text, re.MULTILINE) for text in texts]
    return sum(float(count) for (count,) in counts)


@pytest.fixture(scope="module")
def accepted_before(apis: list[httpx.Client]) -> list[float]:
    """Writes accepted before the next case of `test_bad_input`: after the last one."""
    return [accepted(apis)]


@pytest.mark.parametrize("case", CASES, ids=[case.name[:100] for case in CASES])
def test_bad_input(
    case: Case, clients: dict[str, httpx.Client], apis: list[httpx.Client], accepted_before: list[float], key: str
) -> None:
    body = None if case.body is None else case.body.replace(KEY.encode(), key.encode())
    headers = [
        (name.encode(), value if isinstance(value, bytes) else value.encode()) for name, value in case.headers.items()
    ]
    answer = clients[case.who].request(case.method, case.path.replace(KEY, key), content=body, headers=headers)
    document = assert_problem(answer, case.status, case.slug)
    if case.field is not None:
        (error,) = document["errors"]
        assert error["field"] == case.field
        assert case.rule in error["rule"]
        assert case.field in document["detail"] or case.status != 400
    if case.status == 401:
        assert answer.headers["WWW-Authenticate"] == "Api-Key"
    if case.status == 405:
        assert case.method not in answer.headers["Allow"].split(", ")
    before, now = accepted_before.pop(), accepted(apis)
    accepted_before.append(now)
    if case.status != 412:  # a condition is looked at when it is applied: that write is in the journal, and rejected
        assert now == before
    read = clients["all"].get(f"/v1/counters/{key}", params={"consistency": "primary"}).json()
    assert (read["value"], read["version"]) == (0, 0)


def test_there_are_enough() -> None:
    """Every call has its cases, and each name is one."""
    assert len(CASES) >= 60
    assert len({case.name for case in CASES}) == len(CASES)
    assert {case.status for case in CASES} == {400, 401, 403, 404, 405, 406, 412, 413, 415}


def test_a_body_beyond_the_limit_of_the_api_itself(apis: list[httpx.Client], key: str) -> None:
    """nginx has the same limit, but an API process does not rely on it."""
    before = accepted(apis)
    for path in ("/v1/increments", f"/v1/counters/{key}/increments"):
        document = assert_problem(apis[0].post(path, content=b" " * (WHOLE + 1)), 413, "payload-too-large")
        assert "16,777,216 bytes" in document["detail"]
        assert_problem(apis[0].post(path, content=b" " * WHOLE), 400, "invalid-request")
    assert accepted(apis) == before


def test_a_name_that_comes_twice_counts_once_with_its_last_value(client: httpx.Client, key: str) -> None:
    """RFC 8259 leaves it open; here as in most parsers."""
    answer = client.post(
        f"/v1/counters/{key}/increments?wait=30", content=b'{"delta": 1, "delta": 2}', headers={"Content-Type": JSON}
    )
    assert answer.json()["value"] == 2


@pytest.mark.parametrize("wait", ["0", "0.5", "30", "1e-3", "-0.0", "3e1"])
def test_good_waits(client: httpx.Client, key: str, wait: str) -> None:
    answer = client.post(f"/v1/counters/{key}/increments", params={"wait": wait}, json={"delta": 1})
    assert answer.status_code in (200, 202), answer.text


@pytest.mark.parametrize("media", ["", "application/json; charset=utf-8", "Application/JSON"])
def test_good_media_types(client: httpx.Client, key: str, media: str) -> None:
    answer = client.post(
        f"/v1/counters/{key}/increments?wait=30",
        content=b'{"delta": 1}',
        headers={"Content-Type": media} if media else {},
    )
    assert answer.json()["value"] == 1


@pytest.mark.parametrize(
    ("path", "methods"),
    [
        ("/v1/counters/a", "GET, PUT, DELETE, HEAD, OPTIONS"),
        ("/v1/counters/a/increments", "POST, OPTIONS"),
        ("/v1/increments", "POST, OPTIONS"),
        ("/v1/counters", "GET, HEAD, OPTIONS"),
        ("/livez", "GET, HEAD, OPTIONS"),
        ("/readyz", "GET, HEAD, OPTIONS"),
        ("/health", "GET, HEAD, OPTIONS"),
        ("/v1/schema", "GET, HEAD, OPTIONS"),
        ("/v1/docs", "GET, HEAD, OPTIONS"),
    ],
)
def test_options_tell_the_methods(clients: dict[str, httpx.Client], path: str, methods: str) -> None:
    answer = clients["nobody"].options(path)
    assert answer.status_code == 204
    assert answer.content == b""
    assert set(answer.headers["Allow"].split(", ")) == set(methods.split(", "))


@pytest.mark.parametrize(
    ("path", "status"),
    [
        ("/v1/counters/a", 200),
        ("/v1/counters/a%20b", 400),
        ("/v1/increments", 405),
        ("/v1/nothing", 404),
        ("/livez", 200),
        ("/readyz", 200),
        ("/health", 200),
        ("/v1/docs", 200),
        ("/status", 200),
    ],
)
def test_head_is_get_without_a_body(client: httpx.Client, path: str, status: int) -> None:
    answer = client.head(path)
    assert answer.status_code == status
    assert answer.content == b""
    assert answer.headers["Content-Type"] == client.get(path).headers["Content-Type"]


LENGTHS = {
    "none": (b"", b'{"delta": 1}', False),
    "none and no body": (b"", b"", False),
    "too long": (b"Content-Length: 99\r\n", b'{"delta": 1}', True),
    "too long for lines": (
        b"Content-Length: 99\r\nX-Bulk: 1\r\n",
        b'{"key": "' + KEY.encode() + b'", "delta": 1}\n',
        True,
    ),
    "too short": (b"Content-Length: 5\r\n", b'{"delta": 1}', False),
    "no number": (b"Content-Length: abc\r\n", b'{"delta": 1}', False),
    "negative": (b"Content-Length: -1\r\n", b'{"delta": 1}', False),
    "two": (b"Content-Length: 12\r\nContent-Length: 13\r\n", b'{"delta": 1}', False),
    "beyond 64 bits": (b"Content-Length: 18446744073709551628\r\n", b'{"delta": 1}', False),
    "bad chunk": (b"Transfer-Encoding: chunked\r\n", b'zz\r\n{"delta": 1}\r\n0\r\n\r\n', False),
    "missing chunk": (b"Transfer-Encoding: chunked\r\n", b'c\r\n{"delta": 1}\r\n', True),
}


@pytest.mark.parametrize("front", ["nginx", "api"])
@pytest.mark.parametrize("name", LENGTHS)
def test_a_wrong_length_neither_hangs_nor_counts(
    cluster: Cluster, apis: list[httpx.Client], key: str, name: str, front: str
) -> None:
    """The connection is closed, with a 400 unless the client was gone first; nothing is counted, by nginx or by the API
    alone."""
    head, body, close = LENGTHS[name]
    before = accepted(apis)
    path, media = ("/v1/increments", NDJSON) if b"X-Bulk" in head else (f"/v1/counters/{key}/increments", JSON)
    lines = [
        f"POST {path} HTTP/1.1",
        "Host: 127.0.0.1",
        "Connection: close",
        f"Authorization: Api-Key {cluster.key}",
        f"Content-Type: {media}",
    ]
    request = "\r\n".join([*lines, ""]).encode() + head + b"\r\n" + body.replace(KEY.encode(), key.encode())
    answer = exchange(cluster.url if front == "nginx" else str(apis[0].base_url), request, close=close)
    assert answer.startswith(b"HTTP/1.1 400 ") or (close and not answer)
    assert accepted(apis) == before
    assert value_of(apis[0], key) == 0


def test_chunks_with_a_length_are_refused(cluster: Cluster, apis: list[httpx.Client], key: str) -> None:
    """nginx and the API alone both refuse a request with two lengths (RFC 9112, 6.3), and take nothing that follows for
    another request."""
    head = f"Host: 127.0.0.1\r\nAuthorization: Api-Key {cluster.key}\r\nContent-Type: {JSON}\r\n"
    post = f"POST /v1/counters/{key}/increments HTTP/1.1\r\n{head}"
    chunks = 'Transfer-Encoding: chunked\r\nContent-Length: 5\r\n\r\nc\r\n{"delta": 1}\r\n0\r\n\r\n'
    whole = 'Content-Length: 12\r\n\r\n{"delta": 1}'
    for front in (cluster.url, str(apis[0].base_url)):
        answer = exchange(front, (post + chunks + post + whole).encode())
        assert answer.startswith(b"HTTP/1.1 400 ")
        assert answer.count(b"HTTP/1.1 ") == 1
    assert wait_applied(apis[0], key)["value"] == 1


@pytest.mark.parametrize(
    ("request_line", "header", "status", "slug"),
    [
        (b"GET /v1/counters/" + b"a" * 262_144 + b" HTTP/1.1", b"", 414, b"uri-too-long"),
        (b"GET /v1/counters/a HTTP/1.1", b"X: " + b"a" * 262_144 + b"\r\n", 431, b"headers-too-large"),
    ],
)
def test_heads_have_a_limit(cluster: Cluster, request_line: bytes, header: bytes, status: int, slug: bytes) -> None:
    answer = exchange(cluster.url, request_line + b"\r\nHost: 127.0.0.1\r\nConnection: close\r\n" + header + b"\r\n")
    head, _, document = answer.partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 %d " % status)
    assert b"Content-Type: application/problem+json" in head
    assert msgspec.json.decode(document)["type"].encode() == b"urn:tally:problem:" + slug


def test_chunks_count_once(client: httpx.Client, key: str) -> None:
    """A body without Content-Length is as good, through nginx."""
    answer = client.post(
        f"/v1/counters/{key}/increments", content=iter([b'{"del', b'ta": 3}']), headers={"Content-Type": JSON}
    )
    assert answer.status_code == 202, answer.text
    assert eventually(lambda: value_of(client, key) == 3)
    assert value_of(client, key) == 3


def test_a_condition_is_a_part_of_what_an_idempotency_key_stands_for(client: httpx.Client, key: str) -> None:
    headers = {"Idempotency-Key": uuid4().hex}
    assert (
        client.put(f"/v1/counters/{key}", json={"value": 1}, headers=headers | {"If-Match": '"0"'}).status_code == 200
    )
    answer = client.put(f"/v1/counters/{key}", json={"value": 1}, headers=headers | {"If-Match": '"1"'})
    document = assert_problem(answer, 422, "idempotency-key-reused")
    assert document["errors"][0]["field"] == "Idempotency-Key"
