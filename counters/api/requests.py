"""The form of requests and answers: msgspec types that decode and check, and from which the OpenAPI schema is
generated."""

from __future__ import annotations

from typing import Annotated, Any, Literal

import msgspec
from msgspec import UNSET, Meta, UnsetType

from counters.operations import MAX_VALUE, MIN_VALUE
from counters.operators.health import Component, Redundancy

PAGE = 100  # counters on a page of a listing without `limit`
Int64 = Annotated[int, Meta(ge=MIN_VALUE, le=MAX_VALUE)]


class Increment(msgspec.Struct, forbid_unknown_fields=True):
    """Add to a counter."""

    delta: Int64


class KeyedIncrement(msgspec.Struct, forbid_unknown_fields=True, gc=False):
    """Add to a counter. The rule for keys is checked once per distinct key, after folding."""

    key: str
    delta: Int64


class Increments(msgspec.Struct, forbid_unknown_fields=True):
    """Add to many counters; a key may occur more than once."""

    increments: list[KeyedIncrement]


class IncrementColumns(msgspec.Struct, forbid_unknown_fields=True):
    """Add to many counters: `deltas[i]` to `keys[i]`. A key may occur more than once."""

    keys: list[str]
    deltas: list[Int64]


class Set(msgspec.Struct, forbid_unknown_fields=True):
    """Set a counter to a value."""

    value: Int64


class Queued(msgspec.Struct):
    """An increment that is durable and will be counted exactly once. `excess`: later, as its counter has too many of them
    or the request has a low priority."""

    id: str
    key: str
    delta: int
    status: Literal["queued", "excess"]
    queue: str


class Applied(msgspec.Struct):
    """An increment that has been counted; `value` is the counter's value after it.

    `value` and `version` are null for a repeat of an increment first sent without `wait`: its result was not kept.
    """

    id: str
    key: str
    delta: int
    status: Literal["applied"]
    queue: str
    value: int | None
    version: int | None


class RefusedKey(msgspec.Struct):
    """A key whose increments were not accepted, and the limit: `key-rate`: too many of them, and no room in the excess
    queue; `excess`: low priority, and no room there; `backlog`: too much waits in the key's lane."""

    key: str
    rule: Literal["key-rate", "excess", "backlog"]


class Accepted(msgspec.Struct, omit_defaults=True):
    """A durable bulk write: how many of its increments were accepted, of how many keys, on how many shards. Those of keys
    in `excess` are counted later; those of keys in `refused` were not accepted."""

    id: str
    accepted: int
    keys: int
    shards: int
    excess: list[str] = []
    refused: list[RefusedKey] = []


class Changed(msgspec.Struct):
    """A counter after a set or reset."""

    key: str
    value: int
    version: int


class Pending(msgspec.Struct):
    """A set or reset that is durable but was not applied within the time a request may wait; `GET /v1/writes/{id}`
    shows when it is."""

    id: str
    key: str
    status: Literal["queued"]
    queue: str


class Counter(msgspec.Struct, omit_defaults=True):
    """A counter; one that was never written has value 0 and version 0. With `pending`: what accepted writes will add to the
    value once they are applied, an estimate; null if too many wait, or if that cannot be told now."""

    key: str
    value: int
    version: int
    updated_at: str | None
    source: Literal["cache", "replica", "primary"]
    shard: int
    pending: int | UnsetType | None = UNSET


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
    """The state of a write. It has `value` and `version` if it was one operation whose result was requested.

    `applied`: it was counted, except for the operations in `rejected`. `rejected`: all its operations were rejected.
    `excess`, `stale`: all but what waits in that spill queue was counted.
    """

    id: str
    status: Literal["queued", "excess", "stale", "applied", "rejected"]
    shards: list[int]
    value: int | None = None
    version: int | None = None
    rejected: list[Rejected] = []


class Held(msgspec.Struct):
    """A counter on one server."""

    value: int
    version: int


class KeyDifference(msgspec.Struct):
    """A counter that differs on a replica; null on a server that does not have it."""

    key: str
    primary: Held | None
    replica: Held | None


class ReplicaDigest(msgspec.Struct):
    """A replica compared with its primary. `equal` is null if they could not be compared; `detail` says why. At most
    100 differences are listed, and at most 10,000 counted. `digest` has each lane at its own moment, none newer than
    `version`."""

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
    differing_rows: list[RowDifference]


class RowDifference(msgspec.Struct):
    """A row of another table that a replica has otherwise; null where it is missing."""

    key: str
    primary: list[Any] | None
    replica: list[Any] | None
    table: str


class RowsChecked(msgspec.Struct):
    """Rows that were compared with those that they belong to. `some` tells of up to 100 that were wrong."""

    checked: int
    wrong: int
    some: list[str]
    detail: str


class CacheDigest(msgspec.Struct):
    """Cached values compared with the primary's: `stale` were refreshed, `wrong` deleted (`keys` has up to 100 of
    them)."""

    checked: int
    stale: int
    wrong: int
    keys: list[str]
    detail: str


class Digest(msgspec.Struct):
    """The last reconciliation of a shard. `equal`: true if nothing differed, false if something did, null if not all
    could be compared. `altered_slots` have counters that changed since the previous round, but not by Tally. `rows`: how many
    of each other table the replicas were compared in; `checks`: of rows that belong together."""

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
    rows: dict[str, int]
    replicas: list[ReplicaDigest]
    altered_slots: list[int]
    cache: CacheDigest
    checks: dict[str, RowsChecked]


class Asked(msgspec.Struct):
    """A round of reconciliation that was requested and has not ended."""

    shard: int
    status: Literal["queued"]


class FieldError(msgspec.Struct):
    """A field and the rule that it breaks."""

    field: str
    rule: str


class ProblemDocument(msgspec.Struct, omit_defaults=True):
    """RFC 9457. `request_id` is that of the header X-Request-ID: name it to whoever operates Tally. The outcome of a write
    (409, 412) has the write's `id` instead."""

    type: str
    title: str
    status: int
    detail: str
    request_id: str = ""
    errors: list[FieldError] = []


class Health(msgspec.Struct):
    """`live`: this process works. `ready`: it can take writes. `ok`: every component is up. `at`: when this was looked
    at."""

    status: Literal["ok", "degraded", "down"]
    live: bool
    ready: bool
    node: str
    components: list[Component]
    redundancy: Redundancy
    at: str


class Probe(msgspec.Struct):
    """This process answers, or can serve."""

    status: Literal["ok"]
    node: str
