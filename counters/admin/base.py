"""What the admin's own views have in common: they stand under a model's addresses, names and permissions, and no table
is behind them."""

from __future__ import annotations

from typing import Any

from django.contrib import admin
from django.core.exceptions import PermissionDenied
from django.http import HttpRequest


class ViewsAdmin(admin.ModelAdmin):  # type: ignore[type-arg]
    """Nothing can be added or deleted; a subclass gives the views."""

    def has_add_permission(self, request: HttpRequest) -> bool:  # noqa: ARG002
        """Never."""
        return False

    def has_delete_permission(self, request: HttpRequest, obj: Any = None) -> bool:  # noqa: ARG002
        """Never."""
        return False

    def check_view(self, request: HttpRequest) -> None:
        """Raises `PermissionDenied`."""
        if not self.has_view_or_change_permission(request):
            raise PermissionDenied

    def context(self, request: HttpRequest, title: str, more: dict[str, Any]) -> dict[str, Any]:
        """What every template needs, and more."""
        return {**self.admin_site.each_context(request), "opts": self.opts, "title": title, **more}
