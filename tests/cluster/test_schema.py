"""The schema names each status that a call on counters answers, and no other: each is made to happen here, or needs an
outage."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any
from uuid import uuid4

import httpx
import msgspec
import pytest

from counters.api import requests
from counters.reading import write_status
from tests.support.cluster import Cluster, eventually
from tests.support.http import exchange

MAX = 2**63 - 1
TOO_LARGE = b" " * (16 * 1024 * 1024 + 1)
JSON = {"Content-Type": "application/json"}
UNKNOWN = "0" * 32 + "-0-0"
# What only an outage, a limit, or an operation that was set aside and retried, brings about; other modules have tests of it.
OUTAGE = {
    ("get", "/v1/counters/{key}"): {202, 503},
    ("get", "/v1/counters"): {202, 503},
    ("get", "/v1/writes/{write_id}"): {503},
    ("put", "/v1/counters/{key}"): {202, 409, 429, 503},
    ("delete", "/v1/counters/{key}"): {202, 409, 429, 503},
    ("post", "/v1/counters/{key}/increments"): {429, 503},
    ("post", "/v1/increments"): {429, 503},
    ("get", "/v1/shards/{shard}/replicas/{node}/counters"): {503},
    ("put", "/v1/likes/{type}/{item}/users/{user}"): {429, 503},
    ("delete", "/v1/likes/{type}/{item}/users/{user}"): {429, 503},
    ("get", "/v1/likes/{type}/{item}/users/{user}"): {503},
    ("get", "/v1/likes/{type}/{item}"): {202, 503},
    ("get", "/v1/likes/{type}"): {202, 503},
    ("get", "/v1/likes/{type}/{item}/users"): {503},
    ("get", "/v1/likes/users/{user}"): {503},
    ("post", "/v1/likes"): {429, 503},
}


@dataclass
class Call:
    """Requests of one call. `{key}` is a key of the test, `{full}` one whose counter is at its limit, `{write}` a
    write."""

    method: str
    path: str
    body: bytes | None = None
    special: list[tuple[str, bytes | None, dict[str, str]]] = field(default_factory=list)  # address, body, headers


READ, WRITE, ADD, BULK = "/v1/counters/{key}", "/v1/writes/{write}", "/v1/counters/{key}/increments", "/v1/increments"
SERVER = "/v1/shards/0/replicas/shard-0-node-1/counters"
LIKE, LIKES, EVENTS = "/v1/likes/test/{key}/users/u", "/v1/likes/test/{key}", "/v1/likes"
EVENT = b'{"events": [{"user_id": "u", "item_type": "test", "item_id": "{key}", "action": "like"}]}'
MANY = b'{"increments": [{"key": "{key}", "delta": 1}]}'
GZIP = {"Content-Encoding": "gzip"}
USED = {"Idempotency-Key": "{used}"}
LIKE_SPECIAL = [
    (f"{LIKE}?wait=30", None, {}),
    ("/v1/likes/users/{key}/users/u", None, {}),
    (LIKE, TOO_LARGE, {}),
    (LIKE, None, {**GZIP, "Idempotency-Key": uuid4().hex}),
    (LIKE, None, USED),
]
CALLS: dict[tuple[str, str], Call] = {
    ("post", "/v1/counters/{key}/increments"): Call(
        "POST",
        ADD,
        b'{"delta": 1}',
        [
            (f"{ADD}?wait=30", b'{"delta": 1}', {}),
            ("/v1/counters/{full}/increments?wait=30", b'{"delta": 1}', {}),
            (ADD, b"", {}),
            (ADD, TOO_LARGE, {}),
            (ADD, b"{}", {"Content-Type": "text/plain"}),
            (ADD, b'{"delta": 1}', USED),
        ],
    ),
    ("post", "/v1/increments"): Call(
        "POST",
        BULK,
        MANY,
        [(BULK, b"", {}), (BULK, TOO_LARGE, {}), (BULK, b"{}", {"Content-Type": "text/plain"}), (BULK, MANY, USED)],
    ),
    ("put", "/v1/likes/{type}/{item}/users/{user}"): Call("PUT", LIKE, None, LIKE_SPECIAL),
    ("delete", "/v1/likes/{type}/{item}/users/{user}"): Call("DELETE", LIKE, None, LIKE_SPECIAL),
    ("get", "/v1/likes/{type}/{item}/users/{user}"): Call("GET", LIKE, None, [(f"{LIKE}%20", None, {})]),
    ("get", "/v1/likes/{type}/{item}"): Call(
        "GET", LIKES, None, [(f"{LIKES}?pending=1", None, {}), (f"{LIKES}?after={UNKNOWN}", None, {})]
    ),
    ("get", "/v1/likes/{type}"): Call(
        "GET",
        "/v1/likes/test?item={key}",
        None,
        [
            ("/v1/likes/test", None, {}),
            (f"/v1/likes/test?item=a&after={UNKNOWN}", None, {}),
            ("/v1/likes/test?" + "&".join(["item=" + "a" * 140] * 2000), None, {}),
        ],
    ),
    ("get", "/v1/likes/{type}/{item}/users"): Call(
        "GET", f"{LIKES}/users", None, [(f"{LIKES}/users?cursor=x", None, {})]
    ),
    ("get", "/v1/likes/users/{user}"): Call(
        "GET", "/v1/likes/users/u", None, [("/v1/likes/users/u?limit=0", None, {})]
    ),
    ("post", "/v1/likes"): Call(
        "POST",
        EVENTS,
        EVENT,
        [
            (EVENTS, b"", {}),
            (EVENTS, TOO_LARGE, {}),
            (EVENTS, b"{}", {"Content-Type": "text/plain"}),
            (EVENTS, EVENT, USED),
        ],
    ),
    ("get", "/v1/counters/{key}"): Call(
        "GET", READ, None, [("/v1/counters/a%20b", None, {}), (f"{READ}?after={UNKNOWN}", None, {})]
    ),
    ("put", "/v1/counters/{key}"): Call(
        "PUT",
        READ,
        b'{"value": 1}',
        [
            (READ, b"", {}),
            (READ, b'{"value": 1}', {"If-Match": '"1"'}),
            (READ, TOO_LARGE, {}),
            (READ, b"{}", GZIP),
            (READ, b'{"value": 1}', USED),
        ],
    ),
    ("delete", "/v1/counters/{key}"): Call(
        "DELETE",
        READ,
        None,
        [
            (READ, None, {"If-Match": "1"}),
            (READ, None, {"If-Match": '"1"'}),
            (READ, TOO_LARGE, {}),
            (READ, None, {**GZIP, "Idempotency-Key": uuid4().hex}),
            (READ, None, USED),
        ],
    ),
    ("get", "/v1/counters"): Call(
        "GET",
        "/v1/counters?key={key}",
        None,
        [
            ("/v1/counters?limit=0", None, {}),
            (f"/v1/counters?key=a&after={UNKNOWN}", None, {}),
            ("/v1/counters?" + "&".join(["key=" + "a" * 200] * 1400), None, {}),
        ],
    ),
    ("get", "/v1/writes/{write_id}"): Call(
        "GET", WRITE, None, [("/v1/writes/x", None, {}), (f"/v1/writes/{UNKNOWN}", None, {})]
    ),
    ("get", "/v1/shards/{shard}/replicas/{node}/counters"): Call(
        "GET",
        f"{SERVER}?prefix={{key}}",
        None,
        [(f"{SERVER}?limit=0", None, {}), ("/v1/shards/0/replicas/nobody/counters", None, {})],
    ),
}


@pytest.fixture(scope="module")
def clients(cluster: Cluster) -> Iterator[tuple[httpx.Client, httpx.Client, httpx.Client]]:
    """Clients with every scope, with the scope `read`, and with a key that nobody knows."""
    with (
        cluster.client() as all_,
        cluster.client(cluster.make_key("read")) as reader,
        cluster.client("no.key") as nobody,
    ):
        yield all_, reader, nobody


@pytest.fixture(scope="module")
def documented(cluster: Cluster) -> dict[tuple[str, str], set[int]]:
    """Statuses of each call, by the schema."""
    with cluster.client() as client:
        document = msgspec.json.decode(client.get("/v1/schema", headers={"Accept": "application/json"}).content)
    return {
        (method, path): {int(status) for status in call["responses"]}
        for path, calls in document["paths"].items()
        for method, call in calls.items()
    }


@pytest.mark.parametrize("call", CALLS, ids=" ".join)
def test_statuses(
    clients: tuple[httpx.Client, httpx.Client, httpx.Client],
    documented: dict[tuple[str, str], set[int]],
    key: str,
    call: tuple[str, str],
) -> None:
    client = clients[0]
    full, used = f"{key}.full", uuid4().hex
    client.put(f"/v1/counters/{full}", json={"value": MAX}).raise_for_status()
    write = client.post(
        f"/v1/counters/{key}.written/increments", json={"delta": 1}, headers={"Idempotency-Key": used}
    ).json()["id"]
    eventually(lambda: client.get(f"/v1/writes/{write}").json()["status"] == "applied")
    asked = CALLS[call]

    def made(text: Any) -> Any:
        if isinstance(text, bytes):
            return text.replace(b"{key}", key.encode()) if len(text) < 1000 else text
        return text.replace("{key}", key).replace("{full}", full).replace("{write}", write).replace("{used}", used)

    def send(who: httpx.Client, path: str, body: bytes | None, headers: dict[str, str]) -> int:
        kind = {} if body is None else JSON
        named = {**kind, **{name: made(value) for name, value in headers.items()}}
        return _request(who, asked.method, made(path), None if body is None else made(body), named)

    seen = {send(who, asked.path, asked.body, {}) for who in clients}
    seen |= {send(client, asked.path, asked.body, {"Accept": "text/html"})}
    seen |= {send(client, path, body, headers) for path, body, headers in asked.special}
    assert seen == documented[call] - OUTAGE[call] - {429}  # see test_limits.py
    assert documented[call] >= OUTAGE[call] | {429}


def _request(who: httpx.Client, method: str, path: str, body: bytes | None, headers: dict[str, str]) -> int:
    """The status; httpx itself takes no address of more than 64 KiB."""
    if len(path) < 60_000:
        return who.request(method, path, content=body, headers=headers).status_code
    request = f"{method} {path} HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: close\r\n\r\n".encode()
    return int(exchange(str(who.base_url), request).split()[1])


def test_what_is_told_of_a_write_is_what_can_become_of_it() -> None:
    (told,) = (one for one in msgspec.structs.fields(requests.Write) if one.name == "status")
    assert set(told.type.__args__) == set(write_status.Status.__args__)  # type: ignore[attr-defined]
