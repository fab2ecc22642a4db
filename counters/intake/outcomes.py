"""Results of steps: what a set, a reset or a waited increment came to, from the worker back to the request that waits.

The worker publishes them after its commit, on the channel that the batch names; a listener thread in each process resolves the futures.
Publishing may fail and nobody minds: every step's outcome stands in its shard, and `status` reads it there.
"""

from __future__ import annotations

import os
import time
from concurrent.futures import Future
from functools import cache
from threading import Lock, Thread
from typing import Literal
from uuid import UUID, uuid4

import msgspec
import structlog
from redis.exceptions import RedisError

from runtime import redis

log = structlog.get_logger(__name__)


class Outcome(msgspec.Struct, array_like=True, frozen=True):
    """What one operation of a write came to. `reason` is a slug of `REASONS`, set if it was rejected.

    `among`: how many operations the write has in its lane, this one included.
    """

    batch: bytes
    index: int
    key: str
    status: Literal["applied", "rejected"]
    value: int | None
    version: int | None
    reason: str | None = None
    among: int = 1


REASONS = {
    "overflow": "the counter would leave the range of a signed 64-bit integer",
    "late": "operations that stand after it in the journal were applied before it could be",
    "version": "the counter's version is not the one in If-Match",
}

_outcomes = msgspec.msgpack.Decoder(list[Outcome])


def publish(channel: str, outcomes: list[Outcome]) -> None:
    """Tell a waiting process; best effort."""
    try:
        redis.cache_unguarded().publish(channel, msgspec.msgpack.encode(outcomes))
    except RedisError as error:
        log.warning("outcomes_unpublished", error=str(error))


class Listener:
    """The futures that this process waits for, and the thread that resolves them. One per process: `listener()`."""

    def __init__(self) -> None:
        self.channel = f"outcomes:{os.getpid()}:{uuid4().hex}"
        self._futures: dict[tuple[bytes, int], Future[Outcome]] = {}
        self._lock = Lock()
        Thread(target=self._run, name="outcomes", daemon=True).start()

    def expect(self, batch: UUID, index: int, future: Future[Outcome]) -> None:
        """Register before the batch can be applied."""
        with self._lock:
            self._futures[batch.bytes, index] = future

    def forget(self, batch: UUID, index: int) -> None:
        """Nobody waits any more."""
        with self._lock:
            self._futures.pop((batch.bytes, index), None)

    def _resolve(self, data: bytes) -> None:
        for outcome in _outcomes.decode(data):
            with self._lock:
                future = self._futures.pop((outcome.batch, outcome.index), None)
            if future and not future.done():
                future.set_result(outcome)

    def _run(self) -> None:
        while True:
            try:
                pubsub = redis.cache_unguarded().pubsub(ignore_subscribe_messages=True)
                pubsub.subscribe(self.channel)
                while True:
                    message = pubsub.get_message(timeout=10)
                    if message and message["type"] == "message":
                        self._resolve(message["data"])
            except (RedisError, OSError, ValueError) as error:
                log.warning("outcomes_unheard", error=str(error))
                time.sleep(0.2)


@cache
def _listener(_pid: int) -> Listener:
    return Listener()


def listener() -> Listener:
    """This process's listener (a fork gets its own)."""
    return _listener(os.getpid())
