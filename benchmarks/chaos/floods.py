"""Too much of something: the journal's Redis without memory, a queue full of messages that nobody should trust (I4)."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Sequence
from typing import Any
from uuid import uuid4

from redis.exceptions import RedisError

from benchmarks.chaos.fault import Fault, Scene
from benchmarks.chaos.messages import TASK, lanes_of, outbox
from sharding.lanes import MOST

FULL_SECONDS = 5.0
ROOM_BYTES = 16 * 1024  # left in a Redis that is as good as full
Message = tuple[int, str, Sequence[Any], dict[str, Any]]  # queue of a shard, task, arguments
REAL, FOREIGN = 2000, 1000  # messages


def fill_memory(scene: Scene) -> str:
    """The journal's Redis may use no more than it does: writes must get 503, and nothing that was accepted may go."""
    journal = scene.subject.journal
    before = journal.config_get("maxmemory")["maxmemory"]
    full = journal.info("memory")["used_memory"] + ROOM_BYTES
    try:
        journal.config_set("maxmemory", full)
        time.sleep(FULL_SECONDS)
    finally:
        with contextlib.suppress(RedisError):
            journal.config_set("maxmemory", before)
    return "redis-journal"


def flood_queue(scene: Scene) -> str:
    """Messages of every lane hundreds of times each, among foreign and broken ones that may be in any shard's queue."""
    shards, lanes = len(scene.subject.shards), lanes_of(scene)
    messages: list[Message] = [(lane.shard, TASK, lane, {}) for lane in lanes for _ in range(REAL // len(lanes))]
    messages += [(scene.rng.randrange(shards), *_foreign(scene, shards)) for _ in range(FOREIGN)]
    scene.rng.shuffle(messages)
    with outbox(scene.subject) as box:
        for message in messages:
            box.send(*message)
        for shard in range(shards):
            for body in ({"hello": "world"}, "text", [1, 2]):
                box.publish(shard, body)
    return f"{len(messages)} messages"


def _foreign(scene: Scene, shards: int) -> tuple[str, Sequence[Any], dict[str, Any]]:
    """Task and arguments that no API process sends, or not to this queue."""
    rng, id = scene.rng, uuid4().hex
    shard, lane = rng.randrange(shards), rng.randrange(MOST)
    wrong: list[tuple[str, Sequence[Any], dict[str, Any]]] = [
        ("nobody.knows_this", [1, 2, 3], {}),
        (TASK, [shard, lane], {}),  # perhaps of another shard than the queue's, perhaps a lane that is not in force
        (TASK, [], {}),
        (TASK, [shard], {}),
        (TASK, [shard, lane, "more"], {}),
        (TASK, [shard + 99, lane], {}),
        (TASK, [-1, lane], {}),
        (TASK, [str(shard), str(lane)], {}),
        (TASK, [None, None], {}),
        (TASK, [shard, "never"], {}),
        (TASK, [shard, MOST], {}),
        (TASK, [shard, 2**80], {}),
        (TASK, [shard, -5], {}),
        (TASK, [shard, 1.5], {}),
        (TASK, [], {"shard": shard, "lane": [lane]}),
        (TASK, [], {"shard": shard, "batch": id, "position": 1}),
    ]
    return rng.choice(wrong)


def all_floods() -> list[Fault]:
    """Memory and queue."""
    return [Fault("journal full 5 s", fill_memory), Fault("queue flooded", flood_queue)]
