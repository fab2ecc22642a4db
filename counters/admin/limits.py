"""The limits of callers in the admin: one row. A change is in force on every process within seconds."""

from __future__ import annotations

from django.contrib import admin
from django.http import HttpRequest

from counters.models import Limits


class LimitsAdmin(admin.ModelAdmin):  # type: ignore[type-arg]
    """Quotas of an API key's own are on the key's page."""

    list_display = ("__str__", "anonymous_rate", "api_key_rate", "api_key_increments_rate")
    fields = ("anonymous_rate", "api_key_rate", "api_key_increments_rate")

    def has_add_permission(self, request: HttpRequest) -> bool:
        """Only while there is no row: the settings are in force then."""
        return super().has_add_permission(request) and not Limits.objects.exists()

    def has_delete_permission(self, request: HttpRequest, obj: Limits | None = None) -> bool:  # noqa: ARG002
        """Never: an empty field leaves the setting in force."""
        return False
