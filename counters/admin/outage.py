"""The admin while its database is away: a page that says so (503), where Django would answer with an error of its own (500)."""

from __future__ import annotations

from collections.abc import Callable

import structlog
from django.db import InterfaceError, OperationalError
from django.http import HttpRequest, HttpResponse
from django.template.loader import render_to_string

from counters.api import problems

RETRY_AFTER_SECONDS = 5  # what a failover takes
log = structlog.get_logger(__name__)


class AdminOutage:
    """Middleware for /admin/ only. Sessions and users are in the control database, on shard 0's primary."""

    def __init__(self, get_response: Callable[[HttpRequest], HttpResponse]) -> None:
        self._get_response = get_response

    def __call__(self, request: HttpRequest) -> HttpResponse:
        return self._get_response(request)

    def process_exception(self, request: HttpRequest, exception: Exception) -> HttpResponse | None:
        """Django calls it with what a view, or the rendering of its template, has raised."""
        if not request.path.startswith("/admin/") or not isinstance(exception, OperationalError | InterfaceError):
            return None
        log.warning("admin_unavailable", path=request.path, method=request.method, error=str(exception).strip())
        headers = {"Retry-After": str(RETRY_AFTER_SECONDS)}
        if not request.accepts("text/html"):
            detail = "The control database does not answer."
            return problems.response(problems.Problem(503, "control-unavailable", detail, headers=headers))
        context = {"title": "Not available now", "site_title": "Tally", "site_header": "Tally", "seconds": RETRY_AFTER_SECONDS}
        context |= {"repeats": request.method == "GET"}
        # Without the request: what a request has in a template (the user) is in the database that is away.
        return HttpResponse(render_to_string("admin/counters/outage.html", context), status=503, headers=headers)
