"""The base of the API's views and answers."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, cast

import msgspec
from django.http import HttpRequest, HttpResponse
from rest_framework.renderers import BaseRenderer
from rest_framework.request import Request
from rest_framework.views import APIView

from counters.api.media import JSON
from counters.models import Scope
from counters.operators import audit

_allowed: dict[type[APIView], list[str]] = {}


class Response(HttpResponse):
    """A JSON answer, encoded at once. DRF's own response finds a renderer and renders later, which costs more than the
    encoding itself."""

    def __init__(self, data: object, status: int = 200, headers: Mapping[str, str] | None = None) -> None:
        super().__init__(msgspec.json.encode(data), status=status, headers=headers, content_type=JSON)


class ApiView(APIView):
    """A view whose OPTIONS returns only the methods (in `Allow`, as every answer does).

    It caches what DRF computes for each request although it is the same for all.
    """

    def _allowed_methods(self) -> list[str]:
        kind = type(self)
        if kind not in _allowed:
            methods = super()._allowed_methods()  # type: ignore[misc]
            # A view that was not set up for a request, such as one made by the schema's generator, has no `head` yet.
            _allowed[kind] = [*methods, "HEAD"] if "GET" in methods and "HEAD" not in methods else methods
        return _allowed[kind]

    def initialize_request(self, request: HttpRequest, *args: Any, **kwargs: Any) -> Request:
        """DRF's, without its parser context: that is a reference cycle, which would keep each body until a garbage
        collection."""
        made = super().initialize_request(request, *args, **kwargs)
        made.parser_context.clear()
        return made

    def perform_content_negotiation(self, request: Request, force: bool = False) -> tuple[BaseRenderer, str]:
        """DRF's, but only if there is something to negotiate."""
        first = self.renderer_classes[0]
        if request._request.META.get("HTTP_ACCEPT", "*/*") in ("*/*", first.media_type):
            return first(), first.media_type
        return super().perform_content_negotiation(request, force)

    def initial(self, request: Request, *args: Any, **kwargs: Any) -> None:
        """DRF's checks; then a call for staff that may change something is recorded, before it does."""
        super().initial(request, *args, **kwargs)
        method, caller = request.method or "", cast("Any", request.user)
        if (
            method not in audit.SAFE
            and method in self.allowed_methods
            and getattr(self, "scopes", {}).get(method) == Scope.STAFF
        ):
            audit.begin(request._request, f"API key {caller.name} ({caller.prefix})")

    def options(self, _request: Request, *_args: Any, **_kwargs: Any) -> HttpResponse:  # type: ignore[override]
        """204 and `Allow`, for anyone: the methods are public, like the schema."""
        return HttpResponse(status=204)
