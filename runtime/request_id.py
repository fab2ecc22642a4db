"""Which request this code works for: its id is in the answer, in every problem document and in every log line.

It is the caller's `X-Request-ID`, or the trace id of its `traceparent`, or a new one; nginx, which goes by the same rules,
passes it on. Work that many requests share belongs to none: it begins in a context of `nobody`. What leads from a request to
such work is the id of its write (`Made`).
"""

from __future__ import annotations

import re
import secrets
from contextvars import Context, ContextVar
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from opentelemetry.trace import SpanContext  # an extra

HEADER = "X-Request-ID"
_KEY = HEADER.lower().encode()
_GOOD = re.compile(rb"[A-Za-z0-9._:-]{1,128}")
# A trace or a span that is all zeros, and the version ff, are none (W3C Trace Context, 3.2).
_TRACEPARENT = re.compile(rb"(?!ff)[0-9a-f]{2}-(?!0{32})([0-9a-f]{32})-(?!0{16})[0-9a-f]{16}-[0-9a-f]{2}")
CURRENT: ContextVar[str] = ContextVar("request_id", default="")


class Made:
    """What a request has made: the id of its write, "" if there is none (yet); and its span, if somebody is told of it."""

    __slots__ = ("span", "write")

    def __init__(self) -> None:
        self.write = ""
        self.span: SpanContext | None = None


MADE: ContextVar[Made | None] = ContextVar("made", default=None)


def made(write: object) -> None:
    """Note the id of the write that this context's request has made, or made once, if there is a request."""
    if (current := MADE.get()) is not None:
        current.write = str(write)


def begin(headers: list[tuple[bytes, bytes]]) -> str:
    """The id of a request with these headers, from here on that of this context: its own, or a new one if it has none
    that is good. Nothing is made yet."""
    found = trace = ""
    for name, value in headers:
        if name == _KEY and _GOOD.fullmatch(value):
            found = value.decode()
            break
        if name == b"traceparent" and (match := _TRACEPARENT.fullmatch(value)):
            trace = match[1].decode()
    found = found or trace or secrets.token_hex(16)
    CURRENT.set(found)
    MADE.set(Made())
    return found


def nobody() -> Context:
    """A context for work that belongs to no request."""
    return Context()


def to_log(_logger: object, _name: str, event: dict[str, Any]) -> dict[str, Any]:
    """A processor of structlog: adds the id."""
    if current := CURRENT.get():
        event.setdefault("request_id", current)
    return event
