"""Bases of the admin's pages: records that can only be read, and views of its own, which use a model's URLs, names and
permissions, but no table."""

from __future__ import annotations

from typing import Any

from django.contrib import admin
from django.core.exceptions import PermissionDenied
from django.http import HttpRequest, HttpResponse
from django.utils.text import capfirst


def bare_context(request: HttpRequest, title: str) -> dict[str, Any]:
    """The context of a page that is rendered without the request, because the session's database may be down."""
    nonce = str(getattr(request, "csp_nonce", ""))  # of django-csp's middleware
    return {"title": title, "site_title": "Tally", "site_header": "Tally", "nonce": nonce}


class RecordsAdmin(admin.ModelAdmin):  # type: ignore[type-arg]
    """Rows of a table that say what happened, each at a moment `at`: they can be read, and nothing else."""

    actions = None

    @admin.display(description="At (UTC)", ordering="at")
    def when(self, row: Any) -> str:
        """The time, in the format of the other pages."""
        return f"{row.at:%Y-%m-%d %H:%M:%S}"

    def changelist_view(self, request: HttpRequest, extra_context: dict[str, Any] | None = None) -> HttpResponse:
        """The list, with a title that names it."""
        title = capfirst(str(self.opts.verbose_name_plural))
        return super().changelist_view(request, {"title": title, **(extra_context or {})})

    def has_add_permission(self, request: HttpRequest) -> bool:  # noqa: ARG002
        """Never."""
        return False

    def has_change_permission(self, request: HttpRequest, obj: Any = None) -> bool:  # noqa: ARG002
        """Never."""
        return False

    def has_delete_permission(self, request: HttpRequest, obj: Any = None) -> bool:  # noqa: ARG002
        """Never."""
        return False


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
