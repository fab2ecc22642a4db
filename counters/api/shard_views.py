"""The calls on shards and their servers, for keys with the scope `staff`."""

from __future__ import annotations

from contextlib import suppress
from typing import ClassVar, TypeVar

import msgspec
from django.conf import settings
from redis.exceptions import RedisError
from rest_framework.request import Request

from counters.api import media, shard_requests, shard_schema
from counters.api.authentication import Caller
from counters.api.base import ApiView, Response
from counters.api.problems import Problem, invalid
from counters.api.shard_requests import Shard, Spilled
from counters.api.views import listed
from counters.models import Scope
from counters.operators import journal_entries
from counters.reading import reads
from replication import apply_delay, patroni, status, steering
from replication.interventions import Order
from replication.status import ShardStatus
from replication.steering import Quorum
from sharding import topology
from sharding.lanes import EXCESS, SPILL, STALE, Queue

T = TypeVar("T")


class ShardApiView(ApiView):
    """Every call, including a read, needs the scope `staff`."""

    scopes: ClassVar = dict.fromkeys(("GET", "PUT", "POST"), Scope.STAFF)


def shard_of(text: str) -> int:
    """The number of a shard. Raises `Problem` 404."""
    shard = topology.shard_named(text)
    if shard is None:
        count = settings.TALLY.shard_count
        raise Problem(404, "unknown-shard", f"There is no shard {text[:20]!r}: there are {count}, numbered from 0 on.")
    return shard


def body(request: Request, kind: type[T]) -> T:
    """The JSON body. Raises `Problem` 400, 413, 415."""
    return media.decode(media.json_body(request._request), kind)


def order(request: Request, reason: str | msgspec.UnsetType) -> Order:
    """Who asks, and why."""
    caller = request.user
    by = f"API key {caller.name} ({caller.prefix})" if isinstance(caller, Caller) else "unknown"
    return Order(by, "" if reason is msgspec.UNSET else reason)


class ShardsView(ShardApiView):
    """All shards."""

    @shard_schema.shards
    def get(self, _request: Request) -> Response:
        """Every shard: how many slots it owns, its primary, how many replicas follow, its write quorum."""
        return Response({"results": [_with_queues(one) for one in status.shards()], "next": None})


def _with_queues(one: ShardStatus) -> Shard:
    """Add what is in its spill queues, if the journal answers."""
    found: dict[Queue, Spilled] = {}
    with suppress(RedisError):
        for queue in SPILL:
            held = journal_entries.spilled(one.shard, queue)
            found[queue] = Spilled(held.increments, held.depth, int(held.age.total_seconds()))
    return Shard(**msgspec.structs.asdict(one), excess=found.get(EXCESS), stale=found.get(STALE))


class ReplicasView(ShardApiView):
    """The servers of a shard."""

    @shard_schema.replicas
    def get(self, _request: Request, shard: str) -> Response:
        """Every server of a shard: role, state, timeline, position, lag, sync state, uptime, and whether its data equal
        the primary's."""
        return Response({"results": status.replicas(shard_of(shard)), "next": None})


class ReplicaCountersView(ShardApiView):
    """The counters of one server."""

    @shard_schema.replica_counters
    def get(self, request: Request, shard: str, node: str) -> Response:
        """What this very server has, be it the primary or a replica that lags: all counters with a prefix, page by
        page."""
        number = shard_of(shard)
        server = patroni.node_named(number, node)
        return listed(request, lambda prefix, **of: reads.listing_on(number, server, prefix, **of))


class QuorumView(ShardApiView):
    """The write quorum of a shard."""

    @shard_schema.quorum
    def get(self, _request: Request, shard: str) -> Response:
        """The requested quorum, and what is in force."""
        return Response(steering.get_quorum(shard_of(shard)))

    @shard_schema.set_quorum
    def put(self, request: Request, shard: str) -> Response:
        """Set how many replicas must confirm before a commit returns. After a 200 it is in force, without a restart. It
        is stored and survives failovers."""
        found = set_quorum(request, [shard_of(shard)])[0]
        return Response(found, 200 if found.in_force else 202)


class QuorumsView(ShardApiView):
    """The write quorum of every shard."""

    @shard_schema.quorums
    def get(self, _request: Request) -> Response:
        """The requested quorum, and what is in force, on every shard."""
        return Response(
            {"results": [steering.get_quorum(shard) for shard in range(settings.TALLY.shard_count)], "next": None}
        )

    @shard_schema.set_quorums
    def put(self, request: Request) -> Response:
        """Set the quorum of every shard, if each has enough replicas."""
        found = set_quorum(request, list(range(settings.TALLY.shard_count)))
        return Response({"results": found, "next": None}, 200 if all(one.in_force for one in found) else 202)


def set_quorum(request: Request, shards: list[int]) -> list[Quorum]:
    """Set the quorum that the body requests. Raises `Problem`, `Refused`, `PatroniUnavailable`, `ShardUnavailable`."""
    asked = body(request, shard_requests.SetQuorum)
    return steering.set_quorum(
        shards,
        asked.quorum,
        order(request, asked.reason),
        strict=asked.strict,
        synchronous_commit=asked.synchronous_commit,
    )


class SwitchoverView(ShardApiView):
    """A planned change of primary."""

    @shard_schema.switchover
    def post(self, request: Request, shard: str) -> Response:
        """Let a replica take over from the primary. Writes are accepted and reads answered meanwhile; the old primary
        follows the new one."""
        number, asked = shard_of(shard), body(request, shard_requests.Switchover)
        primary = steering.switchover(number, asked.candidate, order(request, asked.reason))
        return Response({"shard": number, "primary": primary})


class FailoverView(ShardApiView):
    """Another primary, whatever the state of the old one."""

    @shard_schema.failover
    def post(self, request: Request, shard: str) -> Response:
        """Make this replica the primary. For use when there is none. Commits that it lacks are applied again from the
        journal."""
        number, asked = shard_of(shard), body(request, shard_requests.Failover)
        primary = steering.failover(number, asked.candidate, order(request, asked.reason))
        return Response({"shard": number, "primary": primary})


class RejoinView(ShardApiView):
    """A replica that does not follow."""

    @shard_schema.rejoin
    def post(self, request: Request, shard: str, node: str) -> Response:
        """Restart a replica's PostgreSQL. It then follows the primary again, after `pg_rewind` if its data had
        diverged."""
        number, asked = shard_of(shard), body(request, shard_requests.Because)
        detail = steering.rejoin(number, node, order(request, asked.reason))
        return Response({"shard": number, "node": node, "detail": detail})


class ReinitialiseView(ShardApiView):
    """A replica whose data cannot be trusted."""

    @shard_schema.reinitialise
    def post(self, request: Request, shard: str, node: str) -> Response:
        """Delete a replica's data and copy them again from the primary."""
        number, asked = shard_of(shard), body(request, shard_requests.Because)
        detail = steering.reinitialise(number, node, order(request, asked.reason))
        return Response({"shard": number, "node": node, "detail": detail}, 202)


class ApplyDelayView(ShardApiView):
    """How long a replica waits before it applies a commit."""

    @shard_schema.set_apply_delay
    def put(self, request: Request, shard: str, node: str) -> Response:
        """Delay a replica, to demonstrate lag. It still flushes at once: a quorum waits for the delay only with
        `remote_apply`."""
        number, asked = shard_of(shard), body(request, shard_requests.SetApplyDelay)
        try:
            delay = apply_delay.ApplyDelay.parse(asked.delay)
        except ValueError as error:
            raise invalid("delay", str(error)) from error
        milliseconds = steering.set_apply_delay(number, node, delay, order(request, asked.reason))
        return Response({"shard": number, "node": node, "apply_delay_ms": milliseconds})
