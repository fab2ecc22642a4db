"""The event loop of an API process: what may run on it, and that nothing that has acted is run twice."""

from __future__ import annotations

import asyncio
import json
import threading

import pytest

from counters.api.base import Answer, PendingResponse
from runtime import event_loop
from runtime.group_commit import Promise

SHARD = 1


def test_a_thread_may_wait() -> None:
    event_loop.act()
    event_loop.forbid()


def test_an_attempt_ends_where_it_would_wait() -> None:
    async def run() -> None:
        with pytest.raises(event_loop.WouldBlock):
            event_loop.attempt(event_loop.forbid)

    asyncio.run(run())


def test_what_has_acted_is_not_run_again() -> None:
    def act_and_wait() -> None:
        event_loop.act()
        event_loop.forbid()

    async def run() -> None:
        with pytest.raises(RuntimeError, match="after it has acted"):
            event_loop.attempt(act_and_wait)
        with pytest.raises(event_loop.WouldBlock):  # the next attempt has done nothing yet
            event_loop.attempt(event_loop.forbid)

    asyncio.run(run())


def test_what_runs_in_a_thread_may_wait_and_raises_here() -> None:
    async def run() -> None:
        await event_loop.in_thread(event_loop.forbid)
        with pytest.raises(ZeroDivisionError):
            await event_loop.in_thread(divmod, 1, 0)

    asyncio.run(run())


def test_a_promise_is_kept_from_another_thread() -> None:
    async def run(delay: float) -> None:
        kept, broken = Promise[int](), Promise[int]()
        threading.Timer(delay, kept.resolve, [7]).start()
        threading.Timer(delay, broken.fail, [ValueError("no")]).start()
        assert await kept == 7
        with pytest.raises(ValueError, match="no"):
            await broken
        assert await Promise.kept(8) == 8

    for delay in (0.0, 0.05):
        asyncio.run(run(delay))


@pytest.mark.parametrize("error", [event_loop.WouldBlock(), ValueError("a bug")])
def test_an_answer_that_breaks_is_a_problem(error: BaseException) -> None:
    async def answer() -> Answer:
        raise error

    response = asyncio.run(PendingResponse(answer()).settled())
    assert response is not None
    assert (response.status_code, response.headers["Content-Type"]) == (500, "application/problem+json")
    assert json.loads(response.content)["type"] == "urn:tally:problem:internal-error"
