"""The ASGI application of an API process. Every request passes through it.

    request ─ body ─┬─ `fast_path`: a coroutine, if the call is plain and this process knows the topology and the keys
                    └─ Django in a thread: its own middleware and views, for all other calls, the admin and the pages

There is one event loop, and `TALLY_API_THREADS` threads for Django. Django's own ASGI handler is not used, because it
runs all synchronous code in one thread.
"""

from __future__ import annotations

import asyncio
import signal
import time
from collections.abc import AsyncGenerator, Awaitable, Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import aclosing, suppress
from contextvars import copy_context
from functools import lru_cache
from http import HTTPStatus
from io import BytesIO
from typing import Any

import structlog
from django.conf import settings
from django.core import signals
from django.core.handlers.asgi import ASGIRequest
from django.core.handlers.base import BaseHandler
from django.urls import resolve

from counters.api import problems, quotas
from counters.api.authentication import Caller, keyring
from counters.api.calls import CounterCalls
from counters.api.fast_path import Calls, Common, FastPath, Headers, Raw, Request
from counters.api.media import too_large_body
from counters.api.problems import Problem
from counters.api.request_metrics import REQUESTS, Way
from counters.api.telling import Telling
from counters.limits.limiter import QuotaExceeded
from counters.limits.policies import Policy
from counters.service import Service
from runtime import event_loop, garbage, pulses, request_id
from runtime.resources import Resources
from sharding import topology

Scope = dict[str, Any]
Receive = Callable[[], Awaitable[dict[str, Any]]]
Send = Callable[[dict[str, Any]], Awaitable[None]]

_REQUEST_ID = request_id.HEADER.encode()
_OUTCOMES = {HTTPStatus.CONFLICT, HTTPStatus.PRECONDITION_FAILED}
_PROBLEM = problems.MEDIA_TYPE.encode()
NODE = "Tally-Node"  # header of every answer
_WRITE = b"Tally-Write"  # header of the answer to a write: its id, by which nginx' log leads to the batch
_LOAD_SECONDS = 1.0  # between tries to load the topology and the keys
_TAKEN_SECONDS = 30.0  # for a client to take the next piece of a stream
_MOST_REFUSALS = 1000  # answers to requests over a quota that are kept encoded
_HELPERS = 40  # threads for coroutines' short work, such as a query to a shard, beside those that wait for a write
log = structlog.get_logger(__name__)


class Django(BaseHandler):
    """Django's middleware and views, run in a thread for each request."""

    def __init__(self) -> None:
        super().__init__()
        self.load_middleware()

    def answer(self, scope: Scope, body: bytes) -> Raw:
        """The whole answer. Everything that the request opened is closed when this returns."""
        signals.request_started.send(sender=type(self), scope=scope)
        try:
            request = ASGIRequest(scope, BytesIO(body))
        except (LookupError, ValueError):  # a parameter in an unknown character set
            return _raw(problems.response(problems.invalid("Content-Type", "its parameters cannot be read")))
        response: Any = self.get_response(request)
        try:
            found: Any = request.resolver_match
            return _raw(response)._replace(route=found.route if found else "")
        finally:
            response.close()

    def common(self, path: str) -> Common:
        """What all answers of a path's view have in common."""
        return Common(self._headers(path, False), self._headers(path, True), resolve(path).route)

    def _headers(self, path: str, is_https: bool) -> Headers:
        forwarded = [(b"x-forwarded-proto", b"https")] if is_https else []
        host = settings.ALLOWED_HOSTS[0].replace("*", "localhost").lstrip(".").encode()
        scope = {
            "type": "http",
            "method": "OPTIONS",
            "path": path,
            "query_string": b"",
            "headers": [(b"host", host), *forwarded],
        }
        own = {b"content-length", b"content-type"}
        return [(name, value) for name, value in self.answer(scope, b"").headers if name.lower() not in own]


class Application:
    """The ASGI callable. The server opens and closes it through the lifespan protocol, on the serving event loop.

    `rooms` make the calls of other rooms, once there is a service.
    """

    def __init__(self, rooms: Sequence[Callable[[Service], Calls]] = ()) -> None:
        self._django = Django()
        self._makers: Sequence[Callable[[Service], Calls]] = (CounterCalls, *rooms)
        self._rooms: list[Calls] = []
        self._tally_node = (NODE.encode(), settings.TALLY.node_id.encode())
        self._resources = Resources()
        self._service: Service | None = None
        self._fast_path: FastPath | None = None
        self._keeping: list[asyncio.Task[None]] = []

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await self._lifespan(receive, send)
            return
        id = request_id.begin(scope["headers"])
        try:
            body = await _body(scope, receive)
        except Problem as problem:
            answer = _raw(problems.response(problem))
            REQUESTS.count(scope["method"], answer.route, "body", answer.status)
        else:
            answer = await self.answer(scope, body)
        answer = _named(answer, id.encode())
        if answer.stream is None:
            await self._send(answer, send)
        else:
            await self._stream(answer, answer.stream, receive, send)

    async def answer(self, scope: Scope, body: bytes) -> Raw:
        """Answer a request. Code for every request belongs here: limits and metrics."""
        began = time.perf_counter()
        authorization = _authorization(scope)
        caller = keyring().holder(authorization) if authorization else None
        user = quotas.user_of(scope, caller, authorization)
        if user is None or self._service is None:
            answer, way = await self._answered(scope, body, caller, authorization)
        else:
            limits = self._service.limits
            try:
                await limits.take(user.quotas.requests, user.name)
            except QuotaExceeded as error:
                answer, way = _refused(error), "limit"
            else:
                answer, way = await self._answered(scope, body, caller, authorization)
            answer.headers.extend(limits.headers(user.quotas, user.name))
        seconds = None if way == "limit" else time.perf_counter() - began
        REQUESTS.count(scope["method"], answer.route, way, answer.status, seconds, request_id.CURRENT.get())
        return answer

    async def _answered(self, scope: Scope, body: bytes, caller: Caller | None, authorization: str) -> tuple[Raw, Way]:
        """The answer, and the way that gave it."""
        if self._fast_path is not None:
            request = Request(scope["method"], scope["path"], scope["query_string"], scope["headers"], body, caller)
            answer = await self._fast_path.answer(request)
            if answer is not None:
                return answer, "fast path"
        await keyring().look_for(authorization)
        loop, context = asyncio.get_running_loop(), copy_context()
        return await loop.run_in_executor(self._threads, context.run, self._django.answer, scope, body), "view"

    async def _send(self, answer: Raw, send: Send) -> None:
        """Send an answer, whoever made it. Each says which process it comes from."""
        await send(self._start(answer))
        await send({"type": "http.response.body", "body": answer.body})

    def _start(self, answer: Raw) -> dict[str, Any]:
        return {"type": "http.response.start", "status": answer.status, "headers": [*answer.headers, self._tally_node]}

    async def _stream(self, answer: Raw, pieces: AsyncGenerator[bytes, None], receive: Receive, send: Send) -> None:
        """Send an answer whose body comes by and by, until it ends, the client has gone, or the server is to stop: it
        would wait for the end of the answer."""
        await send(self._start(answer))
        gone = asyncio.ensure_future(_disconnected(receive))
        try:
            async with aclosing(pieces), asyncio.timeout(None) as patience:
                async for piece in pieces:
                    if gone.done() or is_server_stopping():
                        break
                    patience.reschedule(asyncio.get_running_loop().time() + _TAKEN_SECONDS)
                    await send({"type": "http.response.body", "body": piece, "more_body": True})
                    patience.reschedule(None)
            await send({"type": "http.response.body", "body": b""})
        except TimeoutError:
            log.debug("stream_not_taken", seconds=_TAKEN_SECONDS)
        finally:
            gone.cancel()

    async def open(self) -> None:
        """Open what the process holds, and load what the fast path needs: now if the databases answer, otherwise once
        they do."""
        loop = asyncio.get_running_loop()
        self._resources.open()
        self._threads = ThreadPoolExecutor(settings.TALLY.api_threads, thread_name_prefix="request")
        self._helpers = ThreadPoolExecutor(settings.TALLY.max_waiting + _HELPERS, thread_name_prefix="helper")
        loop.set_default_executor(self._helpers)
        self._service = Service()
        self._telling = Telling(REQUESTS, self._service.popularity)
        self._service.listener.also(pulses.ASKED, self._telling.asked)
        self._service.open()
        self._rooms = [make(self._service) for make in self._makers]
        loaded = asyncio.Event()
        keeping = keyring().keep(), self._load(loaded)
        self._keeping = [event_loop.keep(loop, work) for work in keeping]
        with suppress(TimeoutError):
            await asyncio.wait_for(loaded.wait(), _LOAD_SECONDS)
        garbage.begin()

    async def close(self) -> None:
        """Answer the accepted writes, then close everything that `open` opened."""
        for task in self._keeping:
            task.cancel()
        await asyncio.gather(*self._keeping, return_exceptions=True)
        self._telling.close()
        self._fast_path = None
        if self._service is not None:
            await self._service.close()
        for room in self._rooms:
            await room.close()
        self._rooms = []
        self._threads.shutdown(wait=False)
        await asyncio.to_thread(self._resources.close)
        self._helpers.shutdown(wait=False)

    async def _load(self, loaded: asyncio.Event) -> None:
        """Load the topology. Open the fast path when that and the keys are there."""
        while self._fast_path is None:
            try:
                await asyncio.gather(keyring().reread(), asyncio.to_thread(topology.current))
            except topology.NoTopology as error:
                log.warning("topology_unknown", error=str(error))
            except Exception:
                log.exception("load_failed")
            if self._rooms and keyring().is_loaded and topology.is_loaded():
                self._fast_path = FastPath(self._rooms, self._django.common)
                loaded.set()
            else:
                await asyncio.sleep(_LOAD_SECONDS)

    async def _lifespan(self, receive: Receive, send: Send) -> None:
        while True:
            message = await receive()
            if message["type"] == "lifespan.startup":
                await self.open()
                await send({"type": "lifespan.startup.complete"})
            elif message["type"] == "lifespan.shutdown":
                await self.close()
                await send({"type": "lifespan.shutdown.complete"})
                return


def _raw(response: Any) -> Raw:
    """Convert a Django response."""
    stream: AsyncGenerator[bytes, None] | None = (
        response.streaming_content if getattr(response, "is_async", False) else None
    )
    content = b"" if stream else b"".join(response) if response.streaming else response.content
    headers = [(name.encode("ascii"), value.encode("latin-1")) for name, value in response.items()]
    headers += [(b"Set-Cookie", cookie.OutputString().encode()) for cookie in response.cookies.values()]
    if "Content-Length" not in response and not stream:  # for example, a middleware refused the request
        headers.append((b"Content-Length", b"%d" % len(content)))
    return Raw(response.status_code, headers, content, stream)


def _named(answer: Raw, id: bytes) -> Raw:
    """An answer with the request's id: as a header, and in a problem document, too; and with the id of its write. What has
    become of a write (`_OUTCOMES`) is the same document whoever asks: a repeat with its `Idempotency-Key` gets it again."""
    answer.headers.append((_REQUEST_ID, id))
    if (made := request_id.MADE.get()) is not None and made.write:
        answer.headers.append((_WRITE, made.write.encode()))
    if answer.status < HTTPStatus.BAD_REQUEST or answer.status in _OUTCOMES or not answer.body.endswith(b"}"):
        return answer
    if not _is_problem(answer.headers):
        return answer
    body = b'%b,"request_id":"%b"}' % (answer.body[:-1], id)
    headers = [header for header in answer.headers if header[0].lower() != b"content-length"]
    return answer._replace(headers=[*headers, (b"Content-Length", b"%d" % len(body))], body=body)


def _is_problem(headers: Headers) -> bool:
    return any(name.lower() == b"content-type" and value == _PROBLEM for name, value in headers)


def is_server_stopping() -> bool:
    """Whether the server has got the signal to stop. uvicorn tells an application only after its last answer, so this
    asks the one whose method is the signal's handler."""
    return bool(getattr(getattr(signal.getsignal(signal.SIGTERM), "__self__", None), "should_exit", False))


async def _disconnected(receive: Receive) -> None:
    """Return when the client has gone."""
    while (await receive())["type"] != "http.disconnect":
        pass


def _authorization(scope: Scope) -> str:
    """The `Authorization` header; "" if the request does not have it."""
    for name, value in scope["headers"]:
        if name == b"authorization":
            text: str = value.decode("latin-1")
            return text
    return ""


def _refused(error: QuotaExceeded) -> Raw:
    problem, answer = _refusal(error.policy, error.seconds)
    problems.count(problem)
    return answer._replace(headers=answer.headers.copy())


@lru_cache(_MOST_REFUSALS)
def _refusal(policy: Policy, seconds: int) -> tuple[Problem, Raw]:
    """The answer to a request over its quota, encoded once: a flood gets it again and again."""
    problem = problems.over(QuotaExceeded(policy, 1, seconds))
    return problem, _raw(problems.encoded(problem))


async def _body(scope: Scope, receive: Receive) -> bytes:
    """The whole body of a request. Raises `Problem` 400 if the client disconnects before its end, 413."""
    if scope["method"] in ("GET", "HEAD"):
        return b""
    parts: list[bytes] = []
    size = 0
    while True:
        message = await receive()
        if message["type"] == "http.disconnect":
            # A truncated NDJSON body would look complete.
            raise problems.invalid("body", f"it ended too early, or was badly chunked, after {size:,} bytes")
        part = message.get("body", b"")
        parts.append(part)
        size += len(part)
        if size > settings.TALLY.max_body_bytes:
            raise too_large_body()
        if not message.get("more_body"):
            return parts[0] if len(parts) == 1 else b"".join(parts)
