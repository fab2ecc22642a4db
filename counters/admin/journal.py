"""The journal in the admin: how full it is, its entries, and the batches set aside. Operators can dispatch, retry and
discard them."""

from __future__ import annotations

from typing import Any, ClassVar
from uuid import UUID

from django.conf import settings
from django.contrib import messages
from django.http import HttpRequest

from counters.admin import listing
from counters.admin.filters import Filter, JournalFilter
from counters.admin.listing import Page
from counters.admin.operations import Action, OperationsAdmin
from counters.intake import dispatch
from counters.intake.journal import Journal
from counters.intake.set_aside import SetAsideBatches
from counters.operators import applied_records, journal_entries
from counters.operators.journal_entries import Held
from counters.operators.lanes import BROKER_AWAY
from sharding.lanes import Lane


def _named(id: str) -> tuple[Lane, UUID] | None:
    """Parse a row's id into its lane and batch; None if it is not valid."""
    lane, _, batch = id.partition("-")
    try:
        named = Lane.parse(lane), UUID(hex=batch)
    except ValueError:
        return None
    return named if 0 <= named[0].shard < settings.TALLY.shard_count else None


def _again(id: str) -> str:
    named = _named(id)
    if not named or Journal(named[0]).position(named[1]) is None:
        return f"{id} is not in the journal (any more): it was applied and replicated, or set aside."
    return "" if dispatch.send(named[0]) else BROKER_AWAY


def _retry(id: str) -> str:
    named = _named(id)
    if not named or SetAsideBatches(named[0]).retry(named[1]) is None:
        return f"{id} is not set aside (any more)."
    dispatch.send(named[0])  # if the broker is down, a worker finds it
    return ""


def _discard(id: str) -> str:
    named = _named(id)
    return "" if named and SetAsideBatches(named[0]).discard(named[1]) else f"{id} is not set aside (any more)."


class JournalAdmin(OperationsAdmin):
    """Entries, the oldest first; batches set aside, by id."""

    filters = JournalFilter
    template = "admin/counters/operations/journal.html"
    things: ClassVar[dict[str, Action]] = {
        "again": Action("Dispatch again", "Dispatched again", _again),
        "retry": Action("Retry what was set aside", "Put back into the journal", _retry),
        "discard": Action(
            "Discard what was set aside",
            "Discarded",
            _discard,
            asks="Discard these batches for ever? Their increments are not counted then.",
        ),
    }

    def found(self, request: HttpRequest, form: Filter) -> tuple[Page[Held], dict[str, Any]]:
        """Rows, and how full each shard's journal is."""
        page = _page(form)
        page = Page(journal_entries.measured(page.rows), page.following, page.away)
        if silent := sorted({row.shard for row in page.rows if row.state == "unknown"}):
            text = f"No server of shard {', '.join(map(str, silent))} answers now: which of its entries are applied is not known."
            self.message_user(request, text, messages.WARNING)
        context: dict[str, Any] = {
            "summaries": [journal_entries.summary(shard) for shard in range(settings.TALLY.shard_count)]
        }
        if (asked := form.cleaned_data["id"]) and not page.rows:
            context["first_write"] = applied_records.write_of(asked, form.shards())
        return page, context

    def asking_for(self, id: str) -> dict[str, str]:
        """By shard and batch."""
        lane, _, batch = id.partition("-")
        return {"shard": lane.partition(".")[0], "id": batch}


def _page(form: Filter) -> Page[Held]:
    asked = form.cleaned_data
    if asked["id"]:
        return listing.page(
            form.shards(), lambda shard, _: journal_entries.find(shard, asked["id"]), place=lambda row: row.lane
        )
    if asked["state"] == "set aside":
        before = form.place(tuple[UUID, Lane])
        return listing.page(
            form.shards(),
            lambda shard, limit: journal_entries.set_aside(shard, before=before, limit=limit),
            place=lambda row: (row.batch, row.lane),
            reverse=True,
        )
    after = form.place(tuple[int, Lane]) or (0, Lane(0, 0))
    return listing.page(
        form.shards(),
        lambda shard, limit: journal_entries.entries(shard, after=after, limit=limit),
        place=lambda row: (row.position, row.lane),
        wanted=(lambda row: row.state in {asked["state"], "unknown"}) if asked["state"] else None,
    )
