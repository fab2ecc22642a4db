"""The components in the admin: what each Redis, each PostgreSQL server and the broker does now. Read-only."""

from __future__ import annotations

from typing import Any

from django.http import HttpRequest

from counters.admin.filters import Filter
from counters.admin.listing import Page
from counters.admin.operations import OperationsAdmin
from counters.operators import statistics
from counters.operators.statistics import Statistics


class ComponentAdmin(OperationsAdmin):
    """A row for each component, also for one that does not answer."""

    filters = Filter
    template = "admin/counters/operations/components.html"

    def found(self, request: HttpRequest, form: Filter) -> tuple[Page[Statistics], dict[str, Any]]:  # noqa: ARG002
        """The statistics, about a second old at most."""
        return Page(statistics.look().result(), None, []), {}
