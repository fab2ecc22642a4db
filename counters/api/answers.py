"""The answers of the calls, shared by the fast path's coroutine and the view of each call."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

from counters.api.problems import Problem
from counters.intake import dispatch
from counters.intake.writes import Accepted
from counters.outcome import REASONS, Outcome
from counters.reading.reads import Counter
from counters.write_id import WriteId


class Answer(NamedTuple):
    """A JSON answer before encoding. `headers` are its own, beside those that every answer has."""

    data: object
    status: int = 200
    headers: Mapping[str, str] = {}


def etag(version: int) -> str:
    """The ETag of a counter."""
    return f'"{version}"'


def queue_of(write: WriteId) -> str:
    """The queue of a single-key write."""
    return dispatch.queue_of(write.shards[0])


def increment(accepted: Accepted, key: str, delta: int, outcome: Outcome | None = None) -> Answer:
    """An increment: 200 with its outcome if known, else 202. Raises `Problem` if it was rejected."""
    id = accepted.id
    data = {"id": str(id), "key": key, "delta": delta, "status": "queued", "queue": queue_of(id)}
    if outcome is None:
        return Answer(data, 202)
    if outcome.status == "rejected":
        raise rejection(outcome, id)
    return Answer({**data, "status": "applied", "value": outcome.value, "version": outcome.version})


def bulk(accepted: Accepted, count: int, keys: int) -> Answer:
    """202: `count` increments of `keys` distinct keys."""
    return Answer({"id": str(accepted.id), "accepted": count, "keys": keys, "shards": len(accepted.id.shards)}, 202)


def change(accepted: Accepted, key: str, outcome: Outcome | None) -> Answer:
    """A set or reset: 200 with its outcome if known, else 202. Raises `Problem` if it was rejected."""
    id = accepted.id
    if outcome is None:
        return Answer({"id": str(id), "key": key, "status": "queued", "queue": queue_of(id)}, 202)
    if outcome.status == "rejected":
        raise rejection(outcome, id)
    data = {"key": key, "value": outcome.value, "version": outcome.version}
    return Answer(data, headers={"ETag": etag(outcome.version or 0)})


def rejection(outcome: Outcome, write: WriteId) -> Problem:
    """409, or 412 if the version did not match."""
    extra = {"id": str(write), "key": outcome.key, "value": outcome.value, "version": outcome.version}
    detail = REASONS[outcome.reason or ""]
    if outcome.reason == "version":
        return Problem(412, "version-mismatch", detail, extra=extra, errors=[{"field": "If-Match", "rule": detail}])
    return Problem(409, outcome.reason or "rejected", detail, extra=extra)


def one(found: list[Counter]) -> Answer:
    """One counter."""
    return Answer(shown(found[0]), headers={"ETag": etag(found[0].version)})


def many(found: list[Counter]) -> Answer:
    """Many counters, as the only page."""
    return Answer({"results": [shown(counter) for counter in found], "next": None})


def shown(counter: Counter) -> dict[str, Any]:
    """A counter as the API shows it."""
    updated = counter.updated_at
    return {
        "key": counter.key,
        "value": counter.value,
        "version": counter.version,
        "updated_at": updated.isoformat() if updated else None,
        "source": counter.source,
        "shard": counter.shard,
    }
