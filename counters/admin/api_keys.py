"""API keys in the admin: created (and shown once), changed, revoked; never deleted. Hashes are not shown."""

from __future__ import annotations

from typing import Any

from django.contrib import admin, messages
from django.db.models import Q, QuerySet
from django.http import HttpRequest, HttpResponse
from django.utils import timezone
from rest_framework_api_key.admin import APIKeyModelAdmin

from counters.admin.forms import ApiKeyForm
from counters.models import ApiKey, Scope


class StateFilter(admin.SimpleListFilter):
    """Keys by whether they still work, and are used."""

    title = "state"
    parameter_name = "state"

    def lookups(self, request: HttpRequest, model_admin: Any) -> list[tuple[str, str]]:  # noqa: ARG002
        """The choices."""
        return [(state, state) for state in ("active", "never used", "expired", "revoked")]

    def queryset(self, request: HttpRequest, queryset: QuerySet[ApiKey]) -> QuerySet[ApiKey]:  # noqa: ARG002
        """The keys of the chosen state."""
        expired = Q(expiry_date__lte=timezone.now())
        match self.value():
            case "active":
                return queryset.filter(revoked=False).exclude(expired)
            case "never used":
                return queryset.filter(revoked=False, last_used=None).exclude(expired)
            case "expired":
                return queryset.filter(expired, revoked=False)
            case "revoked":
                return queryset.filter(revoked=True)
        return queryset


class ApiKeyAdmin(APIKeyModelAdmin):
    """Keys by name; revoking is an action."""

    form = ApiKeyForm
    list_display: tuple[str, ...] = (  # type: ignore[assignment]
        *("name", "state", "prefix", "scope_names", "quotas", "last_use", "expires", "made"),
    )
    list_filter = (StateFilter,)  # type: ignore[assignment]
    actions = ("revoke",)

    def changelist_view(self, request: HttpRequest, extra_context: dict[str, Any] | None = None) -> HttpResponse:
        """The list, with a title that names it."""
        return super().changelist_view(request, {"title": "API keys", **(extra_context or {})})

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

    @admin.display(description="quotas a minute")
    def quotas(self, key: ApiKey) -> str:
        """Those of its own."""
        own = {"requests": key.requests_rate, "increments": key.increments_rate}
        return ", ".join(f"{number:,} {name}" for name, number in own.items() if number is not None) or "as all"

    @admin.display(description="last used (UTC)", ordering="last_used")
    def last_use(self, key: ApiKey) -> str:
        """To the hour."""
        return f"{key.last_used:%Y-%m-%d %H:00}" if key.last_used else "never"

    @admin.display(description="expires (UTC)", ordering="expiry_date")
    def expires(self, key: ApiKey) -> str:
        """From when on it is refused."""
        return f"{key.expiry_date:%Y-%m-%d %H:%M}" if key.expiry_date else "never"

    @admin.display(description="made (UTC)", ordering="created")
    def made(self, key: ApiKey) -> str:
        """When it was made."""
        return f"{key.created:%Y-%m-%d}"

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
