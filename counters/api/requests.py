"""What requests and answers look like: msgspec types that decode and check, and that the OpenAPI schema is made
from."""

from __future__ import annotations

from typing import Annotated, Literal

import msgspec
from msgspec import Meta

from counters.operations import MAX_VALUE, MIN_VALUE

PAGE = 100  # counters of a page of a listing, where no `limit` is asked for
Int64 = Annotated[int, Meta(ge=MIN_VALUE, le=MAX_VALUE)]


class Increment(msgspec.Struct, forbid_unknown_fields=True):
    """Add to a counter."""

    delta: Int64


class KeyedIncrement(msgspec.Struct, forbid_unknown_fields=True, gc=False):
    """Add to a counter. The key's rule is checked once for each distinct key, after folding."""

    key: str
    delta: Int64


class Increments(msgspec.Struct, forbid_unknown_fields=True):
    """Add to many counters; a key may come more than once."""

    increments: list[KeyedIncrement]


class IncrementColumns(msgspec.Struct, forbid_unknown_fields=True):
    """Add to many counters: `deltas[i]` to `keys[i]`. A key may come more than once."""

    keys: list[str]
    deltas: list[Int64]


class Set(msgspec.Struct, forbid_unknown_fields=True):
    """Give a counter a value."""

    value: Int64


class Queued(msgspec.Struct):
    """An increment that is durable and will be counted exactly once."""

    id: str
    key: str
    delta: int
    status: Literal["queued"]
    queue: str


class Applied(msgspec.Struct):
    """An increment that has been counted; `value` is what it made of the counter.

    `value` and `version` are null for a repeat of an increment that was first sent without `wait`: no result was kept.
    """

    id: str
    key: str
    delta: int
    status: Literal["applied"]
    queue: str
    value: int | None
    version: int | None


class Accepted(msgspec.Struct):
    """A bulk write that is durable: how many increments it had, of how many keys, on how many shards."""

    id: str
    accepted: int
    keys: int
    shards: int


class Changed(msgspec.Struct):
    """A counter after a set or reset."""

    key: str
    value: int
    version: int


class Pending(msgspec.Struct):
    """A set or reset that is durable but was not applied within the time a request may wait; `GET /v1/writes/{id}`
    tells when it is."""

    id: str
    key: str
    status: Literal["queued"]
    queue: str


class Counter(msgspec.Struct):
    """A counter; one that was never written has value 0 and version 0."""

    key: str
    value: int
    version: int
    updated_at: str | None
    source: Literal["cache", "replica", "primary"]
    shard: int


class Counters(msgspec.Struct):
    """Many counters; `next` is the cursor of the next page."""

    results: list[Counter]
    next: str | None


class Rejected(msgspec.Struct):
    """An operation that could not be applied, and why."""

    key: str
    reason: str
    detail: str


class Write(msgspec.Struct, omit_defaults=True):
    """What became of a write. `value` and `version` where it was one operation whose result was asked for.

    `applied`: it was counted, except for the operations in `rejected`. `rejected`: all of its operations were.
    """

    id: str
    status: Literal["queued", "applied", "rejected"]
    shards: list[int]
    value: int | None = None
    version: int | None = None
    rejected: list[Rejected] = []


class Held(msgspec.Struct):
    """What a server has of a counter."""

    value: int
    version: int


class KeyDifference(msgspec.Struct):
    """A counter that is not the same on a replica; null where there is none."""

    key: str
    primary: Held | None
    replica: Held | None


class ReplicaDigest(msgspec.Struct):
    """A replica beside its primary. `equal` is null if they could not be compared; `detail` says why. At most 100
    differences are listed, and at most 10,000 counted. `digest` is of each lane's moment, none newer than `version`."""

    node: str
    equal: bool | None
    detail: str
    at: str
    version: int
    lsn: str
    digest: str
    counters: int
    differing_keys: int
    differences: list[KeyDifference]


class CacheDigest(msgspec.Struct):
    """Cached values beside the primary's: `stale` were refreshed, `wrong` deleted (`keys` names 100 of them)."""

    checked: int
    stale: int
    wrong: int
    keys: list[str]
    detail: str


class Digest(msgspec.Struct):
    """The last reconciliation of a shard. `equal`: true if all was the same, false if something was not, null if not
    all could be compared. `altered_slots` have counters that were changed since the round before, but not by Tally."""

    shard: int
    equal: bool | None
    at: str
    detail: str
    primary: str | None
    digest: str | None
    version: int | None
    lsn: str | None
    counters: int | None
    seconds: float | None
    replicas: list[ReplicaDigest]
    altered_slots: list[int]
    cache: CacheDigest


class Asked(msgspec.Struct):
    """A round of reconciliation that was asked for and has not ended."""

    shard: int
    status: Literal["queued"]


class FieldError(msgspec.Struct):
    """A field and the rule that it breaks."""

    field: str
    rule: str


class ProblemDocument(msgspec.Struct, omit_defaults=True):
    """RFC 9457."""

    type: str
    title: str
    status: int
    detail: str
    errors: list[FieldError] = []


class Component(msgspec.Struct, omit_defaults=True):
    """A part of the system as this process sees it."""

    name: str
    status: Literal["up", "down"]
    detail: str = ""


class Health(msgspec.Struct):
    """`live`: this process works. `ready`: it can take writes."""

    status: Literal["ok", "degraded", "down"]
    live: bool
    ready: bool
    node: str
    components: list[Component]
