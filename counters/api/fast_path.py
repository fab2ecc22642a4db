"""The fast path: the calls that make up nearly all requests, as coroutines on the server's event loop.

    decode ─ submit ─ answer: the same steps as in the call's view (`media`, `answers`), without Django's request and
    middleware.

A call declines every request that is not plain: with other query parameters, with a header that only the view handles,
or with anything invalid or not allowed. It declines before it acts, and then the view answers in a thread. So both
return the same answer (tests/cluster/test_fast_path.py).
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterable
from typing import NamedTuple
from urllib.parse import parse_qsl

import msgspec
from django.conf import settings
from django.http.request import split_domain_port, validate_host

from counters import keys
from counters.api import answers, bulk, media, priority, probes, problems, requests, waiting
from counters.api.answers import Answer
from counters.api.authentication import Caller
from counters.api.bulk import Bulk
from counters.api.problems import Problem
from counters.batch import Step
from counters.intake import writes
from counters.limits.limiter import Charge
from counters.models import Scope
from counters.reading.reads import Counter
from counters.service import Service
from sharding.lanes import FRESH, Queue

Headers = list[tuple[bytes, bytes]]
COUNTERS, INCREMENTS, BULK = "/v1/counters", "/increments", "/v1/increments"
_COUNTER = COUNTERS + "/"
_PROBES = (probes.LIVE, probes.READY, probes.HEALTH)
_PATHS = (COUNTERS, BULK, *_PROBES)
_JSON = media.JSON.encode()
_MOST_HOSTS = 100
_ON_LOOP_BYTES = 16 * 1024  # a body up to this size is decoded on the loop, a larger one in a thread
# Names of headers that have no effect or are handled here. A request with any other header is declined.
_NAMES = """
accept accept-encoding accept-language authorization cache-control connection content-length content-type cookie dnt host if-match
origin pragma priority referer sec-ch-ua sec-ch-ua-mobile sec-ch-ua-platform sec-fetch-dest sec-fetch-mode sec-fetch-site
traceparent tracestate user-agent x-forwarded-for x-forwarded-host x-forwarded-port x-forwarded-proto x-real-ip x-request-id x-tally-proxy
"""
_PLAIN = frozenset(_NAMES.encode().split())


class Request(NamedTuple):
    """A request as received from the server, and its caller, if its API key is known."""

    method: str
    path: str
    query: bytes
    headers: Headers
    body: bytes
    caller: Caller | None = None


class Raw(NamedTuple):
    """An answer in the form that the server sends."""

    status: int
    headers: Headers
    body: bytes


class Common(NamedTuple):
    """The headers that Django's middleware and DRF add to every answer of a view, by the request's scheme."""

    http: Headers
    https: Headers


class _Plain(NamedTuple):
    """What the calls need from a plain request's headers."""

    caller: Caller | None
    content_type: bytes
    if_match: bytes | None
    is_https: bool
    queue: Queue  # of increments that nobody waits for

    def charge(self, increments: int) -> Charge | None:
        """What a write of so many increments takes of its caller's quota."""
        return self.caller.charge(increments) if self.caller else None


class FastPath:
    """`headers_of(path, is_https)` returns the common headers of a path's view."""

    def __init__(self, service: Service, headers_of: Callable[[str, bool], Headers]) -> None:
        self._service = service
        self._common = {
            path: Common(headers_of(path, False), headers_of(path, True))
            for path in (COUNTERS, f"{_COUNTER}key", f"{_COUNTER}key{INCREMENTS}", BULK, *_PROBES)
        }
        self._good_hosts: set[bytes] = set()
        # Django's middleware deletes or replaces these cookies if they are invalid.
        self._cookies = (settings.SESSION_COOKIE_NAME.encode(), settings.CSRF_COOKIE_NAME.encode())

    async def answer(self, request: Request) -> Raw | None:
        """The answer, or None if the view must answer."""
        path = request.path
        if not (path.startswith(_PATHS) and (plain := self._plain(request.headers, request.caller))):
            return None
        match request.method:
            case "GET" if path.startswith(_COUNTER):
                call, view = self._read_one(request, path[len(_COUNTER) :]), f"{_COUNTER}key"
            case "GET" if path == COUNTERS:
                call, view = self._read_many(request), COUNTERS
            case "POST" if path.startswith(_COUNTER) and path.endswith(INCREMENTS):
                key = path[len(_COUNTER) : -len(INCREMENTS)]
                call, view = self._increment(request, plain, key), f"{_COUNTER}key{INCREMENTS}"
            case "POST" if path == BULK:
                call, view = self._bulk(request, plain), BULK
            case "PUT" | "DELETE" if path.startswith(_COUNTER):
                call, view = self._change(request, plain, path[len(_COUNTER) :]), f"{_COUNTER}key"
            case "GET" if path in _PROBES:
                call, view = probes.answered(path), path
            case _:
                return None
        common = self._common[view].https if plain.is_https else self._common[view].http
        return await _answered(call, common)

    def _plain(self, headers: Headers, caller: Caller | None) -> _Plain | None:
        """Returns None if only the view can handle the headers."""
        found = dict(headers)
        if len(found) != len(headers) or not found.keys() <= _PLAIN:
            return None
        if found.get(b"accept", b"*/*") not in (b"*/*", b"application/json") or not self._is_good(
            found.get(b"host", b"")
        ):
            return None
        if (cookie := found.get(b"cookie")) is not None and any(name in cookie for name in self._cookies):
            return None
        if caller is None and b"authorization" in found:
            return None
        is_https = found.get(b"x-forwarded-proto") == b"https"
        asked = found.get(b"priority")
        queue = FRESH if asked is None else priority.queue(asked.decode("latin-1"))
        return _Plain(caller, found.get(b"content-type", b""), found.get(b"if-match"), is_https, queue)

    def _is_good(self, host: bytes) -> bool:
        """Whether Django would serve this host. Caches up to 100 good hosts."""
        if host in self._good_hosts:
            return True
        domain, _ = split_domain_port(host.decode("latin-1"))
        if not (domain and validate_host(domain, settings.ALLOWED_HOSTS)):
            return False
        if len(self._good_hosts) < _MOST_HOSTS:
            self._good_hosts.add(host)
        return True

    async def _read_one(self, request: Request, key: str) -> Answer | None:
        return await self._read([key], answers.one) if not request.query and keys.is_key(key) else None

    async def _read_many(self, request: Request) -> Answer | None:
        wanted = _wanted_keys(request.query)
        return await self._read(wanted, answers.many) if wanted and keys.first_invalid(wanted) is None else None

    async def _read(self, wanted: list[str], show: Callable[[list[Counter]], Answer]) -> Answer | None:
        return show(await self._service.lookups.get(wanted))

    async def _increment(self, request: Request, plain: _Plain, key: str) -> Answer | None:
        if plain.content_type != _JSON or plain.if_match is not None or not _may_write(plain) or not keys.is_key(key):
            return None
        try:
            seconds = _seconds(request.query)
            delta = media.decode(request.body, requests.Increment).delta
        except Problem:
            return None
        if seconds:
            write = writes.step(Step(key, "increment", delta))
            accepted, outcome = await waiting.applied_on(self._service, write, seconds, plain.charge(1))
            return answers.increment(accepted, key, delta, outcome)
        write = writes.increment(key, delta, queue=plain.queue)
        return answers.increment(await self._service.submitted(write, plain.charge(1)), key, delta)

    async def _change(self, request: Request, plain: _Plain, key: str) -> Answer | None:
        if request.query or not _may_write(plain) or not keys.is_key(key):
            return None
        try:
            version = media.if_version(None if plain.if_match is None else plain.if_match.decode("latin-1"))
            if request.method == "DELETE":
                step = Step(key, "reset", 0, version)
            elif plain.content_type == _JSON:
                step = Step(key, "set", media.decode(request.body, requests.Set).value, version)
            else:
                return None
        except Problem:
            return None
        write = writes.step(step)
        accepted, outcome = await waiting.applied_on(self._service, write, settings.TALLY.max_wait_seconds)
        return answers.change(accepted, key, outcome)

    async def _bulk(self, request: Request, plain: _Plain) -> Answer | None:
        if request.query or plain.if_match is not None or not _may_write(plain):
            return None
        media_type = plain.content_type.decode("latin-1")
        asked = media_type, request.body, self._service.intake.least_counted, plain.queue
        try:
            if len(request.body) <= _ON_LOOP_BYTES:
                write, body = _decoded(*asked)
            else:
                write, body = await asyncio.to_thread(self._decoded_in_turn, *asked)
        except Problem:
            return None
        return answers.bulk(await self._service.submitted(write, plain.charge(body.count)), body)

    def _decoded_in_turn(self, media_type: str, body: bytes, least: int, queue: Queue) -> tuple[writes.Write, Bulk]:
        """`_decoded`, in a thread."""
        with self._service.intake.turns.taken():
            return _decoded(media_type, body, least, queue)


def _wanted_keys(query: bytes) -> list[str]:
    """The keys of a query that has nothing else and not too many of them; otherwise none."""
    most = settings.TALLY.max_keys
    try:
        text = query.decode("ascii")
        if "%" in text or "+" in text:
            pairs = parse_qsl(text, keep_blank_values=True, max_num_fields=most)
        else:  # the same, without decoding each key
            pairs = [(name, value) for name, _, value in (field.partition("=") for field in text.split("&", most))]
    except ValueError:
        return []
    wanted = [value for name, value in pairs if name == "key"]
    return wanted if len(wanted) == len(pairs) <= most else []


def _decoded(media_type: str, body: bytes, least: int, queue: Queue) -> tuple[writes.Write, Bulk]:
    """A bulk write and its body. Raises `Problem`."""
    decoded = bulk.decode(media_type, body, least)
    return writes.increments(decoded.folded, None, decoded.count, decoded.counts, queue), decoded


def _seconds(query: bytes) -> float:
    """The value of `?wait=`, 0 for no query. Raises `Problem` if the view must answer."""
    if not query:
        return 0.0
    name, _, value = query.decode("latin-1").partition("=")
    if name != "wait" or not value.replace(".", "", 1).isdigit():  # the view handles anything else
        raise problems.invalid("wait", "a number")
    return waiting.parsed(value)


def _may_write(plain: _Plain) -> bool:
    return plain.caller is not None and Scope.WRITE in plain.caller.scopes


async def _answered(call: Awaitable[Answer | None], common: Headers) -> Raw | None:
    """The answer of a call, or the problem it raises. After an exception the call may have acted, so the view must not
    act again."""
    try:
        answer = await call
    except Exception as error:
        problem = problems.response_to(error)
        return _raw(problem.status_code, common, problem.items(), problem.content)
    if answer is None:
        return None
    own = [("Content-Type", media.JSON), *answer.headers.items()]
    return _raw(answer.status, common, own, msgspec.json.encode(answer.data))


def _raw(status: int, common: Headers, own: Iterable[tuple[str, str]], body: bytes) -> Raw:
    encoded = [(name.encode("ascii"), value.encode("latin-1")) for name, value in own]
    return Raw(status, [*common, *encoded, (b"Content-Length", b"%d" % len(body))], body)
