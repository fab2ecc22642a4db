"""Results of steps (set, reset, awaited increment), passed from the worker to the waiting request.

The worker publishes them after its commit, on the channel named in the batch. A listener in each process resolves the
futures. Publishing may fail: every step's outcome is also in its shard, where `write_status` reads it.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable
from concurrent.futures import Future
from uuid import UUID, uuid4

import msgspec
import structlog
from redis.asyncio import Redis as AsyncRedis
from redis.exceptions import RedisError

from counters.outcome import Outcome
from runtime import redis

_LOOK_SECONDS = 10.0  # to wait for a message before checking the connection
_PAUSE_SECONDS = 0.2  # before subscribing again
log = structlog.get_logger(__name__)


_outcomes = msgspec.msgpack.Decoder(list[Outcome])


def publish(channel: str, outcomes: list[Outcome]) -> None:
    """Publish outcomes to a waiting process; best effort."""
    try:
        redis.cache_unguarded().publish(channel, msgspec.msgpack.encode(outcomes))
    except RedisError as error:
        log.warning("outcomes_unpublished", error=str(error))


class Listener:
    """Resolves the futures of awaited results, in a task on the process's event loop. Any thread may wait for a
    future."""

    def __init__(self, cache: AsyncRedis) -> None:
        self.channel = f"outcomes:{os.getpid()}:{uuid4().hex}"
        self._cache = cache
        self._futures: dict[tuple[bytes, int], Future[Outcome]] = {}
        self._others: dict[str, Callable[[], None]] = {}
        self._task: asyncio.Task[None] | None = None
        self._is_open = False

    def also(self, channel: str, call: Callable[[], None]) -> None:
        """Call this, on the event loop, for each message of another channel. Before `open`."""
        self._others[channel] = call

    def open(self) -> None:
        """Start listening."""
        self._is_open = True
        self._task = asyncio.get_running_loop().create_task(self._listen())

    async def close(self) -> None:
        """Stop listening."""
        self._is_open = False  # redis-py may mistake a cancellation for its own time-out
        if self._task is not None:
            self._task.cancel()
            await asyncio.wait([self._task])

    def expect(self, batch: UUID, index: int, future: Future[Outcome]) -> None:
        """Register a future, before the batch can be applied."""
        self._futures[batch.bytes, index] = future

    def forget(self, batch: UUID, index: int) -> None:
        """Drop a future that is no longer awaited."""
        self._futures.pop((batch.bytes, index), None)

    def _hear(self, channel: str, data: bytes) -> None:
        if channel == self.channel:
            self._resolve(data)
        else:
            self._others[channel]()

    def _resolve(self, data: bytes) -> None:
        for outcome in _outcomes.decode(data):
            future = self._futures.pop((outcome.batch, outcome.index), None)
            if future and not future.done():
                future.set_result(outcome)

    async def _listen(self) -> None:
        while self._is_open:
            try:
                async with self._cache.pubsub(ignore_subscribe_messages=True) as messages:
                    await messages.subscribe(self.channel, *self._others)
                    while self._is_open:
                        message = await messages.get_message(timeout=_LOOK_SECONDS)
                        if message:
                            self._hear(message["channel"].decode(), message["data"])
            except (RedisError, OSError, ValueError) as error:
                log.warning("outcomes_unheard", error=str(error))
                await asyncio.sleep(_PAUSE_SECONDS)
