"""Which request this code works for: its id is in the answer, in every problem document and in every log line.

nginx passes on the caller's `X-Request-ID`, or the trace id of its `traceparent`, or makes one. Work that many requests
share belongs to none: it begins in a context of `nobody`.
"""

from __future__ import annotations

import re
import secrets
from contextvars import Context, ContextVar
from typing import Any

HEADER = "X-Request-ID"
_KEY = HEADER.lower().encode()
_GOOD = re.compile(rb"[A-Za-z0-9._:-]{1,128}")
CURRENT: ContextVar[str] = ContextVar("request_id", default="")


def begin(headers: list[tuple[bytes, bytes]]) -> str:
    """The id of a request with these headers, from here on that of this context: its own, or a new one if it has none
    that is good."""
    found = ""
    for name, value in headers:
        if name == _KEY and _GOOD.fullmatch(value):
            found = value.decode()
            break
    found = found or secrets.token_hex(16)
    CURRENT.set(found)
    return found


def nobody() -> Context:
    """A context for work that belongs to no request."""
    return Context()


def to_log(_logger: object, _name: str, event: dict[str, Any]) -> dict[str, Any]:
    """A processor of structlog: adds the id."""
    if current := CURRENT.get():
        event.setdefault("request_id", current)
    return event
