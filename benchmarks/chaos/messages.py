"""The messages that start shifts (I4): every lane gets too many of them, or loses one. No count may change."""

from __future__ import annotations

import base64
import contextlib
import json
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import psycopg
from celery import Celery
from kombu import Producer, Queue
from kombu.exceptions import OperationalError
from redis.exceptions import RedisError

from benchmarks.chaos.fault import Fault, NotPossible, Scene
from benchmarks.chaos.subject import Subject, lease_key, queue_of
from sharding.lanes import Lane

TASK = "counters.apply"
ROUNDS, ROUND_SECONDS = 20, 0.15
COPIES = 3  # of a lane's message in a round
THIEVES = 16  # more than the workers that wait for messages: Redis serves whoever has waited longest
LOSE_SECONDS = 10.0  # for each lane to lose a message
POP_SECONDS = 0.5


class Outbox:
    """Puts messages into the shards' queues."""

    def __init__(self, app: Celery, producer: Producer) -> None:
        self._app, self._producer = app, producer

    def send(self, shard: int, task: str, args: Sequence[Any], kwargs: Mapping[str, Any] | None = None) -> None:
        """A Celery message."""
        self._app.send_task(
            task, list(args), dict(kwargs or {}), queue=queue_of(shard), producer=self._producer, retry=False
        )

    def publish(self, shard: int, body: Any) -> None:
        """A message that is none of Celery's."""
        self._producer.publish(body, routing_key=queue_of(shard), serializer="json")


@contextlib.contextmanager
def outbox(subject: Subject) -> Iterator[Outbox]:
    """An outbox while the block runs. Raises `NotPossible` if a Redis fails in it."""
    app = Celery(broker=subject.env["TALLY_BROKER_URL"], set_as_current=False)
    app.conf.task_queues = [Queue(queue_of(shard)) for shard in range(len(subject.shards))]
    app.conf.task_create_missing_queues = False
    try:
        with app.producer_pool.acquire(block=True) as producer:
            yield Outbox(app, producer)
    except (OperationalError, RedisError, OSError) as error:
        raise NotPossible(str(error)) from error
    finally:
        app.close()


def lanes_of(scene: Scene) -> list[Lane]:
    """All lanes in force. Raises `NotPossible`."""
    try:
        return scene.subject.lanes()
    except psycopg.OperationalError as error:
        raise NotPossible(str(error)) from error


def double_messages(scene: Scene) -> str:
    """Every lane gets several messages at once, again and again.

    Half of the time its lease is lost just before: then two shifts run at once, and only the lane's lock keeps them
    apart (I2).
    """
    lanes = lanes_of(scene)
    with outbox(scene.subject) as box:
        for _ in range(ROUNDS):
            for lane in lanes:
                if scene.rng.random() < 0.5:
                    scene.subject.journal.delete(lease_key(lane))
                for _ in range(COPIES):
                    box.send(lane.shard, TASK, lane)
            time.sleep(ROUND_SECONDS)
    return f"{ROUNDS * COPIES} messages for each of {len(lanes)} lanes"


def lose_messages(scene: Scene) -> str:
    """Pop messages and drop them, as workers that die right after would, until each lane has lost one."""
    lanes = set(lanes_of(scene))
    queues = [queue_of(shard) for shard in range(len(scene.subject.shards))]
    lost: Counter[Lane] = Counter()
    deadline = time.monotonic() + LOSE_SECONDS

    def steal(_thief: int) -> None:
        while time.monotonic() < deadline and not lanes <= lost.keys():
            popped = scene.subject.broker.brpop(queues, POP_SECONDS)
            lost.update([] if popped is None else _lanes_in(popped[1]))

    try:
        with ThreadPoolExecutor(THIEVES) as thieves:
            list(thieves.map(steal, range(THIEVES)))
    except RedisError as error:
        raise NotPossible(str(error)) from error
    return f"{lost.total()} messages of {len(lost)} of {len(lanes)} lanes"


def _lanes_in(message: bytes) -> list[Lane]:
    """The lane that a message on its way through Redis names."""
    try:
        (shard, number, *_), *_ = json.loads(base64.b64decode(json.loads(message)["body"]))
        return [Lane(shard, number)]
    except (ValueError, TypeError, KeyError):
        return []


def all_messages() -> list[Fault]:
    """Doubled, lost."""
    return [DOUBLE_MESSAGES, Fault("message lost for every lane", lose_messages)]


DOUBLE_MESSAGES = Fault("message doubled for every lane", double_messages)
