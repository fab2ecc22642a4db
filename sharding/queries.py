"""Queries to the shards on an event loop, each for all that was wanted while the one before ran.

A shard is asked one query at a time. One that takes longer than `_OVERLAP_SECONDS` does not hold up the next.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from functools import partial
from typing import Generic, TypeVar

from runtime.group_commit import GroupCommit

T = TypeVar("T")
_OVERLAP_SECONDS = 0.02


class Queries(Generic[T]):
    """Belongs to the event loop that it was created on. `answer(shard, wanted)` asks a shard; it must answer what is wanted
    itself, at most `most` at once, and must not raise."""

    def __init__(self, answer: Callable[[int, list[T]], Awaitable[None]], *, most: int) -> None:
        self._answer, self._most = answer, most
        self._shards: dict[int, GroupCommit[T]] = {}
        self._running: set[asyncio.Future[None]] = set()

    def put(self, shard: int, wanted: T) -> None:
        """Ask a shard for something, with the next query."""
        if shard not in self._shards:
            self._shards[shard] = GroupCommit(partial(self._ask, shard), most=self._most)
        self._shards[shard].put(wanted)

    async def _ask(self, shard: int, wanted: list[T]) -> None:
        query = asyncio.ensure_future(self._answer(shard, wanted))
        self._running.add(query)  # the loop keeps no strong reference
        query.add_done_callback(self._running.discard)
        await asyncio.wait({query}, timeout=_OVERLAP_SECONDS)
