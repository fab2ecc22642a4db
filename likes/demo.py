"""`/demo/likes`: a few items to like, with live counts. Only where `TALLY_DEMO_PAGES` is on.

A browser is a user: a signed cookie has its name. So the page needs no API key, and can write likes of the type `demo` alone.
A click goes the same way as a call of the API, past the limit of pages (`counters.admin.pages`) instead of a caller's quotas.
"""

from __future__ import annotations

from secrets import token_hex, token_urlsafe
from typing import NamedTuple

import msgspec
from django.http import HttpRequest, HttpResponse
from django.template.response import TemplateResponse
from django.urls import path
from django.views.decorators.csrf import ensure_csrf_cookie
from rest_framework.authentication import BaseAuthentication, SessionAuthentication
from rest_framework.permissions import AllowAny
from rest_framework.request import Request

from counters import service
from counters.api import media
from counters.api.base import ApiView, Response
from counters.api.pages import policy
from counters.api.problems import Problem, invalid
from likes import service as likes
from likes import writes
from likes.events import Event
from likes.names import count_key, is_name, item_of
from likes.reading import Pair

TYPE = "demo"
COOKIE = "tally_demo_user"
_COOKIE_SECONDS = 365 * 86400


class Item(NamedTuple):
    """Something to like."""

    name: str
    title: str


ITEMS = (
    Item("sunrise", "A sunrise over the sea"),
    Item("coffee", "The first coffee of the day"),
    Item("bicycle", "A bicycle with a bell"),
    Item("postgres", "PostgreSQL"),
    Item("monday", "Monday mornings"),
)
_KEYS = {count_key(item_of(TYPE, item.name)): item for item in ITEMS}


class Click(msgspec.Struct, forbid_unknown_fields=True):
    """What a click sends."""

    liked: bool


@ensure_csrf_cookie
def page(request: HttpRequest) -> HttpResponse:
    """The page. A browser that has no name yet gets one."""
    user = _user(request) or f"guest-{token_hex(4)}"
    nonce = token_urlsafe(16)
    context = {"nonce": nonce, "items": ITEMS, "user": user}
    response = TemplateResponse(request, "likes/demo.html", context, headers={"Content-Security-Policy": policy(nonce)})
    response.set_signed_cookie(
        COOKIE, user, max_age=_COOKIE_SECONDS, secure=request.is_secure(), httponly=True, samesite="Lax"
    )
    return response


def _user(request: HttpRequest) -> str | None:
    user = request.get_signed_cookie(COOKIE, default=None)
    return user if user and is_name(user) else None


class Guest(BaseAuthentication):
    """A browser that has opened the page: its cookie names the user, and its token shows that the page has sent the
    request."""

    def authenticate(self, request: Request) -> tuple[str, None]:
        """Raises `PermissionDenied`."""
        # Not DRF's request: it would be parsed in search of a token.
        SessionAuthentication().enforce_csrf(request._request)  # type: ignore[arg-type]
        user = _user(request._request)
        if user is None:
            raise Problem(403, "forbidden", "This browser has no name yet; open /demo/likes first.")
        return user, None


class StateView(ApiView):
    """What the page shows."""

    authentication_classes = ()
    permission_classes = (AllowAny,)
    schema = None

    def get(self, request: Request) -> HttpResponse:
        """Count, pending and own state of each item."""
        found, user = service.current().read(list(_KEYS)), _user(request._request)
        pending = service.current().pending_of(found)
        liked = [False] * len(ITEMS)
        if user is not None:
            serving = likes.current()
            pairs = [Pair(item_of(TYPE, item.name), user) for item in ITEMS]
            liked = [state.liked for state in serving.service.run(serving.states(pairs))]
        rows = zip(ITEMS, found, pending, liked, strict=True)
        results = [
            {"item": item.name, "count": counter.value, "pending": more, "liked": is_liked}
            for item, counter, more, is_liked in rows
        ]
        return Response({"results": results, "next": None}, headers={"Cache-Control": "no-store"})


class ClickView(ApiView):
    """A heart."""

    authentication_classes = (Guest,)
    permission_classes = (AllowAny,)
    schema = None

    def post(self, request: Request, item: str) -> HttpResponse:
        """The user of this browser likes an item, or does no longer."""
        if count_key(item_of(TYPE, item)) not in _KEYS:
            raise invalid("item", f"one of {', '.join(one.name for one in ITEMS)}")
        click = media.decode(media.body(request._request), Click)
        event = Event(item_of(TYPE, item), str(request.user), click.liked)
        accepted = service.current().submit(writes.write([event]))
        serving = likes.current()
        serving.service.run(serving.keep([event], accepted))
        return Response({"id": str(accepted.id), "item": item, "liked": click.liked}, 202)


urlpatterns = [
    path("likes", page, name="demo-likes"),
    path("likes/state", StateView.as_view()),
    path("likes/<str:item>", ClickView.as_view()),
]
