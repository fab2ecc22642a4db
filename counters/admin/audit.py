"""The audit log in the admin, and the middleware that records what staff do there."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from django.contrib.auth.signals import user_logged_in
from django.db import Error as DatabaseError
from django.dispatch import receiver
from django.http import HttpRequest, HttpResponse

from counters.admin.base import RecordsAdmin
from counters.admin.outage import AdminOutage
from counters.limits.addresses import of_request
from counters.operators import audit
from counters.operators.audit import Entry
from counters.second_factor import devices


class AuditTrail:
    """Middleware: records every request of a member of the staff to the admin that may change something, before and after.

    It needs the user, so it stands behind Django's authentication. Calls of the API are recorded where their key is known
    (`counters.api.base`).
    """

    def __init__(self, get_response: Callable[[HttpRequest], HttpResponse]) -> None:
        self._get_response = get_response
        self._outage = AdminOutage(get_response)

    def __call__(self, request: HttpRequest) -> HttpResponse:
        response = self._get_response(request)
        audit.end(request, str(response.status_code))
        return response

    def process_view(self, request: HttpRequest, _view: object, _args: object, _kwargs: object) -> HttpResponse | None:
        """Django calls this when it knows the view, which does not run if nobody can tell who asks."""
        match = request.resolver_match
        if request.method in audit.SAFE or match is None or not audit.is_page(match):
            return None
        user: Any = request.user
        try:
            is_staff = user.is_active and user.is_staff
            half_way = ", password only" if is_staff and devices.is_missing(request) else ""
        except DatabaseError as error:
            return self._outage.process_exception(request, error)
        if is_staff:
            audit.begin(request, f"user {user.get_username()}{half_way}")
        return None


@receiver(user_logged_in)
def record_log_in(request: HttpRequest, user: Any, **_: Any) -> None:
    """Record that somebody has logged in."""
    name = f"user {user.get_username()}"
    audit.append(Entry(name, "log in", request.path, outcome="logged in", address=of_request(request)))


class AuditEntryAdmin(RecordsAdmin):
    """Read-only, the newest first."""

    change_list_template = "admin/counters/operations/audit.html"
    list_display = ("id", "when", "by", "action", "target", "detail", "outcome", "address", "request_id")
    search_fields = ("by", "action", "target", "detail", "=request_id", "=address", "outcome")
    search_help_text = "A part of who, action, target, detail or outcome; or a request's id or an address."
    ordering = ("-id",)
    show_full_result_count = False
