"""The admin: who likes an item, what a user likes, and removals of users, with how far each is."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any, NamedTuple

from django import forms
from django.contrib import admin
from django.http import HttpRequest

from counters.admin.base import ViewsAdmin
from counters.admin.filters import Filter, name_field
from counters.admin.listing import PAGE, Page
from counters.admin.operations import OperationsAdmin
from counters.reading import reads
from likes import reading
from likes.models import Like, Removal
from likes.names import NAME_RULE, TYPE_RULE, count_key, is_name, is_type, liker_key
from likes.reading import FIRST, Pair, Place
from sharding import topology
from sharding.databases import ShardUnavailable


class LikeFilter(Filter):
    """An item, as `TYPE/ITEM`, a user, or both."""

    item = name_field("Item", 34)
    user = name_field("User", 24)

    def clean_item(self) -> str:
        text: str = self.cleaned_data["item"]
        kind, _, name = text.partition("/")
        if text and not (is_type(kind) and is_name(name)):
            raise forms.ValidationError(
                f"An item is written as TYPE/ITEM: the type has {TYPE_RULE}; the item {NAME_RULE}."
            )
        return text

    def clean_user(self) -> str:
        text: str = self.cleaned_data["user"]
        if text and not is_name(text):
            raise forms.ValidationError(f"A user has {NAME_RULE}.")
        return text


class Row(NamedTuple):
    """A like: an item, as `TYPE/ITEM`, its user, and since when."""

    item: str
    user: str
    since: datetime


@admin.register(Like)
class LikeAdmin(OperationsAdmin):
    """Likes of an item or of a user, the newest first. Read-only: `likes.api` changes them."""

    filters = LikeFilter
    template = "admin/likes/likes.html"

    def found(self, request: HttpRequest, form: Filter) -> tuple[Page[Row], dict[str, Any]]:  # noqa: ARG002
        """Likes, and how many the item has."""
        item, user = form.cleaned_data["item"], form.cleaned_data["user"]
        if not item and not user:
            return Page([], None, []), {}
        shard = topology.current().shard_of(count_key(item) if item else liker_key(user))
        more: dict[str, Any] = {"item": item, "liker": user}
        try:
            page = _pair(item, user) if item and user else _many(item, user, form.place(Place) or FIRST)
        except ShardUnavailable:
            return Page([], None, [shard]), {**more, "unread": True}
        if item:
            more["count"] = reads.get(count_key(item)).value
        return page, more


def _pair(item: str, user: str) -> Page[Row]:
    row = reading.states([Pair(item, user)])[Pair(item, user)]
    return Page([Row(item, user, _time(row.since))] if row.liked else [], None, [])


def _many(item: str, user: str, after: Place) -> Page[Row]:
    """A page of an item's likers, or of what a user likes."""
    found = reading.likers(item, after, PAGE + 1) if item else reading.liked(user, after, PAGE + 1)
    page = found[:PAGE]
    rows = [Row(item or one.name, one.name if item else user, _time(one.at)) for one in page]
    return Page(rows, page[-1] if len(found) > PAGE else None, [])


def _time(micros: int) -> datetime:
    return datetime.fromtimestamp(micros / 1e6, UTC)


@admin.register(Removal)
class RemovalAdmin(ViewsAdmin):
    """Asked for by the API; nothing can be changed here."""

    list_display = ("id", "user", "state", "done", "total", "detail", "by", "asked_at", "ended_at")
    list_filter = ("state",)
    search_fields = ("=id", "=user")

    def has_change_permission(self, request: HttpRequest, obj: Removal | None = None) -> bool:  # noqa: ARG002
        """Never."""
        return False
