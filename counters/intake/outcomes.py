"""Results of steps: what a set, a reset or a waited increment came to, from the worker back to the request that waits.

The worker publishes them after its commit, on the channel that the batch names; a listener in each process resolves the
futures. Publishing may fail and nobody minds: every step's outcome stands in its shard, and `status` reads it there.
"""

from __future__ import annotations

import asyncio
import os
from concurrent.futures import Future
from uuid import UUID, uuid4

import msgspec
import structlog
from redis.asyncio import Redis as AsyncRedis
from redis.exceptions import RedisError

from counters.outcome import Outcome
from runtime import redis

_LOOK_SECONDS = 10.0  # for a message, before the connection is looked at
_PAUSE_SECONDS = 0.2  # before the next try to listen
log = structlog.get_logger(__name__)


_outcomes = msgspec.msgpack.Decoder(list[Outcome])


def publish(channel: str, outcomes: list[Outcome]) -> None:
    """Tell a waiting process; best effort."""
    try:
        redis.cache_unguarded().publish(channel, msgspec.msgpack.encode(outcomes))
    except RedisError as error:
        log.warning("outcomes_unpublished", error=str(error))


class Listener:
    """The results that a process waits for, and the task on its event loop that resolves them. Its futures may be
    waited for anywhere."""

    def __init__(self, cache: AsyncRedis) -> None:
        self.channel = f"outcomes:{os.getpid()}:{uuid4().hex}"
        self._cache = cache
        self._futures: dict[tuple[bytes, int], Future[Outcome]] = {}
        self._task: asyncio.Task[None] | None = None
        self._is_open = False

    def open(self) -> None:
        """Begin to listen."""
        self._is_open = True
        self._task = asyncio.get_running_loop().create_task(self._listen())

    async def close(self) -> None:
        """Stop listening."""
        self._is_open = False  # redis-py may take a cancellation for a time-out of its own
        if self._task is not None:
            self._task.cancel()
            await asyncio.wait([self._task])

    def expect(self, batch: UUID, index: int, future: Future[Outcome]) -> None:
        """Register before the batch can be applied."""
        self._futures[batch.bytes, index] = future

    def forget(self, batch: UUID, index: int) -> None:
        """Nobody waits any more."""
        self._futures.pop((batch.bytes, index), None)

    def _resolve(self, data: bytes) -> None:
        for outcome in _outcomes.decode(data):
            future = self._futures.pop((outcome.batch, outcome.index), None)
            if future and not future.done():
                future.set_result(outcome)

    async def _listen(self) -> None:
        while self._is_open:
            try:
                async with self._cache.pubsub(ignore_subscribe_messages=True) as messages:
                    await messages.subscribe(self.channel)
                    while self._is_open:
                        message = await messages.get_message(timeout=_LOOK_SECONDS)
                        if message:
                            self._resolve(message["data"])
            except (RedisError, OSError, ValueError) as error:
                log.warning("outcomes_unheard", error=str(error))
                await asyncio.sleep(_PAUSE_SECONDS)
