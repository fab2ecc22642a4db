"""The event loop of an API process: group commit on it, and waiting that takes no thread for long."""

from __future__ import annotations

import asyncio

import pytest
import structlog

from runtime import event_loop
from runtime.event_loop import LoopThread
from runtime.group_commit import GroupCommit


def test_what_comes_during_a_flush_makes_up_the_next() -> None:
    flushed: list[list[int]] = []
    go_on = asyncio.Event()

    async def flush(items: list[int]) -> None:
        flushed.append(items)
        await go_on.wait()

    async def run() -> None:
        commit = GroupCommit(flush, most=3)
        commit.put(1)
        await asyncio.sleep(0)
        for item in (2, 3, 4, 5):
            commit.put(item)
        assert (flushed, commit.waiting) == ([[1]], 4)
        go_on.set()
        await commit.drain()
        assert (flushed, commit.waiting) == ([[1], [2, 3, 4], [5]], 0)
        commit.put(6)
        await commit.drain()
        assert flushed[-1] == [6]

    asyncio.run(run())


def test_light_items_do_not_wait_for_all_heavy_ones() -> None:
    flushed: list[str] = []

    async def flush(items: list[str]) -> None:
        flushed.append("".join(items))

    async def run() -> None:
        commit = GroupCommit(flush, most=5, most_weight=10)
        for item, weight in {"A": 11, "B": 4, "C": 6, "D": 1, "a": 0, "b": 0}.items():
            commit.put(item, weight)
        assert commit.waiting == 6
        await commit.drain()
        assert flushed == ["abA", "BC", "D"]

    asyncio.run(run())


def test_neither_light_nor_heavy_items_keep_the_others_out() -> None:
    flushed: list[str] = []

    async def flush(items: list[str]) -> None:
        flushed.append("".join(items))

    async def run() -> None:
        commit = GroupCommit(flush, most=2, most_weight=10)
        for item, weight in {"A": 1, "B": 1, "C": 1, "a": 0, "b": 0}.items():
            commit.put(item, weight)
        await commit.drain()
        assert flushed == ["aA", "bB", "C"]

    asyncio.run(run())


def test_a_flush_that_fails_stops_nothing() -> None:
    seen: list[int] = []

    async def flush(items: list[int]) -> None:
        seen.extend(items)
        raise ValueError("a bug")

    async def run() -> None:
        commit = GroupCommit(flush, most=1)
        for item in (1, 2):
            commit.put(item)
        await commit.drain()
        assert seen == [1, 2]

    asyncio.run(run())


def test_a_loop_in_a_thread_runs_coroutines_until_it_is_closed() -> None:
    with LoopThread("of a test") as thread:
        assert thread.run(asyncio.sleep(0, 7)) == 7
        with pytest.raises(ZeroDivisionError):
            thread.run(asyncio.to_thread(divmod, 1, 0))
    assert thread.loop.is_closed()


def test_work_that_ends_by_an_exception_is_logged_and_work_that_is_cancelled_is_not() -> None:
    async def fail() -> None:
        raise ZeroDivisionError

    async def run() -> None:
        loop = asyncio.get_running_loop()
        failing, waiting = event_loop.keep(loop, fail()), event_loop.keep(loop, asyncio.sleep(10))
        waiting.cancel()
        await asyncio.wait([failing, waiting])
        await asyncio.sleep(0)

    with structlog.testing.capture_logs() as logged:
        asyncio.run(run())
    assert [(one["event"], one["log_level"], type(one["exc_info"])) for one in logged] == [
        ("work_ended", "error", ZeroDivisionError)
    ]
