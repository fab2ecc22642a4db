"""The load balancer for operators: how it spreads requests, whom it leaves out, and ordering another strategy.

The local cluster's supervisor tells and follows (`cluster.front`). Elsewhere nobody does.
"""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass

import msgspec

from replication import interventions
from replication.interventions import Order
from runtime import balancing, polling, redis
from runtime.balancing import State

_FOLLOWED_SECONDS = 10.0  # for the supervisor to bring an order into force


@dataclass(frozen=True, slots=True)
class Row:
    """The one load balancer, for the admin."""

    of: State
    pk: str = "nginx"


class NotFollowed(Exception):
    """Nobody brings the strategy into force."""


def look() -> State | None:
    """What is in force; None if nobody tells, or in another version's words. Raises `RedisError`."""
    found = redis.journal().get(balancing.STATE)
    with suppress(msgspec.MsgspecError):
        return None if found is None else balancing.decoded(found)
    return None


def use(strategy: str, order: Order) -> None:
    """Have the load balancer use another strategy. Raises `NotFollowed`, `RedisError`."""
    with interventions.recorded(None, f"balance by {strategy}", order) as record:
        redis.journal().set(balancing.ORDER, strategy, ex=balancing.ORDER_SECONDS)

        def is_in_force() -> bool:
            state = look()
            return state is not None and state.strategy == strategy

        if not polling.until(is_in_force, _FOLLOWED_SECONDS, pause=0.1):
            raise NotFollowed("nobody follows: the load balancer is not one of the local cluster, or does not run")
        record.outcome = "in force"
