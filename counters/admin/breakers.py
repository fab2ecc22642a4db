"""The circuit breakers in the admin: their states, and opening and closing them by hand."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any, ClassVar

from django.contrib import messages
from django.http import HttpRequest
from redis.exceptions import RedisError

from counters.admin.filters import Filter
from counters.admin.listing import Page
from counters.admin.operations import JOURNAL_AWAY, Action
from counters.admin.replicas import SteeringAdmin
from counters.operators import breakers
from counters.operators.breakers import Row, UnknownBreaker
from replication.interventions import Order

_MINUTES = 10


def _try(act: Callable[[str, Order], None], name: str, order: Order) -> str:
    try:
        act(name, order)
    except UnknownBreaker as error:
        return f"{error}."
    return ""


class BreakerAdmin(SteeringAdmin):
    """A row for each breaker."""

    filters = Filter
    template = "admin/counters/operations/breakers.html"
    things: ClassVar[dict[str, Action]] = {
        "open": Action(
            "Open, until it is closed",
            "Opened",
            partial(_try, breakers.hold),
            asks="Shall all calls of these components be refused until somebody closes their breakers?",
        ),
        "open-for": Action(
            f"Open for {_MINUTES} minutes",
            f"Opened for {_MINUTES} minutes",
            partial(_try, partial(breakers.hold, seconds=60.0 * _MINUTES)),
            asks=f"Shall all calls of these components be refused for {_MINUTES} minutes?",
        ),
        "close": Action(
            "Close",
            "Closed",
            partial(_try, breakers.close),
            asks="Shall calls of these components be let through again?",
        ),
    }

    def found(self, request: HttpRequest, form: Filter) -> tuple[Page[Row], dict[str, Any]]:  # noqa: ARG002
        """All of them, also while nobody can say what is held open."""
        try:
            return Page(breakers.overview(), None, []), {}
        except RedisError:
            self.message_user(request, f"{JOURNAL_AWAY}: whether one is held open is not known.", messages.WARNING)
            return Page(breakers.unheld(), None, []), {}

    def asking_for(self, id: str) -> dict[str, str]:  # noqa: ARG002
        """The list has all."""
        return {}
