"""The answers of the calls, shared by the fast path's coroutine and the view of each call."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime
from functools import lru_cache
from typing import Any, NamedTuple

from counters.api.bulk import Bulk
from counters.api.problems import Problem
from counters.intake import dispatch
from counters.intake.writes import Accepted
from counters.outcome import REASONS, Outcome
from counters.reading.reads import Counter
from counters.write_id import WriteId
from sharding.lanes import EXCESS

_MOST_MOMENTS = 20_000


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
    return dispatch.lane_queue(write.lanes[0])


def increment(accepted: Accepted, key: str, delta: int, outcome: Outcome | None = None) -> Answer:
    """An increment: 200 with its outcome if known, else 202. Raises `Problem` if it was rejected."""
    id = accepted.id
    status = "excess" if accepted.queue == EXCESS else "queued"
    data = {"id": str(id), "key": key, "delta": delta, "status": status, "queue": queue_of(id)}
    if outcome is None:
        return Answer(data, 202)
    if outcome.status == "rejected":
        raise rejection(outcome, id)
    return Answer({**data, "status": "applied", "value": outcome.value, "version": outcome.version})


def bulk(accepted: Accepted, body: Bulk) -> Answer:
    """202: how many increments of how many distinct keys were accepted; which keys went to the excess queue, and which
    were refused."""
    count, keys, shed = body.count, len(body.folded), accepted.shed
    excess: Iterable[str] = shed.excess
    if all(lane.queue == EXCESS for lane in accepted.id.lanes) and not shed.excess:
        lost = {key for some in shed.refused.values() for key in some}
        excess = [key for key, _ in body.folded.items() if key not in lost]
    refused = [{"key": key, "rule": rule} for rule, some in shed.refused.items() for key in some]
    if refused:
        count -= body.count_of({one["key"] for one in refused})
        keys -= len(refused)
    data: dict[str, Any] = {
        "id": str(accepted.id),
        "accepted": count,
        "keys": keys,
        "shards": len(accepted.id.shards),
    }
    return Answer(data | ({"excess": list(excess)} if excess else {}) | ({"refused": refused} if refused else {}), 202)


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


def one_pending(found: list[Counter], pending: Sequence[int | None]) -> Answer:
    """One counter, and what is pending for it."""
    return Answer({**shown(found[0]), "pending": pending[0]}, headers={"ETag": etag(found[0].version)})


def many(found: list[Counter]) -> Answer:
    """Many counters, as the only page."""
    return Answer({"results": [shown(counter) for counter in found], "next": None})


@lru_cache(_MOST_MOMENTS)
def moment(version: int) -> str:
    """A version, which is a time in microseconds, as the API shows it. To make it takes a tenth of a cached read's time, and
    reads of the same counters show the same."""
    return datetime.fromtimestamp(version / 1e6, UTC).isoformat()


def shown(counter: Counter) -> dict[str, Any]:
    """A counter as the API shows it."""
    return {
        "key": counter.key,
        "value": counter.value,
        "version": counter.version,
        "updated_at": moment(counter.version) if counter.version else None,
        "source": counter.source,
        "shard": counter.shard,
    }
