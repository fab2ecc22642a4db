"""Dead letters in the admin: messages that no task could take. Operators send them again or discard them."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, ClassVar

from django.http import HttpRequest

from counters.admin import listing
from counters.admin.filters import DeadLetterFilter, Filter
from counters.admin.listing import Page
from counters.admin.operations import Action, OperationsAdmin
from counters.apply import dead_letters
from counters.apply.dead_letters import DeadLetter

SHOWN = 200  # characters of the arguments


@dataclass(frozen=True, slots=True)
class Row:
    """A message on the page."""

    pk: str
    letter: DeadLetter

    @property
    def at(self) -> datetime:
        """When it was stored."""
        return datetime.fromtimestamp(self.letter.at / 1e6, UTC)

    @property
    def arguments(self) -> str:
        """The arguments, shortened."""
        text = self.letter.arguments
        return text if len(text) <= SHOWN else f"{text[:SHOWN]}… ({len(text):,} characters)"


def _retry(id: str) -> str:
    return (
        ""
        if dead_letters.retry(id)
        else f"{id} is gone, or cannot be sent: its arguments or its queue are none that Celery knows."
    )


def _discard(id: str) -> str:
    return "" if dead_letters.discard(id) else f"{id} is gone."


class DeadLetterAdmin(OperationsAdmin):
    """Messages, the newest first."""

    filters = DeadLetterFilter
    template = "admin/counters/operations/dead_letters.html"
    things: ClassVar[dict[str, Action]] = {
        "retry": Action("Send again", "Sent again", _retry),
        "discard": Action("Discard", "Discarded", _discard, asks="Discard these messages for ever?"),
    }

    def found(self, request: HttpRequest, form: Filter) -> tuple[Page[Row], dict[str, Any]]:  # noqa: ARG002
        """Rows. All shards' messages are in one hash, in the journal's Redis."""
        asked, before = form.cleaned_data, form.place(str)
        ids = [asked["id"]] if asked["id"] else [id for id in dead_letters.ids() if before is None or id < before]

        def look(_shard: int, limit: int) -> list[Row]:
            return [Row(id, letter) for id, letter in dead_letters.get_many(ids[:limit]).items()]

        def wanted(row: Row) -> bool:
            kind = dead_letters.kind_of(row.letter.reason)
            return asked["queue"] in {"", row.letter.queue} and asked["kind"] in {"", kind}

        filtered = wanted if asked["queue"] or asked["kind"] else None
        return listing.page([0], look, place=lambda row: row.pk, wanted=filtered, reverse=True), {}
