"""Lanes and their spill queues in the admin: what waits, who applies it, and waking what waits (`manage.py lanes --wake`)."""

from __future__ import annotations

from typing import Any, ClassVar

from django.conf import settings
from django.http import HttpRequest, HttpResponse

from counters.admin.filters import Filter, LaneFilter, SpillFilter
from counters.admin.listing import Page
from counters.admin.operations import Action, OperationsAdmin
from counters.operators import journal_entries, lanes
from counters.operators.lanes import Row, SpillRow
from sharding.lanes import SPILL


class LanesAdmin(OperationsAdmin):
    """A row for each lane in force, and for one from before that still has batches."""

    filters = LaneFilter
    template = "admin/counters/operations/lanes.html"
    things: ClassVar[dict[str, Action]] = {"wake": Action("Wake: send the task now", "Woken", lanes.wake)}

    def changelist_view(self, request: HttpRequest, extra_context: dict[str, Any] | None = None) -> HttpResponse:
        """The list, which says when the relay does what the action does."""
        return super().changelist_view(request, {"patience": settings.TALLY.overdue_seconds, **(extra_context or {})})

    def found(self, request: HttpRequest, form: Filter) -> tuple[Page[Row], dict[str, Any]]:  # noqa: ARG002
        """The lanes of the chosen shards."""
        rows = lanes.overview(form.shards())
        if form.cleaned_data["waiting"]:
            rows = [one for one in rows if one.batches or one.set_aside]
        return Page(rows, None, []), {}

    def asking_for(self, id: str) -> dict[str, str]:
        """By shard."""
        return {"shard": id.partition(".")[0]}


class SpillQueueAdmin(OperationsAdmin):
    """A row for each spill queue that has entries; and sums by shard."""

    filters = SpillFilter
    template = "admin/counters/operations/spill_queues.html"
    things: ClassVar[dict[str, Action]] = {"wake": Action("Wake: send the task now", "Woken", lanes.wake)}

    def found(self, request: HttpRequest, form: Filter) -> tuple[Page[SpillRow], dict[str, Any]]:  # noqa: ARG002
        """The queues of the chosen shards and kind."""
        queues = [queue for queue in SPILL if form.cleaned_data["queue"] in {"", queue}]
        sums = [
            (shard, queue, journal_entries.spilled(shard, queue), lanes.limit_of(queue))
            for shard in form.shards()
            for queue in queues
        ]
        rows = lanes.overview(form.shards(), queues)
        return Page(lanes.spill_queues(row for row in rows if row.batches or row.set_aside), None, []), {"sums": sums}

    def asking_for(self, id: str) -> dict[str, str]:
        """By shard and kind."""
        lane, _, queue = id.partition(":")
        return {"shard": lane.partition(".")[0], "queue": queue}
