"""Django's middleware for people (sessions, CSRF, messages, the admin), kept out of the API's way.

The API has no sessions, forms or templates, and does not use Django's database connections for what it serves; eight layers and the
closing of connections that it never opened would be a third of what a request costs (docs/performance.md).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from django.conf import settings
from django.core import signals
from django.core.cache import close_caches
from django.core.handlers.exception import convert_exception_to_response
from django.db import close_old_connections, reset_queries
from django.http import HttpRequest
from django.http.response import HttpResponseBase
from django.utils.module_loading import import_string

_MOST_HOSTS = 100
Handler = Callable[[HttpRequest], Any]
DATA = ("/v1/counters", "/v1/increments", "/v1/writes")  # calls that touch neither Django's sessions nor its database connections


class ForPeople:
    """`settings.PEOPLE_MIDDLEWARE` around every request but those for data."""

    def __init__(self, get_response: Handler) -> None:
        self._direct = get_response
        self._layers: list[Any] = []
        self._good_hosts: set[str | None] = set()
        handler: Any = get_response
        for name in reversed(settings.PEOPLE_MIDDLEWARE):
            layer = import_string(name)(handler)
            self._layers.insert(0, layer)
            handler = convert_exception_to_response(layer)
        self._wrapped: Handler = handler
        signals.request_started.disconnect(close_old_connections)
        signals.request_started.disconnect(reset_queries)
        signals.request_finished.disconnect(close_old_connections)
        signals.request_finished.disconnect(close_caches)  # does nothing for django-redis, which keeps its connections

    def __call__(self, request: HttpRequest) -> HttpResponseBase:
        if request.path_info.startswith(DATA):
            self._check_host(request)
            response: HttpResponseBase = self._direct(request)
            return response
        reset_queries()
        close_old_connections()
        try:
            wrapped: HttpResponseBase = self._wrapped(request)
            return wrapped
        finally:
            close_old_connections()

    def _check_host(self, request: HttpRequest) -> None:
        """Raises `DisallowedHost` if the host is not one of ALLOWED_HOSTS; what was found good is not looked at again."""
        host = request.META.get("HTTP_HOST")
        if host not in self._good_hosts:
            request.get_host()
            if len(self._good_hosts) < _MOST_HOSTS:
                self._good_hosts.add(host)

    def process_view(self, request: HttpRequest, *rest: Any) -> HttpResponseBase | None:
        """Django's hook before a view: the first layer that answers wins."""
        return self._ask("process_view", self._layers, request, *rest)

    def process_exception(self, request: HttpRequest, exception: Exception) -> HttpResponseBase | None:
        """Django's hook for what a view raises, from the inside out."""
        return self._ask("process_exception", self._layers[::-1], request, exception)

    def _ask(self, hook: str, layers: list[Any], request: HttpRequest, *rest: Any) -> HttpResponseBase | None:
        if request.path_info.startswith(DATA):
            return None
        answers = (getattr(layer, hook)(request, *rest) for layer in layers if hasattr(layer, hook))
        return next((answer for answer in answers if answer is not None), None)
