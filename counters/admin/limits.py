"""The limits in the admin: those of callers in one row, where a change is in force on every process within seconds; beside it
what is in force now, the keys with quotas of their own, and the limits of settings."""

from __future__ import annotations

from typing import Any

from django.contrib import admin
from django.db.models import Q
from django.http import HttpRequest, HttpResponse

from counters.models import ApiKey, Limits
from counters.operators import limits

_MOST_KEYS = 100  # with quotas of their own, on the page


class LimitsAdmin(admin.ModelAdmin):  # type: ignore[type-arg]
    """Quotas of an API key's own are on the key's page."""

    change_list_template = "admin/counters/operations/limits.html"
    list_display = ("__str__", "anonymous_rate", "api_key_rate", "api_key_increments_rate")
    fields = ("anonymous_rate", "api_key_rate", "api_key_increments_rate")

    def changelist_view(self, request: HttpRequest, extra_context: dict[str, Any] | None = None) -> HttpResponse:
        """What is in force, and why."""
        own = Q(requests_rate__isnull=False) | Q(increments_rate__isnull=False)
        more = {
            "title": "Limits and quotas",
            "in_force": limits.of_callers(),
            "keys": ApiKey.objects.filter(own, revoked=False).order_by("name")[:_MOST_KEYS],
            "settings": limits.of_settings(),
            "row": Limits.objects.first(),
            "can_change": self.has_change_permission(request),
        }
        return super().changelist_view(request, {**more, **(extra_context or {})})

    def has_add_permission(self, request: HttpRequest) -> bool:
        """Only while there is no row: the settings are in force then."""
        return super().has_add_permission(request) and not Limits.objects.exists()

    def has_delete_permission(self, request: HttpRequest, obj: Limits | None = None) -> bool:  # noqa: ARG002
        """Never: an empty field leaves the setting in force."""
        return False
