"""One counter out of the cache, answered before Django looks for a view, as Django's own cache middleware does.

On the event loop only. Whatever is not plain (a query, another `Accept`, a key that is not valid, a counter that the cache has not) goes
on to `views.CounterView`, which gives the same answer to the same question.
"""

from __future__ import annotations

from collections.abc import Callable

from django.http import HttpRequest
from django.http.response import HttpResponseBase
from rest_framework.exceptions import AuthenticationFailed

from counters import keys
from counters.api import reading
from counters.api.authentication import caller_of
from counters.api.base import Answer, PendingResponse
from counters.api.media import JSON
from counters.api.problems import Problem
from counters.api.views import CounterView, show_one
from counters.reads import Counter
from sharding import event_loop

PREFIX = "/v1/counters/"
_ACCEPT = ("*/*", JSON)


class CachedRead:
    """Middleware for `GET /v1/counters/{key}`."""

    def __init__(self, get_response: Callable[[HttpRequest], HttpResponseBase]) -> None:
        self._get_response = get_response
        view = CounterView()
        view.setup(HttpRequest())
        self._allow = ", ".join(view.allowed_methods)

    def __call__(self, request: HttpRequest) -> HttpResponseBase:
        if event_loop.is_running() and (key := self._key(request)):
            return PendingResponse(reading.cached([key], self._shown))
        return self._get_response(request)

    def _shown(self, found: list[Counter]) -> Answer:
        data, status, headers = show_one(found)
        return Answer(data, status, {**headers, "Allow": self._allow})

    def _key(self, request: HttpRequest) -> str | None:
        """The key, if that is all that the request says."""
        path, meta = request.path_info, request.META
        if (
            request.method != "GET"
            or not path.startswith(PREFIX)
            or meta.get("QUERY_STRING")
            or meta.get("HTTP_ACCEPT", "*/*") not in _ACCEPT
        ):
            return None
        key = path[len(PREFIX) :]
        if not keys.is_key(key):
            return None
        try:
            caller_of(meta.get("HTTP_AUTHORIZATION", ""))
        except (AuthenticationFailed, Problem):
            return None
        return key
