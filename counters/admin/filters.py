"""Filters of the operators' pages, as forms over the query string, and the form that asks for a reason."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, TypeVar
from uuid import UUID

import msgspec
from django import forms
from django.conf import settings

from counters.admin.forms import WriteForm
from counters.apply import dead_letters
from counters.keys import CHARACTERS_RULE, is_prefix
from counters.outcome import REASONS
from counters.write_id import WriteId
from sharding.lanes import SPILL

T = TypeVar("T")


def _choice(anything: str, values: Iterable[Any], label: str) -> forms.ChoiceField:
    choices = [("", anything), *((str(value), str(value)) for value in values)]
    return forms.ChoiceField(required=False, choices=choices, label=label)


def _shards() -> list[tuple[str, str]]:
    return [("", "all"), *((str(shard), str(shard)) for shard in range(settings.TALLY.shard_count))]


def _shard(label: str = "Shard") -> forms.ChoiceField:
    return forms.ChoiceField(required=False, choices=_shards, label=label)


def _text(label: str, size: int) -> forms.CharField:
    return forms.CharField(
        required=False, strip=True, max_length=250, label=label, widget=forms.TextInput(attrs={"size": size})
    )


def name_field(label: str, size: int) -> forms.CharField:
    """A name, as it is written: without the browser's help."""
    attrs = {"size": size, "autocapitalize": "none", "spellcheck": "false"}
    return forms.CharField(required=False, strip=True, max_length=200, label=label, widget=forms.TextInput(attrs=attrs))


class Filter(forms.Form):
    """`after` is the place after which the page begins, as JSON. An unreadable value means the first page."""

    after = forms.CharField(required=False, max_length=600, widget=forms.HiddenInput)

    def shards(self) -> list[int]:
        """The chosen shard, or all."""
        asked = self.cleaned_data.get("shard", "")
        return [int(asked)] if asked else list(range(settings.TALLY.shard_count))

    def place(self, kind: type[T]) -> T | None:
        """The place in `after`, decoded as `kind` by msgspec; None if there is none or it is unreadable."""
        try:
            return msgspec.json.decode(self.cleaned_data["after"], type=kind)
        except msgspec.DecodeError:
            return None


class ReplicaFilter(Filter):
    """Servers by shard."""

    shard = _shard()


class JournalFilter(Filter):
    """Entries by shard and state, or one batch."""

    shard = _shard()
    state = forms.ChoiceField(
        required=False,
        label="State",
        choices=[
            ("", "in the journal"),
            ("queued", "queued"),
            ("waiting", "applied, waiting for replicas"),
            ("set aside", "set aside"),
        ],
    )
    id = _text("Batch", 34)

    def clean_id(self) -> UUID | None:
        text = self.cleaned_data["id"]
        try:
            return UUID(hex=text) if text else None
        except ValueError as error:
            raise forms.ValidationError("The id of a batch has 32 hexadecimal digits.") from error


class LaneFilter(Filter):
    """Lanes by shard, or those where something waits."""

    shard = _shard()
    waiting = forms.ChoiceField(
        required=False, label="Show", choices=[("", "all lanes"), ("yes", "lanes where batches wait")]
    )


class SpillFilter(Filter):
    """Spill queues by shard and kind."""

    shard = _shard()
    queue = _choice("all", SPILL, "Queue")


class DeadLetterFilter(Filter):
    """Messages by queue and by kind of reason."""

    queue = _choice("all", (), "Queue")
    kind = _choice("all", dead_letters.KINDS, "Reason")
    id = _text("Id", 34)

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        names = [queue.name for queue in settings.CELERY_TASK_QUEUES]
        self.fields["queue"] = _choice("all", names, "Queue")


class RejectedFilter(Filter):
    """Rejected operations by shard, reason and key or key prefix, or of one write."""

    shard = _shard()
    reason = _choice("all", REASONS, "Reason")
    match = forms.ChoiceField(required=False, label="Key", choices=[("", "starts with"), ("key", "is exactly")])
    key = forms.CharField(
        required=False, strip=True, max_length=200, label="", widget=forms.TextInput(attrs={"size": 24})
    )
    write = _text("Write id", 34)

    def clean_key(self) -> str:
        text: str = self.cleaned_data["key"]
        if text and not is_prefix(text):
            raise forms.ValidationError(f"A key has {CHARACTERS_RULE}.")
        return text

    def clean_write(self) -> WriteId | None:
        text = self.cleaned_data["write"]
        if not text:
            return None
        form = WriteForm({"id": text})
        if not form.is_valid() or max(form.cleaned_data["id"].shards) >= settings.TALLY.shard_count:
            raise forms.ValidationError("This is not an id that a write was answered with.")
        write: WriteId = form.cleaned_data["id"]
        return write


class ForwardedFilter(Filter):
    """Forwarded batches by source and target shard."""

    shard = _shard("From shard")
    to = _shard("To shard")


class ShardFilter(Filter):
    """One shard, or all."""

    shard = _shard()


class ReasonForm(forms.Form):
    """The reason for an action, which is logged."""

    reason = forms.CharField(
        strip=True,
        max_length=500,
        label="Reason",
        help_text="Why; it is kept in the history and in the log.",
        widget=forms.Textarea(attrs={"rows": 3, "cols": 60, "class": "vLargeTextField"}),
    )


def encoded(place: Any) -> str:
    """Encode a place for `Filter.after`."""
    return msgspec.json.encode(place).decode()
