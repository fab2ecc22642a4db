"""What is pending is told without a wait for the journal, as long as somebody asks for it."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any

import pytest

from counters.reading import pending
from counters.reading.pending import Pending
from counters.reading.reads import Counter
from runtime import redis
from runtime.event_loop import LoopThread
from sharding import topology
from tests.support.cluster import eventually
from tests.support.journal import is_drained


@pytest.mark.usefixtures("cluster")
def test_only_the_first_reader_waits_for_the_journal(key: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """One round trip asks for all lanes. Those who read meanwhile are told what is known, and ask no more."""
    monkeypatch.setattr(pending, "_GOOD_SECONDS", 600.0)
    monkeypatch.setattr(pending, "_DUE_SECONDS", 0.0)
    eventually(lambda: all(is_drained(shard) for shard in (0, 1)))
    keys = [f"{key}{n}" for n in range(200)]
    lanes = {topology.current().lane_of(one) for one in keys}
    assert len(lanes) > 1
    with LoopThread("pending") as thread:
        thread.run(_read(keys, len(lanes)))


async def _read(keys: Sequence[str], lanes: int) -> None:
    journal = redis.journal_connection()
    reader, asked, answers, evaluate = Pending(journal), list[int](), asyncio.Event(), journal.evaluate_each

    async def evaluate_each(text: str, calls: Sequence[Any]) -> list[Any]:
        asked.append(len(calls))
        await answers.wait()
        return await evaluate(text, calls)

    journal.evaluate_each = evaluate_each  # type: ignore[method-assign]
    counters = [Counter(key, 0, 0, "cache", 0) for key in keys]
    answers.set()
    assert await reader.of(counters) == [0] * len(keys)
    assert asked[0] == lanes
    await _until(lambda: reader._fetch is not None and reader._fetch.done())
    answers.clear()
    before = len(asked)
    for _ in range(3):
        assert await asyncio.wait_for(reader.of(counters), 30) == [0] * len(keys)
        await _until(lambda: len(asked) == before + 1)
    for tail in reader._tails.values():
        tail.fetched_at = float("-inf")
    last = asyncio.ensure_future(reader.of(counters))
    with pytest.raises(asyncio.TimeoutError):
        await asyncio.wait_for(asyncio.shield(last), 0.1)
    answers.set()
    assert await asyncio.wait_for(last, 30) == [0] * len(keys)
    await reader.close()


async def _until(condition: Any) -> None:
    async with asyncio.timeout(30):
        while not condition():
            await asyncio.sleep(0.001)
