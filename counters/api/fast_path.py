"""The fast path: the calls that make up nearly all requests, as coroutines on the server's event loop.

    decode ─ submit ─ answer: the same steps as in the call's view (`media`, `answers`), without Django's request and
    middleware.

A call declines every request that is not plain: with other query parameters, with a header that only the view handles,
or with anything invalid or not allowed. It declines before it acts, and then the view answers in a thread. So both
return the same answer (tests/cluster/test_fast_path.py).

The calls on counters are in `calls`. Other rooms have calls of their own, which the ASGI entry hands to the
application.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterable, Sequence
from typing import NamedTuple, Protocol, TypeVar

import msgspec
from django.conf import settings
from django.http.request import split_domain_port, validate_host

from counters.api import bodies, idempotency_keys, media, priority, problems, waiting
from counters.api.answers import Answer
from counters.api.authentication import Caller
from counters.intake.idempotency import Claim
from counters.limits.limiter import Charge
from counters.models import Scope
from sharding.lanes import FRESH, Queue

T = TypeVar("T")
Headers = list[tuple[bytes, bytes]]
JSON = media.JSON.encode()
_MOST_HOSTS = 100
_ON_LOOP_BYTES = 16 * 1024  # a body up to this size is decoded on the loop, a larger one in a thread
# Names of headers that have no effect or are handled here. A request with any other header is declined.
_NAMES = """
accept accept-encoding accept-language authorization cache-control connection content-length content-type cookie dnt
host idempotency-key if-match origin pragma priority referer sec-ch-ua sec-ch-ua-mobile sec-ch-ua-platform
sec-fetch-dest sec-fetch-mode sec-fetch-site traceparent tracestate user-agent x-forwarded-for x-forwarded-host
x-forwarded-port x-forwarded-proto x-real-ip x-request-id x-tally-proxy
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
    """An answer in the form that the server sends. `stream`: what follows the body, piece by piece. `route`: the pattern
    of the URL, "" if none fits or nobody looked."""

    status: int
    headers: Headers
    body: bytes
    stream: AsyncGenerator[bytes, None] | None = None
    route: str = ""


class Common(NamedTuple):
    """The headers that Django's middleware and DRF add to every answer of a view, by the request's scheme; and the view's
    route."""

    http: Headers
    https: Headers
    route: str


class Plain(NamedTuple):
    """What the calls need from a plain request's headers."""

    caller: Caller | None
    content_type: bytes
    if_match: bytes | None
    is_https: bool
    queue: Queue  # of increments that nobody waits for
    idempotency_key: bytes | None

    def claim(self, request: Request) -> Claim | None:
        """The claim of a write, if it has an `Idempotency-Key`. Raises `Problem` if the view must answer."""
        key, condition = self.idempotency_key, self.if_match or b""
        if key is None:
            return None
        return idempotency_keys.claim(
            self.caller,
            key.decode("latin-1"),
            request.method,
            request.path,
            lambda: request.body,
            condition.decode("latin-1"),
        )

    def charge(self, increments: int) -> Charge | None:
        """What a write of so many increments takes of its caller's quota."""
        return self.caller.charge(increments) if self.caller else None

    @property
    def may_write(self) -> bool:
        """Whether the caller may."""
        return self.caller is not None and Scope.WRITE in self.caller.scopes


class Call(NamedTuple):
    """A call under way, and a path of its view."""

    answer: Awaitable[Answer | None]
    view: str


class Calls(Protocol):
    """The calls of a room. `paths`: how their paths begin. `views`: a path of each view."""

    @property
    def paths(self) -> tuple[str, ...]: ...

    @property
    def views(self) -> Sequence[str]: ...

    def find(self, request: Request, plain: Plain) -> Call | None:
        """The call of a request whose path begins so, if there is one."""

    async def close(self) -> None:
        """Let go of what it holds."""


class FastPath:
    """`common_of(path)` returns what all answers of a path's view have in common."""

    def __init__(self, rooms: Sequence[Calls], common_of: Callable[[str], Common]) -> None:
        self._rooms = [(room.paths, room) for room in rooms]
        self._common = {path: common_of(path) for room in rooms for path in room.views}
        self._good_hosts: set[bytes] = set()
        # Django's middleware deletes or replaces these cookies if they are invalid.
        self._cookies = (settings.SESSION_COOKIE_NAME.encode(), settings.CSRF_COOKIE_NAME.encode())

    async def answer(self, request: Request) -> Raw | None:
        """The answer, or None if the view must answer."""
        for paths, room in self._rooms:
            if not request.path.startswith(paths):
                continue
            plain = self._plain(request.headers, request.caller)
            call = room.find(request, plain) if plain else None
            if plain is None or call is None:
                return None
            common = self._common[call.view]
            return await _answered(call.answer, common.https if plain.is_https else common.http, common.route)
        return None

    def _plain(self, headers: Headers, caller: Caller | None) -> Plain | None:
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
        content_type, if_match = found.get(b"content-type", b""), found.get(b"if-match")
        return Plain(caller, content_type, if_match, is_https, queue, found.get(b"idempotency-key"))

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


async def decoded(body: bytes, decode: Callable[[], T]) -> T:
    """What is made of a body: on the loop if it is small, otherwise in a thread, in turn. Raises `Problem`."""
    return decode() if len(body) <= _ON_LOOP_BYTES else await asyncio.to_thread(bodies.in_turn, decode)


def seconds(query: bytes) -> float:
    """The value of `?wait=`, 0 for no query. Raises `Problem` if the view must answer."""
    if not query:
        return 0.0
    name, _, value = query.decode("latin-1").partition("=")
    if name != "wait" or not value.replace(".", "", 1).isdigit():  # the view handles anything else
        raise problems.invalid("wait", "a number")
    return waiting.parsed(value)


async def _answered(call: Awaitable[Answer | None], common: Headers, route: str) -> Raw | None:
    """The answer of a call, or the problem it raises. After an exception the call may have acted, so the view must not
    act again."""
    try:
        answer = await call
    except Exception as error:
        problem = problems.response_to(error)
        return _raw(problem.status_code, common.copy(), problem.items(), problem.content, route)
    if answer is None:
        return None
    body = msgspec.json.encode(answer.data)
    return _raw(answer.status, [*common, (b"Content-Type", JSON)], answer.headers.items(), body, route)


def _raw(status: int, headers: Headers, own: Iterable[tuple[str, str]], body: bytes, route: str) -> Raw:
    """`own`: headers to be added to `headers`."""
    headers += [(name.encode("ascii"), value.encode("latin-1")) for name, value in own]
    headers.append((b"Content-Length", b"%d" % len(body)))
    return Raw(status, headers, body, route=route)
