"""Shards and their servers in the admin: their state, the actions on them, and the record of these actions, by whom and
why."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from datetime import timedelta
from functools import partial
from typing import Any, ClassVar

from django.conf import settings
from django.http import HttpRequest

from counters.admin import listing
from counters.admin.base import RecordsAdmin
from counters.admin.filters import Filter, ReplicaFilter
from counters.admin.listing import Page
from counters.admin.operations import Action, OperationsAdmin
from counters.operators import health
from replication import status, steering
from replication.interventions import Order
from replication.patroni import PatroniUnavailable, Refused
from replication.status import Replica, ShardStatus
from sharding import topology
from sharding.databases import ShardUnavailable


@dataclass(frozen=True, slots=True)
class Row:
    """A shard or a server, with its id in the admin."""

    pk: str
    shard: int
    of: Replica | ShardStatus

    @property
    def up(self) -> str | None:
        """How long a server has been up; None if unknown, or for a shard."""
        seconds = getattr(self.of, "uptime_seconds", None)
        return None if seconds is None else str(timedelta(seconds=int(seconds)))


def _try(steer: Callable[[], object]) -> str:
    """Call `steer`. Returns "" if it was done, or else why not."""
    try:
        steer()
    except (Refused, PatroniUnavailable, ShardUnavailable) as error:
        return f"{error}."
    return ""


def _shard_of(text: str) -> int:
    shard = topology.shard_named(text)
    if shard is None:
        raise Refused(f"there is no shard {text!r}")
    return shard


def _node(steer: Callable[[int, str, Order], object], id: str, order: Order) -> str:
    shard, _, name = id.partition("/")
    return _try(lambda: steer(_shard_of(shard), name, order))


def _quorum(number: int, id: str, order: Order) -> str:
    return _try(lambda: steering.set_quorum([_shard_of(id)], number, order))


def _strict(strict: bool, id: str, order: Order) -> str:
    def steer() -> None:
        shard = _shard_of(id)
        steering.set_quorum([shard], steering.get_quorum(shard).quorum, order, strict=strict)

    return _try(steer)


class SteeringAdmin(OperationsAdmin):
    """Passes each action an `Order`: who asks, and why."""

    def more(self, request: HttpRequest, reason: str) -> tuple[Order]:
        """The order."""
        return (Order(f"user {request.user.get_username()}", reason),)


class ShardAdmin(SteeringAdmin):
    """Shards at a glance, and their write quorum."""

    filters = ReplicaFilter
    template = "admin/counters/operations/shards.html"
    things: ClassVar[dict[str, Action]] = {
        **{
            f"quorum-{number}": Action(
                f"Write quorum {number}{'' if number else ' (asynchronous)'}",
                f"Write quorum {number}",
                partial(_quorum, number),
                asks=f"Shall each commit be confirmed by {number} replica{'' if number == 1 else 's'}?"
                if number
                else "Shall commits wait for no replica?",
            )
            for number in range(max(shard.replicas for shard in settings.TALLY.shards) + 1)
        },
        "strict": Action(
            "Quorum lost: writes wait",
            "Writes wait for the quorum",
            partial(_strict, True),
            asks="Shall writes wait when too few follow?",
        ),
        "lenient": Action(
            "Quorum lost: writes go on",
            "Writes go on without the quorum",
            partial(_strict, False),
            asks="Shall writes go on with the replicas that are left when too few follow?",
        ),
    }

    def found(self, request: HttpRequest, form: Filter) -> tuple[Page[Row], dict[str, Any]]:  # noqa: ARG002
        """The chosen shards, including those that do not answer."""
        wanted = form.shards()
        return Page(
            [Row(str(one.shard), one.shard, one) for one in status.shards() if one.shard in wanted], None, []
        ), {}

    def asking_for(self, id: str) -> dict[str, str]:
        """By its number."""
        return {"shard": id}


class ReplicaAdmin(SteeringAdmin):
    """The servers of the shards, primaries among them."""

    filters = ReplicaFilter
    template = "admin/counters/operations/replicas.html"
    things: ClassVar[dict[str, Action]] = {
        "switchover": Action(
            "Switch over to this node",
            "Switched over",
            partial(_node, steering.switchover),
            asks="Shall this replica take over from its primary?",
        ),
        "failover": Action(
            "Fail over to this node",
            "Failed over",
            partial(_node, steering.failover),
            asks="Shall this replica become the primary, whatever became of the old one?",
        ),
        "rejoin": Action(
            "Rejoin (restart PostgreSQL)",
            "Restarted",
            partial(_node, steering.rejoin),
            asks="Shall PostgreSQL of these replicas be restarted, to follow the primary again?",
        ),
        "reinitialise": Action(
            "Reinitialise",
            "Reinitialising",
            partial(_node, steering.reinitialise),
            asks="Shall the data of these replicas be deleted and copied from their primary anew?",
        ),
    }

    def found(self, request: HttpRequest, form: Filter) -> tuple[Page[Row], dict[str, Any]]:  # noqa: ARG002
        """The chosen shards' servers, by shard and name, and how many copies of the data there are."""

        def look(shard: int, _limit: int) -> list[Row]:
            try:
                return [Row(f"{shard}/{one.node}", shard, one) for one in status.replicas(shard)]
            except PatroniUnavailable as error:
                raise ShardUnavailable(shard, str(error)) from error

        redundancy = health.look().result().redundancy
        return listing.page(form.shards(), look, place=lambda row: row.shard), {"redundancy": redundancy}

    def asking_for(self, id: str) -> dict[str, str]:
        """By its shard."""
        return {"shard": id.partition("/")[0]}


class InterventionAdmin(RecordsAdmin):
    """The record of what operators asked of servers; read-only."""

    change_list_template = "admin/counters/operations/interventions.html"
    list_display = ("when", "shard", "action", "node", "by", "reason", "outcome")
    search_fields = ("=shard", "action", "node", "by", "reason", "outcome")
    search_help_text = "A shard's number, or a part of action, node, by, reason or outcome."
