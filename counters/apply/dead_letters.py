"""Dead letters: Celery messages that no task could process, kept with the reason until an operator retries or discards
them.

The task is unknown (sent by another version of the code), the arguments do not fit, or the body cannot be decoded. No
count depends on a message: the writes are in the journal. Batches that cannot be decoded are kept beside the journal
(`intake.set_aside`).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import msgspec
import structlog
from celery.exceptions import QueueNotFound
from celery.signals import task_failure, task_rejected, task_unknown
from prometheus_client import Counter
from redis.exceptions import RedisError
from uuid_utils.compat import uuid7

from counters.intake import journal
from runtime import redis
from runtime.broker import broker

DEAD = Counter("tally_dead_letters_total", "Messages that no task could take", ["reason"])
KEY = "dead-letters"
KINDS = ("unknown task", "not a task", "failed")
MOST = 10_000  # further messages are counted and logged, not kept
log = structlog.get_logger(__name__)


class DeadLetter(msgspec.Struct, frozen=True):
    """A message: its task, its arguments as text (they may be anything), its queue, and the reason."""

    task: str
    arguments: str
    queue: str
    reason: str
    at: int  # the journal's time, microseconds


_letters = msgspec.msgpack.Decoder(DeadLetter)


def keep(task: str, arguments: Any, queue: str, reason: str) -> None:
    """Keep a message. If Redis is down, the message is only logged."""
    DEAD.labels(kind_of(reason)).inc()
    log.error("dead_letter", task=task, arguments=repr(arguments)[:1000], queue=queue, reason=reason)
    try:
        if count() < MOST:
            letter = DeadLetter(task, _text(arguments), queue, reason, journal.now())
            redis.journal().hset(KEY, uuid7().hex, msgspec.msgpack.encode(letter))
    except RedisError as error:
        log.warning("dead_letter_unkept", error=str(error))


def kind_of(reason: str) -> str:
    """One of `KINDS`: the reason without its details."""
    return reason.partition(":")[0]


def _text(arguments: Any) -> str:
    try:
        return msgspec.json.encode(arguments).decode()
    except (TypeError, ValueError):
        return repr(arguments)


def letters() -> dict[str, DeadLetter]:
    """All dead letters, by id. Raises `RedisError`."""
    return {id.decode(): _letters.decode(data) for id, data in redis.journal().hgetall(KEY).items()}


def count() -> int:
    """Number of dead letters. Raises `RedisError`."""
    return int(redis.journal().hlen(KEY))


def ids() -> list[str]:
    """Ids of all dead letters, newest first. Raises `RedisError`."""
    return sorted((id.decode() for id in redis.journal().hkeys(KEY)), reverse=True)


def get_many(ids: Sequence[str]) -> dict[str, DeadLetter]:
    """Dead letters by id, in the order of `ids`; missing ones are left out. Raises `RedisError`."""
    found = redis.journal().hmget(KEY, ids) if ids else []
    return {id: _letters.decode(data) for id, data in zip(ids, found, strict=True) if data is not None}


def retry(id: str) -> bool:
    """Send a message again. Returns False if it is missing or cannot be sent. Raises `RedisError`, kombu's
    `OperationalError`."""
    letter = get_many([id]).get(id)
    if letter is None:
        return False
    try:
        arguments, keywords = msgspec.json.decode(letter.arguments, type=tuple[list[Any], dict[str, Any]])
    except msgspec.DecodeError:
        return False
    try:
        broker().send_task(letter.task, arguments, keywords, queue=letter.queue, retry=False)
    except QueueNotFound:
        return False
    return discard(id)


def discard(id: str) -> bool:
    """Delete a message. Returns whether it existed. Raises `RedisError`."""
    return bool(redis.journal().hdel(KEY, id))


@task_unknown.connect
def _keep_unknown(message: Any, exc: BaseException, name: str, **_: Any) -> None:
    keep(name, _arguments(message), _queue(message), f"unknown task: {exc}")


@task_rejected.connect
def _keep_rejected(message: Any, exc: BaseException | None, **_: Any) -> None:
    keep(str(message.headers.get("task", "")), _arguments(message), _queue(message), f"not a task: {exc}")


@task_failure.connect
def _keep_failed(sender: Any, exception: BaseException, args: Any, kwargs: Any, **_: Any) -> None:
    queue = (sender.request.delivery_info or {}).get("routing_key", "")
    keep(sender.name, (list(args or ()), dict(kwargs or {})), queue, f"failed: {exception!r}")


def _arguments(message: Any) -> Any:
    try:
        args, kwargs, *_ = message.payload
    except Exception:  # a foreign body may raise anything
        return str(message.body)[:1000]
    return args, kwargs


def _queue(message: Any) -> str:
    return str((message.delivery_info or {}).get("routing_key", ""))
