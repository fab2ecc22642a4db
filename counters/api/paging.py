"""Pages of a listing: `?limit=` and `?cursor=`."""

from __future__ import annotations

import base64
import binascii
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

from django.conf import settings
from rest_framework.request import Request

from counters.api import requests
from counters.api.problems import invalid

T = TypeVar("T")


def limit(request: Request) -> int:
    """How many results a page has. Raises `Problem` 400."""
    most = settings.TALLY.max_keys
    text = request.query_params.get("limit")
    if text is None:
        return min(requests.PAGE, most)
    if not (text.isascii() and text.isdigit() and len(text) < 10 and 1 <= int(text) <= most):
        raise invalid("limit", f"a whole number from 1 to {most}")
    return int(text)


def place(request: Request, is_place: Callable[[str], bool], condition: str = "") -> str:
    """The place after which the cursor's page begins; "" for the first page. Raises `Problem` 400, with the condition under
    which a cursor is good, if it is not a place."""
    cursor = request.query_params.get("cursor")
    if cursor is None:
        return ""
    try:
        found = base64.b64decode(cursor + "=" * (-len(cursor) % 4), altchars=b"-_", validate=True).decode()
    except (binascii.Error, ValueError):
        found = ""
    if not is_place(found):
        raise invalid("cursor", ", ".join(filter(None, ("the value of next from the page before", condition))))
    return found


def page(found: Sequence[T], limit: int, show: Callable[[T], Any], place_of: Callable[[T], str]) -> dict[str, Any]:
    """A page out of `limit + 1` results: if there are so many, another page follows."""
    some = found[:limit]
    following = _encoded(place_of(some[-1])) if len(found) > limit else None
    return {"results": [show(one) for one in some], "next": following}


def _encoded(place: str) -> str:
    """A cursor, opaque to clients."""
    return base64.urlsafe_b64encode(place.encode()).decode().rstrip("=")
