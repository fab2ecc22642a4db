"""API keys in the admin: created (and shown once), changed, revoked; never deleted. Hashes are not shown."""

from __future__ import annotations

from typing import Any

from django.contrib import admin, messages
from django.db.models import QuerySet
from django.http import HttpRequest
from rest_framework_api_key.admin import APIKeyModelAdmin

from counters.admin.forms import ApiKeyForm
from counters.models import ApiKey, Scope


class ApiKeyAdmin(APIKeyModelAdmin):
    """Keys by name; revoking is an action."""

    form = ApiKeyForm
    list_display: tuple[str, ...] = (  # type: ignore[assignment]
        *("name", "state", "prefix", "scope_names", "requests_rate", "increments_rate"),
        *("created", "expiry_date", "last_used"),
    )
    list_filter = ("revoked",)
    actions = ("revoke",)

    def has_delete_permission(self, request: HttpRequest, obj: ApiKey | None = None) -> bool:  # noqa: ARG002
        """Never: a revoked key remains as a record."""
        return False

    def has_change_permission(self, request: HttpRequest, obj: ApiKey | None = None) -> bool:
        """A revoked key stays as it is."""
        return super().has_change_permission(request, obj) and not (obj and obj.revoked)

    def get_fields(self, request: HttpRequest, obj: ApiKey | None = None) -> Any:  # noqa: ARG002
        """The fields to fill in for a new key; more for an existing one."""
        quotas = ["requests_rate", "increments_rate"]
        return (
            ["name", "scopes", *quotas, "expiry_date"]
            if obj is None
            else ["name", "prefix", "scopes", *quotas, "created", "expiry_date", "last_used", "revoked"]
        )

    def get_readonly_fields(self, request: HttpRequest, obj: Any = None) -> tuple[str, ...]:  # noqa: ARG002
        """Only the action changes `revoked`, and only a use `last_used`."""
        return ("prefix", "created", "last_used", "revoked")

    @admin.display(description="scopes")
    def scope_names(self, key: ApiKey) -> str:
        """The scopes, in the order of `Scope`."""
        return ", ".join(scope for scope in Scope.values if scope in key.scopes) or "none"

    @admin.display(description="state")
    def state(self, key: ApiKey) -> str:
        """Whether the key still works."""
        return "revoked" if key.revoked else "expired" if key.has_expired else "active"

    @admin.action(description="Revoke selected API keys", permissions=["change"])
    def revoke(self, request: HttpRequest, queryset: QuerySet[ApiKey]) -> None:
        """Revoke keys for good."""
        revoked = list(queryset.filter(revoked=False))
        for key in revoked:
            key.revoked = True
            key.save(update_fields=["revoked"])
            self.log_change(request, key, "Revoked.")
        text = (
            f"{len(revoked)} revoked; every process refuses them within seconds. Keys that were revoked before stay so."
        )
        self.message_user(request, text, messages.SUCCESS if revoked else messages.WARNING)

    def get_actions(self, request: HttpRequest) -> dict[str, Any]:
        """Only revoking."""
        return {name: action for name, action in super().get_actions(request).items() if name == "revoke"}
