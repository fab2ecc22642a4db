"""The load balancer in the admin: how it spreads requests over the API processes."""

from __future__ import annotations

from functools import partial
from typing import Any, ClassVar

from django.http import HttpRequest

from counters.admin.filters import Filter
from counters.admin.listing import Page
from counters.admin.operations import Action
from counters.admin.replicas import SteeringAdmin
from counters.operators import balancing
from counters.operators.balancing import NotFollowed, Row
from replication.interventions import Order
from runtime.balancing import LEAST_CONN, ROUND_ROBIN


def _use(strategy: str, _id: str, order: Order) -> str:
    try:
        balancing.use(strategy, order)
    except NotFollowed as error:
        return f"{error}."
    return ""


class LoadBalancerAdmin(SteeringAdmin):
    """One row, or none where nobody tells what the load balancer does."""

    filters = Filter
    template = "admin/counters/operations/balancing.html"
    things: ClassVar[dict[str, Action]] = {
        ROUND_ROBIN: Action(
            "Spread in turn (round robin)",
            "Round robin",
            partial(_use, ROUND_ROBIN),
            asks="Shall each API process get requests in turn?",
        ),
        LEAST_CONN: Action(
            "Spread by load (least connections)",
            "Least connections",
            partial(_use, LEAST_CONN),
            asks="Shall each request go to the API process that answers the fewest now?",
        ),
    }

    def found(self, request: HttpRequest, form: Filter) -> tuple[Page[Row], dict[str, Any]]:  # noqa: ARG002
        """The load balancer."""
        state = balancing.look()
        return Page([] if state is None else [Row(state)], None, []), {}

    def asking_for(self, id: str) -> dict[str, str]:  # noqa: ARG002
        """There is one."""
        return {}
