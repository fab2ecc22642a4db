"""Django on an event loop: a request that has to wait for nobody is answered there and then, any other in a thread.

A thread for each request is simple, and most of what a small request costs: dozens of threads hand one interpreter lock to each other
(docs/performance.md). So each small request that reads or writes counters is first tried on the loop. Code that would wait for a database
or a Redis raises `WouldBlock` instead (`sharding.event_loop.forbid`), before it has changed anything; then the request is run again in a
thread. A view that has handed its work to a group commit answers with a `PendingResponse`, and nobody stands waiting for that.

Django's own ASGI handler runs all synchronous code in one thread after the other, so it would have none of this.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from io import BytesIO
from typing import Any

from django.core import signals
from django.core.handlers.asgi import ASGIRequest
from django.core.handlers.base import BaseHandler
from django.http.response import HttpResponseBase

from counters.api import problems
from counters.api.base import PendingResponse
from runtime.event_loop import WouldBlock, attempt, in_thread

Scope = dict[str, Any]
Receive = Callable[[], Awaitable[dict[str, Any]]]
Send = Callable[[dict[str, Any]], Awaitable[None]]
_ON_LOOP = ("/v1/counters", "/v1/increments")  # calls that often have to wait for nobody
_SMALL = 16 * 1024  # bytes of a body that holds nobody up


class Handler(BaseHandler):
    """An ASGI application: Django, with everything that may wait in `TALLY_API_THREADS` threads."""

    def __init__(self) -> None:
        super().__init__()
        self.load_middleware()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """One request. Nothing is done if its body is broken or the client goes before all of it has come."""
        try:
            body = await _body(scope, receive)
        except problems.Problem as error:
            await _send(problems.response(error), send)
            return
        try:
            is_small = len(body) <= _SMALL and scope["path"].startswith(_ON_LOOP)
            if is_small and (answer := await self._tried(scope, body)):
                await _send(answer, send)
                return
            response = await in_thread(self._run, scope, body)
        except problems.Problem as error:
            await _send(problems.response(error), send)
            return
        try:
            await _send(await _settled(response) or problems.response_to(RuntimeError("nowhere else to run this")), send)
        finally:
            response.close()

    async def _tried(self, scope: Scope, body: bytes) -> HttpResponseBase | None:
        """The response, if nobody has to be waited for. Without Django's signals: nothing is opened here that would have to be closed."""
        try:
            response = attempt(self._middleware_chain, _request(scope, body))  # type: ignore[attr-defined]
        except WouldBlock:
            return None
        return await _settled(response)

    def _run(self, scope: Scope, body: bytes) -> HttpResponseBase:
        signals.request_started.send(sender=self.__class__, scope=scope)
        return self.get_response(_request(scope, body))


def _request(scope: Scope, body: bytes) -> ASGIRequest:
    """Raises `Problem` 400."""
    try:
        return ASGIRequest(scope, BytesIO(body))
    except (LookupError, ValueError) as error:  # a parameter in a character set that there is not
        raise problems.invalid("Content-Type", "its parameters cannot be read") from error


async def _settled(response: HttpResponseBase) -> HttpResponseBase | None:
    return await response.settled() if isinstance(response, PendingResponse) else response


async def _body(scope: Scope, receive: Receive) -> bytes:
    """All of a request's body. Raises `Problem` 400."""
    if scope["method"] in ("GET", "HEAD"):
        return b""
    parts: list[bytes] = []
    while True:
        message = await receive()
        if message["type"] == "http.disconnect":
            # Half of NDJSON would look whole.
            raise problems.invalid("body", f"it ended too early, or was badly chunked, after {sum(map(len, parts)):,} bytes")
        parts.append(message.get("body", b""))
        if not message.get("more_body"):
            return parts[0] if len(parts) == 1 else b"".join(parts)


async def _send(response: HttpResponseBase, send: Send) -> None:
    content = b"".join(response) if response.streaming else response.content  # type: ignore[attr-defined]
    headers = [(name.encode("ascii"), value.encode("latin-1")) for name, value in response.items()]
    headers += [(b"Set-Cookie", cookie.OutputString().encode()) for cookie in response.cookies.values()]
    if "Content-Length" not in response:
        headers.append((b"Content-Length", b"%d" % len(content)))
    await send({"type": "http.response.start", "status": response.status_code, "headers": headers})
    await send({"type": "http.response.body", "body": content})
