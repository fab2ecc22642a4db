"""The admin: removals of users, and how far each is."""

from __future__ import annotations

from django.contrib import admin
from django.http import HttpRequest

from counters.admin.base import ViewsAdmin
from likes.models import Removal


@admin.register(Removal)
class RemovalAdmin(ViewsAdmin):
    """Asked for by the API; nothing can be changed here."""

    list_display = ("id", "user", "state", "done", "total", "detail", "by", "asked_at", "ended_at")
    list_filter = ("state",)
    search_fields = ("=id", "=user")

    def has_change_permission(self, request: HttpRequest, obj: Removal | None = None) -> bool:  # noqa: ARG002
        """Never."""
        return False
