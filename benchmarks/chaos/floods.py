"""Too much of something: the journal's Redis without memory, a queue full of messages that nobody should trust (I4)."""

from __future__ import annotations

import contextlib
import time
from typing import Any
from uuid import uuid4

from celery import Celery
from kombu import Queue
from kombu.exceptions import OperationalError
from redis.exceptions import RedisError

from benchmarks.chaos.fault import Fault, NotPossible, Scene

FULL_SECONDS = 5.0
ROOM_BYTES = 16 * 1024  # left in a Redis that is as good as full
REAL, REPEATED, FOREIGN = 400, 5, 1000  # messages
TASK = "counters.apply_batch"


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
    """Real messages five times each, in any order and in any shard's queue, among foreign and broken ones."""
    shards = len(scene.subject.shards)
    messages: list[tuple[str, Any, Any]] = [
        (TASK, list(batch), {}) for batch in scene.sampler.some_passed(scene.rng, REAL) for _ in range(REPEATED)
    ]
    messages += [_foreign(scene, shards) for _ in range(FOREIGN)]
    scene.rng.shuffle(messages)
    app = Celery(broker=scene.subject.env["TALLY_BROKER_URL"], set_as_current=False)
    app.conf.task_queues = [Queue(f"shard-{shard}") for shard in range(shards)]
    app.conf.task_create_missing_queues = False
    try:
        with app.producer_pool.acquire(block=True) as producer:
            for name, args, kwargs in messages:
                queue = f"shard-{scene.rng.randrange(shards)}"
                app.send_task(name, args, kwargs, queue=queue, producer=producer, retry=False)
            for shard in range(shards):
                for body in ({"hello": "world"}, "text", [1, 2]):
                    producer.publish(body, routing_key=f"shard-{shard}", serializer="json")
    except (OperationalError, OSError) as error:
        raise NotPossible(str(error)) from error
    finally:
        app.close()
    return f"{len(messages)} messages"


def _foreign(scene: Scene, shards: int) -> tuple[str, Any, Any]:
    """A message that no API process sent."""
    rng, id = scene.rng, uuid4().hex
    shard = rng.randrange(shards)
    wrong: list[tuple[str, Any, Any]] = [
        ("nobody.knows_this", [1, 2, 3], {}),
        (TASK, [], {}),
        (TASK, [shard, id], {}),
        (TASK, [shard, id, 1, "more"], {}),
        (TASK, [shard + 99, id, 1], {}),
        (TASK, [-1, id, 1], {}),
        (TASK, [str(shard), id, "soon"], {}),
        (TASK, [shard, None, None], {}),
        (TASK, [shard, id, "never"], {}),
        (TASK, [shard, id, 2**80], {}),
        (TASK, [shard, id, -5], {}),
        (TASK, [shard, id, 1.5], {}),
        (TASK, [], {"shard": shard, "batch": id, "position": [1]}),
        (TASK, [shard, "not an id", 1], {}),
    ]
    return rng.choice(wrong)


def all_floods() -> list[Fault]:
    """Memory and queue."""
    return [Fault("journal full 5 s", fill_memory), Fault("queue flooded", flood_queue)]
