"""The fast path and the views give the same answers, or the fast path declines before it has acted."""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from threading import Event, Lock
from typing import Any
from uuid import uuid4

import pytest
from django.conf import settings
from hypothesis import HealthCheck, given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from counters.api import bulk, idempotency_keys
from counters.api.application import Application, Django
from counters.api.authentication import keyring
from counters.api.fast_path import Headers, Raw, Request
from counters.intake import idempotency
from likes.api.calls import LikeCalls
from runtime.event_loop import LoopThread
from sharding import databases
from tests.support.cluster import Cluster, eventually, value_of

JSON = (b"content-type", b"application/json")
HOST = (b"host", b"127.0.0.1")
EVENT = b"""{"event_id": "1", "user_id": "{}u", "item_type": "type", "item_id": "{}a", "action": "like",
"timestamp": "2026-01-01T00:00:00Z"}"""


class Ways:
    """Both ways of an application that this process has opened."""

    def __init__(self, thread: LoopThread, application: Application, key: str) -> None:
        self._thread, self._application = thread, application
        self.authorization = (b"authorization", f"Api-Key {key}".encode())

    def fast(self, request: Request) -> Raw | None:
        fast_path = self._application._fast_path
        assert fast_path is not None
        authorization = dict(request.headers).get(b"authorization", b"").decode()
        return self._thread.run(fast_path.answer(request._replace(caller=keyring().holder(authorization))))

    def fast_together(self, requests: Sequence[Request]) -> list[Raw | None]:
        """The answers to requests that come at once."""

        async def answers() -> list[Raw | None]:
            assert self._application._fast_path is not None
            caller = keyring().holder(self.authorization[1].decode())
            return await asyncio.gather(
                *(self._application._fast_path.answer(one._replace(caller=caller)) for one in requests)
            )

        return self._thread.run(answers())

    def view(self, request: Request) -> Raw:
        scope = {
            "type": "http",
            "method": request.method,
            "path": request.path,
            "query_string": request.query,
            "headers": request.headers,
        }
        return self._application._django.answer(scope, request.body)


@pytest.fixture(scope="module")
def ways(cluster: Cluster) -> Iterator[Ways]:
    """With small limits: a third increment of a key is refused, and so is all that has a low priority."""
    limits = {"key_rate": 2, "key_rate_window_seconds": 3600.0, "excess_increments": 0}
    before, settings.TALLY = settings.TALLY, settings.TALLY.model_copy(update=limits)
    try:
        yield from _ways(cluster)
    finally:
        settings.TALLY = before


def _ways(cluster: Cluster) -> Iterator[Ways]:
    with LoopThread("application") as thread:
        application = thread.run(_made())
        try:
            thread.run(application.open())
            eventually(lambda: application._fast_path is not None)
            ways = Ways(thread, application, cluster.key)
            ways.view(
                Request("GET", "/v1/counters/x", b"", [HOST, ways.authorization], b"")
            )  # the key is known from now on
            yield ways
        finally:
            thread.run(application.close())


async def _made() -> Application:
    return Application([LikeCalls])


def normal(answer: Raw) -> tuple[int, dict[bytes, bytes], Any]:
    """An answer without what differs from request to request: ids, versions, times, tokens."""
    headers = {name.lower(): value for name, value in answer.headers}
    assert len(headers) == len(answer.headers)
    assert int(headers.pop(b"content-length", b"0")) == len(answer.body)
    if b"etag" in headers:
        headers[b"etag"] = b"any"
    if b"set-cookie" in headers:  # a new CSRF token, or the end of a session
        headers[b"set-cookie"] = headers[b"set-cookie"].partition(b"=")[0]
    text = re.sub(r"[0-9a-f]{32}-[0-9a-f]+-[0-9a-f:.]+", "ID", answer.body.decode())
    text = re.sub(r"(fast|view):", "WAY:", text)
    text = re.sub(
        r'"(since|pending)":("[^"]+"|[a-z]+|-?[0-9]+)', r'"\1":0', text
    )  # a moment; and what is applied by now
    if '"source":' in text:  # an eventual read: what a replica has by then is chance
        text = re.sub(r'"(value|count|version|shard)":-?[0-9]+', r'"\1":0', text)
        text = re.sub(r'"updated_at":("[^"]+"|null),"source":"[a-z]+"', '"source":"any"', text)
    data = json.loads(text) if text else None
    if isinstance(data, dict):
        for name in ("version", "updated_at", "queue", "shard", "shards"):
            data.pop(name, None)
        if "errors" in data:  # those of refused keys come by lane, and the lanes of the two sets differ
            data["errors"].sort(key=lambda error: (error["field"], error["rule"]))
    return answer.status, headers, data


def requests_of(authorization: tuple[bytes, bytes]) -> st.SearchStrategy[Callable[[str], Request]]:
    """Requests on the keys of a way, good and bad ones."""
    paths = st.sampled_from(
        [
            *(
                "/v1/counters/{}a",
                "/v1/counters/{}b",
                "/v1/counters/{}a/increments",
                "/v1/counters/{}b/increments",
                "/v1/counters",
            ),
            *(
                "/v1/increments",
                "/v1/counters/",
                "/v1/counters//increments",
                "/v1/counters/{}ä",
                "/v1/counters/{}" + "x" * 250,
                "/v1/none",
            ),
            *(
                "/v1/likes/type/{}a/users/{}u",
                "/v1/likes/type/{}a/users/{}u",
                "/v1/likes/users/{}a/users/{}u",
                "/v1/likes/type/{}a/users/",
                "/v1/likes/type/{} a/users",
                "/v1/likes/type/{}a",
                "/v1/likes/users/{} u",
                "/v1/likes/{} /a",
                "/v1/likes/type",
                "/v1/likes",
                "/v1/likes/",
            ),
        ]
    )
    queries = st.sampled_from(
        [
            *(
                b"",
                b"",
                b"",
                b"wait=5",
                b"wait=0",
                b"wait=x",
                b"wait=99999",
                b"wait=5&wait=6",
                b"consistency=primary",
                b"consistency=no",
            ),
            *(
                b"key={}a",
                b"key={}a&key={}b",
                b"key={}a&key=%00",
                b"key={}a&limit=2",
                b"prefix={}",
                b"after=x",
                b"key=" + b"k" * 201,
            ),
        ]
    )
    bodies = st.sampled_from(
        [
            *(
                b'{"delta": 1}',
                b'{"delta": -3}',
                b'{"delta": 1.5}',
                b'{"delta": 9223372036854775808}',
                b'{"value": 7}',
                b"",
                b"{",
                b"[]",
            ),
            *(
                b'{"increments": [{"key": "{}a", "delta": 2}, {"key": "{}b", "delta": 1}]}',
                b'{"increments": []}',
                b'{"delta": 1, "x": 2}',
            ),
            *(
                b'{"events": [%b]}' % EVENT,
                b'{"events": [%b, %b]}' % (EVENT, EVENT.replace(b'"like"', b'"unlike"')),
                b'{"events": [%b]}' % EVENT.replace(b"2026-", b"20-"),
                EVENT,
                b'{"user_ids": ["{}u"], "item_types": ["type"], "item_ids": ["{}a"], "actions": ["like"]}',
            ),
            *(b'{"increments": [{"key": "{} a", "delta": 2}]}', b'{"value": "7"}', b"\xff", b"null"),
        ]
    )
    content_types = st.sampled_from(
        [JSON, JSON, JSON, (b"content-type", b"text/plain"), (b"content-type", b"application/json; charset=utf-8")]
    )
    extras = st.lists(
        st.sampled_from(
            [
                *(
                    (b"accept", b"*/*"),
                    (b"accept", b"text/html"),
                    (b"accept", b"application/json"),
                    (b"if-match", b'"0"'),
                ),
                *(
                    (b"if-match", b"7"),
                    (b"content-encoding", b"gzip"),
                    (b"x-forwarded-proto", b"https"),
                    (b"user-agent", b"test"),
                ),
                *((b"cookie", b"sessionid=1"), (b"cookie", b"csrftoken=1"), (b"cookie", b"other=1")),
                *((b"range", b"bytes=0-1"), (b"x-unknown", b"1")),
                *((b"idempotency-key", b"{}1"), (b"idempotency-key", b"{}1"), (b"idempotency-key", b"{}2")),
                *((b"idempotency-key", b""), (b"idempotency-key", b"k" * 256), (b"idempotency-key", b"\xe4")),
                *((b"priority", b"u=7"), (b"priority", b"i, u=6;x"), (b"priority", b"u=5"), (b"priority", b"u=7,")),
            ]
        ),
        max_size=2,
        unique_by=lambda header: header[0],
    )
    callers = st.sampled_from(
        [[authorization], [authorization], [authorization], [], [(b"authorization", b"Api-Key nobody.knows")]]
    )
    hosts = st.sampled_from(
        [HOST, HOST, HOST, (b"host", b"localhost:8000"), (b"host", b"evil.example"), (b"host", b"a b")]
    )

    def build(method: str, path: str, query: bytes, headers: Headers, body: bytes) -> Callable[[str], Request]:
        def of(way: str) -> Request:
            name = way.encode()
            own = [(header, value.replace(b"{}", name)) for header, value in headers]
            return Request(method, path.replace("{}", way), query.replace(b"{}", name), own, body.replace(b"{}", name))

        return of

    methods = st.sampled_from(["GET", "POST", "PUT", "DELETE", "HEAD", "PATCH"])
    headers = st.builds(
        lambda host, kind, more, caller: [host, kind, *caller, *more], hosts, content_types, extras, callers
    )
    return st.builds(build, methods, paths, queries, headers, bodies)


@given(data=st.data())
@hypothesis_settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_both_ways_give_the_same_answer(ways: Ways, data: st.DataObject) -> None:
    """The same requests, on two sets of keys that see the same operations: one by one way, the other by the other."""
    run = uuid4().hex
    for make in data.draw(st.lists(requests_of(ways.authorization), min_size=1, max_size=5)):
        fast, view = make(f"fast:{run}"), make(f"view:{run}")
        answer = ways.fast(fast) or ways.view(fast)
        assert normal(answer) == normal(ways.view(view))


def plain(
    method: str, path: str, body: bytes = b"", *headers: tuple[bytes, bytes], query: bytes = b""
) -> Callable[[Ways], Request]:
    return lambda ways: Request(method, path, query, [HOST, JSON, ways.authorization, *headers], body)


@pytest.mark.parametrize(
    "make",
    [
        plain("POST", "/v1/counters/test:fast/increments", b'{"delta": 1}'),
        plain("POST", "/v1/counters/test:fast/increments", b'{"delta": 1}', query=b"wait=5"),
        plain("POST", "/v1/increments", b'{"increments": [{"key": "test:fast", "delta": 1}]}'),
        plain("POST", "/v1/counters/test:fast/increments", b'{"delta": 1}', (b"idempotency-key", b"test:fast:1")),
        plain("PUT", "/v1/counters/test:fast", b'{"value": 1}'),
        plain("PUT", "/v1/counters/test:fast", b'{"value": 1}', (b"if-match", b'"7"')),
        plain("DELETE", "/v1/counters/test:fast"),
        plain("GET", "/v1/counters/test:fast:read"),
        plain("GET", "/v1/counters", query=b"key=test:fast:read&key=test:fast:read"),
        plain("PUT", "/v1/likes/test/fast/users/u"),
        plain("PUT", "/v1/likes/test/fast/users/u", query=b"wait=5"),
        plain("DELETE", "/v1/likes/test/fast/users/u"),
        plain("GET", "/v1/likes/test/fast/users/u"),
        plain("GET", "/v1/likes/test/fast"),
        plain("GET", "/v1/likes/test/fast", query=b"pending=false"),
        plain("POST", "/v1/likes", b'{"events": [%b]}' % EVENT.replace(b"{}", b"fast")),
    ],
)
def test_a_plain_call_is_answered_by_the_fast_path(ways: Ways, make: Callable[[Ways], Request]) -> None:
    assert ways.fast(make(ways)) is not None


def test_writes_with_an_idempotency_key_share_their_look_up(
    ways: Ways, cluster: Cluster, monkeypatch: pytest.MonkeyPatch, key: str
) -> None:
    """Repeated at once they get the answers of before, and are counted once."""
    queries: list[int] = []
    records = idempotency.records

    def watched(shard: int, tokens: Sequence[bytes]) -> dict[bytes, bytes]:
        queries.append(len(tokens))
        return records(shard, tokens)

    monkeypatch.setattr(idempotency, "records", watched)
    headers = [HOST, JSON, ways.authorization]
    keys = [f"{key}:{n}" for n in range(40)]
    requests = [
        Request(
            "POST",
            f"/v1/counters/{one}/increments",
            b"",
            [*headers, (b"idempotency-key", one.encode())],
            b'{"delta": 1}',
        )
        for one in keys
    ]
    first = [one.body for one in ways.fast_together(requests) if one]
    with cluster.client() as client:
        eventually(lambda: [value_of(client, one) for one in keys] == [1] * len(keys))
    again = [one.body for one in ways.fast_together(requests) if one]
    assert again == first
    assert len(first) == len(keys)
    assert sum(queries) == 2 * len(keys)
    assert len(queries) <= 20, "a query for each write"
    with cluster.client() as client:
        assert {value_of(client, one) for one in keys} == {1}


def test_a_home_shard_that_does_not_answer_fails_its_own_writes(
    ways: Ways, monkeypatch: pytest.MonkeyPatch, key: str
) -> None:
    records = idempotency.records

    def broken(shard: int, tokens: Sequence[bytes]) -> dict[bytes, bytes]:
        if shard == 0:
            raise databases.ShardUnavailable(0, "on purpose")
        return records(shard, tokens)

    monkeypatch.setattr(idempotency, "records", broken)
    headers = [HOST, JSON, ways.authorization]
    requests = [
        Request("PUT", f"/v1/likes/test/{key}{n}/users/u", b"", [*headers, (b"idempotency-key", b"%d" % n)], b"")
        for n in range(20)
    ]
    caller = keyring().holder(ways.authorization[1].decode())
    claims = [
        idempotency_keys.claim(caller, str(n), "PUT", one.path, lambda: b"", "") for n, one in enumerate(requests)
    ]
    expected = [503 if claim and claim.home_shard == 0 else 202 for claim in claims]
    assert [one.status for one in ways.fast_together(requests) if one] == expected
    assert set(expected) == {202, 503}


@pytest.mark.parametrize("path", ["/livez", "/readyz", "/health"])
def test_probes_need_no_thread(ways: Ways, path: str) -> None:
    fast, view = ways.fast(Request("GET", path, b"", [HOST], b"")), ways.view(Request("GET", path, b"", [HOST], b""))
    assert fast is not None
    (status, headers, data), (status_of_view, headers_of_view, data_of_view) = normal(fast), normal(view)
    assert (status, headers, data.keys()) == (status_of_view, headers_of_view, data_of_view.keys())
    assert ways.fast(Request("HEAD", path, b"", [HOST], b"")) is None
    assert ways.fast(Request("GET", path, b"", [HOST, (b"accept", b"text/html")], b"")) is None


@pytest.mark.parametrize(
    "cookie", [b"sessionid=1", b"sessionid=" + b"s" * 32, b"csrftoken=1", b"csrftoken=" + b"c" * 32]
)
def test_a_cookie_of_the_admin_changes_no_answer(ways: Ways, cookie: bytes) -> None:
    request = Request("GET", "/v1/counters/test:fast:cookie", b"", [HOST, (b"cookie", cookie)], b"")
    assert normal(ways.fast(request) or ways.view(request)) == normal(ways.view(request))


@pytest.mark.parametrize(
    "header",
    [
        *(
            (b"idempotency-key", b""),
            (b"content-encoding", b"gzip"),
            (b"accept", b"text/html"),
            (b"host", b"evil.example"),
        ),
        *((b"authorization", b"Api-Key un.known"), (b"x-anything", b"1"), (b"if-match", b'"1"')),
        *((b"cookie", b"sessionid=1"), (b"cookie", b"a=1; csrftoken=1")),
    ],
)
def test_what_is_not_plain_declines_before_it_has_acted(
    ways: Ways, cluster: Cluster, key: str, header: tuple[bytes, bytes]
) -> None:
    headers = {HOST[0]: HOST[1], JSON[0]: JSON[1], ways.authorization[0]: ways.authorization[1]} | dict([header])
    request = Request("POST", f"/v1/counters/{key}/increments", b"", list(headers.items()), b'{"delta": 1}')
    assert ways.fast(request) is None
    with cluster.client() as client:
        client.post(f"/v1/counters/{key}/increments", json={"delta": 0}, params={"wait": 10}).raise_for_status()
        assert value_of(client, key) == 0


def test_django_tells_the_headers_of_each_scheme(cluster: Cluster) -> None:
    django = Django()
    common = django.common("/v1/increments")
    http, https = dict(common.http), dict(common.https)
    assert common.route == "v1/increments"
    assert http[b"Allow"] == b"POST, OPTIONS"
    assert http[b"X-Content-Type-Options"] == b"nosniff"
    assert http.items() <= https.items()


@pytest.mark.parametrize("way", ["fast", "view"])
def test_one_body_is_decoded_at_a_time(ways: Ways, monkeypatch: pytest.MonkeyPatch, key: str, way: str) -> None:
    """More threads would keep the interpreter from the event loop."""
    decode, crowded, lock, running = bulk.decode, Event(), Lock(), []

    def watched(*asked: Any) -> bulk.Bulk:
        with lock:
            running.append(1)
            if len(running) > 1:
                crowded.set()
        crowded.wait(0.2)
        with lock:
            running.pop()
        return decode(*asked)

    monkeypatch.setattr(bulk, "decode", watched)

    def send(number: int) -> Raw | None:
        keys = [f"{key}:{number}:{n}" for n in range(2000)]
        body = json.dumps({"keys": keys, "deltas": [1] * len(keys)}).encode()
        request = Request("POST", "/v1/increments", b"", [HOST, JSON, ways.authorization], body)
        answer: Raw | None = getattr(ways, way)(request)
        return answer

    count = 3
    with ThreadPoolExecutor(count) as pool:
        answers = list(pool.map(send, range(count)))
    assert not crowded.is_set()
    assert [one.status for one in answers if one] == [202] * count


@pytest.mark.parametrize("way", ["fast", "view"])
def test_events_beyond_a_limit_are_refused_alone(ways: Ways, key: str, way: str) -> None:
    """Two events of an item are within the rate of this process's limits, a third is not."""
    rows = [(key, f"u{n}") for n in range(3)] + [(f"{key}:calm", "u")]
    columns = {
        "user_ids": [user for _, user in rows],
        "item_types": ["test"] * 4,
        "item_ids": [item for item, _ in rows],
    }
    body = json.dumps({**columns, "actions": ["like"] * 4}).encode()
    answer: Raw = getattr(ways, way)(Request("POST", "/v1/likes", b"", [HOST, JSON, ways.authorization], body))
    data = json.loads(answer.body)
    assert (answer.status, data["accepted"], data["items"]) == (202, 1, 1)
    assert data["refused"] == [{"rule": "key-rate", "type": "test", "item": key}]
