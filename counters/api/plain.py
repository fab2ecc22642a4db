"""The two calls that make up nearly all requests, answered before Django looks for a view: a counter that the cache has, one increment.

On the event loop only. Whatever is not plain (a query, a header that asks for something, anything that is not valid or not allowed) goes
on to the views, which give the same answer to the same question at a higher cost.
"""

from __future__ import annotations

from collections.abc import Callable

from django.http import HttpRequest
from django.http.response import HttpResponseBase
from rest_framework.exceptions import AuthenticationFailed

from counters import keys
from counters.api import media, problems, reading, requests, views
from counters.api.authentication import Caller, caller_of
from counters.api.base import Answer, ApiView, PendingResponse
from counters.api.problems import Problem
from counters.intake import writes
from counters.intake.journal import JournalUnavailable
from counters.models import Scope
from counters.reading.reads import Counter
from runtime import event_loop

PREFIX, INCREMENTS = "/v1/counters/", "/increments"
_ACCEPT = ("*/*", media.JSON)
_ASKING = ("HTTP_IDEMPOTENCY_KEY", "HTTP_CONTENT_ENCODING", "HTTP_IF_MATCH")


class PlainCalls:
    """Middleware for `GET /v1/counters/{key}` and `POST /v1/counters/{key}/increments`."""

    def __init__(self, get_response: Callable[[HttpRequest], HttpResponseBase]) -> None:
        self._get_response = get_response
        self._read_headers = _headers(views.CounterView)
        self._increment_headers = _headers(views.IncrementsView)

    def __call__(self, request: HttpRequest) -> HttpResponseBase:
        if event_loop.is_running() and (response := self._answer(request)):
            return response
        return self._get_response(request)

    def _answer(self, request: HttpRequest) -> HttpResponseBase | None:
        path, meta = request.path_info, request.META
        if not path.startswith(PREFIX) or meta["QUERY_STRING"] or meta.get("HTTP_ACCEPT", "*/*") not in _ACCEPT:
            return None
        try:
            caller = caller_of(meta.get("HTTP_AUTHORIZATION", ""))
            if request.method == "GET":
                return self._read(path[len(PREFIX) :])
            if request.method == "POST" and path.endswith(INCREMENTS):
                return self._increment(request, path[len(PREFIX) : -len(INCREMENTS)], caller)
        except (AuthenticationFailed, Problem):
            pass
        return None

    def _read(self, key: str) -> HttpResponseBase | None:
        return PendingResponse(reading.cached([key], self._shown)) if keys.is_key(key) else None

    def _shown(self, found: list[Counter]) -> Answer:
        data, status, headers = views.show_one(found)
        return Answer(data, status, {**headers, **self._read_headers})

    def _increment(self, request: HttpRequest, key: str, caller: Caller | None) -> HttpResponseBase | None:
        is_plain = request.content_type == media.JSON and not any(name in request.META for name in _ASKING)
        if not is_plain or not keys.is_key(key) or caller is None or Scope.WRITE not in caller.scopes:
            return None
        delta = media.decode(media.body(request), requests.Increment).delta
        try:
            promise = writes.submit(writes.increments({key: delta}))
        except JournalUnavailable as error:
            return problems.response_to(error)
        return PendingResponse(views.increment_queued(promise, key, delta, self._increment_headers))


def _headers(kind: type[ApiView]) -> dict[str, str]:
    view = kind()
    view.setup(HttpRequest())
    return {"Allow": ", ".join(view.allowed_methods)}
