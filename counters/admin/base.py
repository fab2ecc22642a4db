"""The base of the admin's own views. They use a model's URLs, names and permissions, but no table."""

from __future__ import annotations

from typing import Any

from django.contrib import admin
from django.core.exceptions import PermissionDenied
from django.http import HttpRequest


def bare_context(request: HttpRequest, title: str) -> dict[str, Any]:
    """The context of a page that is rendered without the request, because the session's database may be down."""
    nonce = str(getattr(request, "csp_nonce", ""))  # of django-csp's middleware
    return {"title": title, "site_title": "Tally", "site_header": "Tally", "nonce": nonce}


class ViewsAdmin(admin.ModelAdmin):  # type: ignore[type-arg]
    """Nothing can be added or deleted. A subclass defines the views."""

    def has_add_permission(self, request: HttpRequest) -> bool:  # noqa: ARG002
        """Never."""
        return False

    def has_delete_permission(self, request: HttpRequest, obj: Any = None) -> bool:  # noqa: ARG002
        """Never."""
        return False

    def check_view(self, request: HttpRequest) -> None:
        """Raises `PermissionDenied` if the user may not view this."""
        if not self.has_view_or_change_permission(request):
            raise PermissionDenied

    def context(self, request: HttpRequest, title: str, more: dict[str, Any]) -> dict[str, Any]:
        """The context that every template needs, with `more` added."""
        return {**self.admin_site.each_context(request), "opts": self.opts, "title": title, **more}
