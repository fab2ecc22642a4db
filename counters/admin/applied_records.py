"""Rejected operations and forwarded batches in the admin, as the shards recorded them; read-only."""

from __future__ import annotations

from typing import Any

from django.conf import settings
from django.http import HttpRequest

from counters.admin import listing
from counters.admin.filters import Filter, ForwardedFilter, RejectedFilter
from counters.admin.listing import Page
from counters.admin.operations import OperationsAdmin
from counters.operators import applied_records
from counters.operators.applied_records import Forwarded, ForwardedPlace, Rejected, RejectedPlace
from counters.outcome import REASONS


class RejectedOperationAdmin(OperationsAdmin):
    """Rejected operations, the newest first."""

    filters = RejectedFilter
    template = "admin/counters/operations/rejected.html"

    def found(self, request: HttpRequest, form: Filter) -> tuple[Page[tuple[Rejected, str]], dict[str, Any]]:  # noqa: ARG002
        """Rows, each with its reason in words."""
        asked, after = form.cleaned_data, form.place(RejectedPlace) or RejectedPlace()

        def look(shard: int, limit: int) -> list[Rejected]:
            if asked["write"]:
                return applied_records.rejected_of(asked["write"], shard, after=after, limit=limit)
            return applied_records.rejected(shard, after=after, limit=limit)

        def wanted(row: Rejected) -> bool:
            key = row.place.key
            fits = key == asked["key"] if asked["match"] == "key" and asked["key"] else key.startswith(asked["key"])
            return fits and asked["reason"] in {"", row.reason}

        filtered = wanted if asked["key"] or asked["reason"] else None
        page = listing.page(form.shards(), look, place=lambda row: row.place, wanted=filtered, reverse=True)
        return Page([(row, REASONS.get(row.reason, row.reason)) for row in page.rows], page.following, page.away), {}


class ForwardedBatchAdmin(OperationsAdmin):
    """Forwarded batches, the newest first."""

    filters = ForwardedFilter
    template = "admin/counters/operations/forwarded.html"

    def found(self, request: HttpRequest, form: Filter) -> tuple[Page[tuple[Forwarded, str]], dict[str, Any]]:  # noqa: ARG002
        """Rows, each with whether the other shard has applied it."""
        asked, after = form.cleaned_data, form.place(ForwardedPlace) or ForwardedPlace()
        page = listing.page(
            form.shards(),
            lambda shard, limit: applied_records.forwarded(shard, after=after, limit=limit),
            place=lambda row: row.place,
            wanted=(lambda row: row.place.to == int(asked["to"])) if asked["to"] else None,
            reverse=True,
        )
        return Page(list(zip(page.rows, _applied_there(page.rows), strict=True)), page.following, page.away), {}


def _applied_there(rows: list[Forwarded]) -> list[str]:
    by_shard = {
        shard: applied_records.applied(shard, [row.forwarded_id for row in rows if row.place.to == shard])
        for shard in {row.place.to for row in rows}
        if shard < settings.TALLY.shard_count
    }

    def told(row: Forwarded) -> str:
        there = by_shard.get(row.place.to)
        return "not known" if there is None else "yes" if (row.forwarded_id, row.place.to_lane) in there else "not yet"

    return [told(row) for row in rows]
