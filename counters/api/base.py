"""What every view of the API has in common."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from contextlib import suppress
from functools import partial
from typing import Any, Generic, TypeVar

import msgspec
from django.http import HttpRequest, HttpResponse
from rest_framework.renderers import BaseRenderer
from rest_framework.request import Request
from rest_framework.views import APIView

from counters.api import problems
from counters.api.media import JSON
from counters.intake.group_commit import Promise

R = TypeVar("R")
_allowed: dict[type[APIView], list[str]] = {}


def etag(version: int) -> str:
    """The ETag of a counter."""
    return f'"{version}"'


class Response(HttpResponse):
    """A JSON answer, encoded at once. DRF's own is rendered later, by a renderer found for it: that costs more than the encoding."""

    def __init__(self, data: object, status: int = 200, headers: Mapping[str, str] | None = None) -> None:
        super().__init__(msgspec.json.encode(data), status=status, headers=headers, content_type=JSON)


class PendingResponse(HttpResponse, Generic[R]):
    """A JSON answer with what `answer` makes of a promise's result: data and headers. `counter_project.handler` waits for it.

    Until then Django's layers see it empty. `answer` may raise what a view may.
    """

    def __init__(self, promise: Promise[R], answer: Callable[[R], tuple[object, Mapping[str, str]]], status: int = 200) -> None:
        super().__init__(status=status, content_type=JSON)
        self._promise, self._answer = promise, answer

    async def settled(self) -> HttpResponse:
        """This one, complete; or the problem there was. Raises `WouldBlock`."""
        loop = asyncio.get_running_loop()
        arrived = loop.create_future()
        self._promise.then(partial(_tell, loop, arrived))
        await arrived
        try:
            data, headers = self._answer(self._promise.wait())
        except Exception as error:
            return self._problem(error)
        self.content = msgspec.json.encode(data)
        for name, value in headers.items():
            self.headers[name] = value
        return self

    def _problem(self, error: Exception) -> HttpResponse:
        response = problems.response_to(error)
        for name, value in self.items():
            response.headers.setdefault(name, value)
        return response


def _tell(loop: asyncio.AbstractEventLoop, arrived: asyncio.Future[None]) -> None:
    with suppress(RuntimeError):  # the loop is closed: the process ends, and whoever asked has been told that nothing is known
        loop.call_soon_threadsafe(_arrive, arrived)


def _arrive(arrived: asyncio.Future[None]) -> None:
    if not arrived.done():
        arrived.set_result(None)


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
        """DRF's, without what it keeps for parsers: a cycle, so that each body would stay until the collector finds it."""
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
        """204 and `Allow`."""
        return HttpResponse(status=204)
