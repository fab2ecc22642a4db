"""Reconciliation in the admin: the results of each shard's last round, and a new round on demand."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

from django.http import HttpRequest

from counters.admin.filters import Filter, ShardFilter
from counters.admin.listing import Page
from counters.admin.operations import Action, OperationsAdmin
from counters.reconciliation import rounds
from counters.reconciliation.rounds import Report
from sharding import topology

WAIT_SECONDS = 20.0


@dataclass(frozen=True)
class Row:
    """A shard and its last report, if there is one."""

    shard: int
    report: Report | None

    @property
    def pk(self) -> int:
        return self.shard


def _compare(id: str) -> str:
    shard = topology.shard_named(id)
    if shard is None:
        return f"There is no shard {id!r}."
    found = rounds.wait(shard, rounds.request([shard]), WAIT_SECONDS)
    return "" if found else f"Shard {id}: asked for, but not ended within {WAIT_SECONDS:g} s; look again later."


class ReconciliationAdmin(OperationsAdmin):
    """A row for each shard."""

    filters = ShardFilter
    template = "admin/counters/operations/reconciliation.html"
    things: ClassVar[dict[str, Action]] = {"compare": Action("Compare now", "Compared", _compare)}

    def found(self, request: HttpRequest, form: Filter) -> tuple[Page[Row], dict[str, Any]]:  # noqa: ARG002
        """The last reports."""
        return Page([Row(shard, rounds.last(shard)) for shard in form.shards()], None, []), {}

    def asking_for(self, id: str) -> dict[str, str]:
        """By shard."""
        return {"shard": id}
