"""What every view of the API has in common."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import msgspec
from django.http import HttpRequest, HttpResponse
from rest_framework.renderers import BaseRenderer
from rest_framework.request import Request
from rest_framework.views import APIView

from counters.api.media import JSON

_allowed: dict[type[APIView], list[str]] = {}


class Response(HttpResponse):
    """A JSON answer, encoded at once. DRF's own is rendered later, by a renderer found for it: that costs more than the
    encoding."""

    def __init__(self, data: object, status: int = 200, headers: Mapping[str, str] | None = None) -> None:
        super().__init__(msgspec.json.encode(data), status=status, headers=headers, content_type=JSON)


class ApiView(APIView):
    """A view whose OPTIONS tells the methods (`Allow`, as every answer does) and nothing else.

    What DRF finds out anew for each request, and is the same for each, is known here.
    """

    def _allowed_methods(self) -> list[str]:
        kind = type(self)
        if kind not in _allowed:
            methods = super()._allowed_methods()  # type: ignore[misc]
            # A view that was not set up for a request, as the schema's generator makes it, has no `head` yet.
            _allowed[kind] = [*methods, "HEAD"] if "GET" in methods and "HEAD" not in methods else methods
        return _allowed[kind]

    def initialize_request(self, request: HttpRequest, *args: Any, **kwargs: Any) -> Request:
        """DRF's, without what it keeps for parsers: a cycle, so that each body would stay until the collector finds
        it."""
        made = super().initialize_request(request, *args, **kwargs)
        made.parser_context.clear()
        return made

    def perform_content_negotiation(self, request: Request, force: bool = False) -> tuple[BaseRenderer, str]:
        """DRF's, where there is something to negotiate."""
        first = self.renderer_classes[0]
        if request._request.META.get("HTTP_ACCEPT", "*/*") in ("*/*", first.media_type):
            return first(), first.media_type
        return super().perform_content_negotiation(request, force)

    def options(self, _request: Request, *_args: Any, **_kwargs: Any) -> HttpResponse:  # type: ignore[override]
        """204 and `Allow`, for anyone: which methods there are is public, as the schema is."""
        return HttpResponse(status=204)
