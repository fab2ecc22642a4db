"""Requests and answers of the calls on shards; see `requests`. The types that describe servers are in
`replication.status`."""

from __future__ import annotations

from typing import Annotated, Literal

import msgspec
from msgspec import Meta

from replication import apply_delay
from replication.status import Replica, ShardStatus
from replication.steering import Quorum

_TIME = r"[0-9]{1,7}(\.[0-9]{1,3})?(ms|s)"
DELAY = rf"^{_TIME}(\.\.{_TIME})?$"
# PostgreSQL's text cannot contain NUL, so the record of an intervention could not be stored.
Reason = Annotated[
    str,
    Meta(
        max_length=1000,
        pattern=r"^[^\u0000]*[^\s\u0000][^\u0000]*$",
        description="Why; it is recorded. Not blank, no NUL.",
    ),
]
MaybeReason = Reason | msgspec.UnsetType  # it may be missing, not blank
Node = Annotated[
    str,
    Meta(
        max_length=200, pattern=r"^[^\u0000]+$", description="A node's name, as `/v1/shards/{shard}/replicas` tells it."
    ),
]


class SetQuorum(msgspec.Struct, forbid_unknown_fields=True):
    """How many replicas must confirm before a commit returns. Omitted fields stay as they are."""

    quorum: Annotated[int, Meta(ge=0, le=100, description="0 is asynchronous.")]
    strict: Annotated[
        bool | None, Meta(description="Writes wait while fewer replicas follow; otherwise they go on with those.")
    ] = None
    synchronous_commit: Annotated[
        Literal["on", "remote_apply"] | None, Meta(description="What confirming means: flushed, or applied as well.")
    ] = None
    reason: MaybeReason = msgspec.UNSET


class Switchover(msgspec.Struct, forbid_unknown_fields=True):
    """A planned change of primary, to the candidate or else the best replica."""

    reason: Reason
    candidate: Node | None = None


class Failover(msgspec.Struct, forbid_unknown_fields=True):
    """Another primary, whatever the state of the old one."""

    candidate: Node
    reason: Reason


class Because(msgspec.Struct, forbid_unknown_fields=True):
    """Only a reason is needed."""

    reason: Reason


class SetApplyDelay(msgspec.Struct, forbid_unknown_fields=True):
    """How long a replica waits before it applies a commit; from a range, a time is chosen at random. "0ms" removes the
    delay."""

    # Checked by `apply_delay`, whose message says more.
    delay: Annotated[str, Meta(description=apply_delay.RULE, extra_json_schema={"pattern": DELAY})]
    reason: MaybeReason = msgspec.UNSET


class Spilled(msgspec.Struct, frozen=True):
    """A spill queue: increments in it, batches, and the age of the oldest in seconds."""

    increments: int
    batches: int
    age_seconds: int


class Shard(ShardStatus, frozen=True):
    """A shard at a glance, with its spill queues; null while the journal does not answer."""

    excess: Spilled | None = None
    stale: Spilled | None = None


class Shards(msgspec.Struct):
    """All shards."""

    results: list[Shard]
    next: str | None


class Replicas(msgspec.Struct):
    """All servers of a shard, the primary among them."""

    results: list[Replica]
    next: str | None


class Quorums(msgspec.Struct):
    """The write quorum of all shards."""

    results: list[Quorum]
    next: str | None


class Primary(msgspec.Struct):
    """The current primary."""

    shard: int
    primary: str


class Begun(msgspec.Struct):
    """Patroni's answer to the request."""

    shard: int
    node: str
    detail: str


class ApplyDelay(msgspec.Struct):
    """The delay in force."""

    shard: int
    node: str
    apply_delay_ms: int


TYPES: list[type] = [
    SetQuorum,
    Switchover,
    Failover,
    Because,
    SetApplyDelay,
    Shards,
    Replicas,
    Quorum,
    Quorums,
    Primary,
    Begun,
    ApplyDelay,
]
