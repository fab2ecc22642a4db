"""Which request code works for."""

from __future__ import annotations

import asyncio
import logging
import re
from collections.abc import Callable
from contextvars import copy_context
from typing import Any

import pytest
import structlog

from runtime import request_id
from runtime.group_commit import GroupCommit

TRACE = b"4bf92f3577b34da6a3ce929d0e0e4736"


def begun(*values: bytes) -> str:
    """The id of a request with these headers."""
    headers = [(b"host", b"here"), *((b"x-request-id", value) for value in values)]
    return copy_context().run(request_id.begin, headers)


def test_a_good_id_is_kept() -> None:
    assert begun(b"order-7:retry.2_a") == "order-7:retry.2_a"
    assert begun(b"x" * 128) == "x" * 128


@pytest.mark.parametrize("value", [b"", b"two words", b"x" * 129, b"a\nb", "ü".encode(), b'"', b"{}"])
def test_any_other_is_replaced(value: bytes) -> None:
    assert re.fullmatch("[0-9a-f]{32}", begun(value))
    assert begun(value) != begun(value)


@pytest.mark.parametrize(
    ("given", "id"),
    [
        ([], TRACE),
        ([(b"x-request-id", b"mine")], b"mine"),
        ([(b"x-request-id", b"two words")], TRACE),
    ],
)
def test_a_trace_is_an_id_unless_the_caller_has_another(given: list[tuple[bytes, bytes]], id: bytes) -> None:
    trace = (b"traceparent", b"00-" + TRACE + b"-00f067aa0ba902b7-01")
    for headers in ([trace, *given], [*given, trace]):
        assert copy_context().run(request_id.begin, headers) == id.decode()


@pytest.mark.parametrize(
    "value",
    [
        b"00-" + b"0" * 32 + b"-00f067aa0ba902b7-01",
        b"00-" + TRACE + b"-" + b"0" * 16 + b"-01",
        b"ff-" + TRACE + b"-00f067aa0ba902b7-01",
        b"00-" + TRACE.upper() + b"-00f067aa0ba902b7-01",
    ],
)
def test_what_names_no_trace_is_no_id(value: bytes) -> None:
    """Two requests with it would have one id."""
    ids = {copy_context().run(request_id.begin, [(b"traceparent", value)]) for _ in range(2)}
    assert len(ids) == 2
    assert all(re.fullmatch("[0-9a-f]{32}", id) and int(id, 16) for id in ids - {TRACE.decode()})
    assert TRACE.decode() not in ids


def test_a_log_line_has_it(logged: Callable[[], list[dict[str, Any]]]) -> None:
    """Those of structlog, and those of other libraries."""

    def work() -> None:
        request_id.begin([(b"x-request-id", b"mine")])
        structlog.get_logger("of a test").warning("told")
        logging.getLogger("another").warning("told as well")

    copy_context().run(work)
    structlog.get_logger("of a test").warning("nobody")
    assert [one.get("request_id") for one in logged()] == ["mine", "mine", None]


def test_what_requests_share_belongs_to_none() -> None:
    seen: list[tuple[str, list[str]]] = []

    async def flush(items: list[str]) -> None:
        seen.append((request_id.CURRENT.get(), items))

    async def work() -> None:
        together: GroupCommit[str] = GroupCommit(flush, most=8)
        request_id.begin([(b"x-request-id", b"mine")])
        together.put("a write")
        await together.drain()
        assert request_id.CURRENT.get() == "mine"

    asyncio.run(work())
    assert seen == [("", ["a write"])]
