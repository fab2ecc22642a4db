"""The admin's answers to database errors, for which Django would answer with a plain 500.

503 while the database is down, and 400 for a value that it cannot take: PostgreSQL's texts cannot contain NUL, and a
request may have one anywhere.
"""

from __future__ import annotations

from collections.abc import Callable

import structlog
from django.db import DataError, InterfaceError, OperationalError
from django.http import HttpRequest, HttpResponse
from django.template.loader import render_to_string

from counters.admin.base import bare_context
from counters.api import problems

RETRY_AFTER_SECONDS = 5  # the duration of a failover
REFUSED = "it has a value that the database cannot take"
log = structlog.get_logger(__name__)


class AdminOutage:
    """Middleware for /admin/ only. Sessions and users are in the control database, on shard 0's primary."""

    def __init__(self, get_response: Callable[[HttpRequest], HttpResponse]) -> None:
        self._get_response = get_response

    def __call__(self, request: HttpRequest) -> HttpResponse:
        return self._get_response(request)

    def process_exception(self, request: HttpRequest, exception: Exception) -> HttpResponse | None:
        """Django calls this with what a view, or the rendering of its template, raises."""
        if not request.path.startswith("/admin/"):
            return None
        match exception:
            case DataError():
                return self._refused(request, exception)
            case OperationalError() | InterfaceError():
                return self._unavailable(request, exception)
        return None

    def _refused(self, request: HttpRequest, error: Exception) -> HttpResponse:
        log.warning("admin_refused", path=request.path, method=request.method, error=str(error).strip())
        if not request.accepts("text/html"):
            return problems.response(problems.invalid("request", REFUSED))
        context = {**bare_context(request, "Bad request"), "detail": REFUSED}
        return HttpResponse(render_to_string("admin/counters/refused.html", context), status=400)

    def _unavailable(self, request: HttpRequest, error: Exception) -> HttpResponse:
        log.warning("admin_unavailable", path=request.path, method=request.method, error=str(error).strip())
        headers = {"Retry-After": str(RETRY_AFTER_SECONDS)}
        if not request.accepts("text/html"):
            detail = "The control database does not answer."
            return problems.response(problems.Problem(503, "control-unavailable", detail, headers=headers))
        context = {
            **bare_context(request, "Not available now"),
            "seconds": RETRY_AFTER_SECONDS,
            "repeats": request.method == "GET",
        }
        # Rendered without the request: the template context would read the user from the database, which is down.
        return HttpResponse(render_to_string("admin/counters/outage.html", context), status=503, headers=headers)
