"""A Django view that does nothing, without middleware: what the server and the framework cost.

On the event loop, as Tally answers a cached read: by WSGI with 64 threads it costs twice the processor time (126 beside
53 µs).
"""

from collections.abc import Awaitable, Callable
from io import BytesIO
from typing import Any

import django
from django.conf import settings
from django.core.handlers.asgi import ASGIRequest
from django.core.handlers.base import BaseHandler
from django.http import HttpRequest, HttpResponse
from django.urls import path

settings.configure(SECRET_KEY="bench", ALLOWED_HOSTS=["*"], ROOT_URLCONF=__name__, MIDDLEWARE=[])
django.setup()


def empty(_request: HttpRequest, key: str) -> HttpResponse:  # noqa: ARG001
    return HttpResponse(b"{}", content_type="application/json", headers={"Content-Length": "2"})


urlpatterns = [path("counters/<str:key>", empty)]
handler = BaseHandler()
handler.load_middleware()


async def application(
    scope: dict[str, Any], _receive: object, send: Callable[[dict[str, Any]], Awaitable[None]]
) -> None:
    """Any request."""
    response = handler.get_response(ASGIRequest(scope, BytesIO()))
    headers = [(name.encode(), value.encode()) for name, value in response.items()]
    await send({"type": "http.response.start", "status": response.status_code, "headers": headers})
    await send({"type": "http.response.body", "body": response.content})  # type: ignore[attr-defined]
