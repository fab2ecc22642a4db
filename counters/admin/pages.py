"""Pages for people, limited by the address that asks: `TALLY_PAGES_RATE`, kept by django-ratelimit in the cache's Redis.

They are the front page, /status, the demo pages and the admin; the documentation counts as a call of the API. While the
cache is down, every page is let through, and that is logged.
"""

from __future__ import annotations

from collections.abc import Callable

import structlog
from django.conf import settings
from django.http import HttpRequest, HttpResponse
from django.template.loader import render_to_string
from django_ratelimit.core import get_usage

from counters.admin.base import bare_context
from counters.api import problems
from counters.api.problems import Problem
from counters.limits.addresses import of_request
from counters.limits.limiter import LIMITED
from runtime.seldom import Seldom

log = structlog.get_logger(__name__)


class PagesLimit:
    """Middleware."""

    def __init__(self, get_response: Callable[[HttpRequest], HttpResponse]) -> None:
        self._get_response = get_response
        self._seldom = Seldom()

    def __call__(self, request: HttpRequest) -> HttpResponse:
        if request.path != "/" and not request.path.startswith(("/admin", "/demo", "/status")):
            return self._get_response(request)
        seconds = seconds_over(request, "pages", of_request(request), settings.TALLY.pages_rate)
        if seconds is None:
            self._seldom.log(log.warning, "pages_unlimited", reason="the cache's Redis did not answer")
        if not seconds:
            return self._get_response(request)
        LIMITED.labels("pages").inc()
        headers = {"Retry-After": str(seconds)}
        if not request.accepts("text/html"):
            detail = f"Too many pages from this address; try again in {seconds} s."
            return problems.response(Problem(429, "too-many-pages", detail, headers=headers))
        context = {**bare_context(request, "Too many pages"), "seconds": seconds}
        return HttpResponse(
            render_to_string("admin/counters/too_many_pages.html", context), status=429, headers=headers
        )


def seconds_over(request: HttpRequest, group: str, value: str, rate: str, *, count: bool = True) -> int | None:
    """Count a value in a group. Returns the seconds until its rate lets it through, 0 if it does now, None if the cache is
    down."""
    usage = get_usage(request, group=group, key=lambda *_: value, rate=rate, increment=count)
    if usage is None or usage["time_left"] < 0:  # get_usage's result if the cache is down
        return None
    return max(1, int(usage["time_left"])) if usage["should_limit"] else 0
