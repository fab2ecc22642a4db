"""What the status page says, read as a person without JavaScript reads it."""

from __future__ import annotations

import re
import time
from html import unescape

import httpx

WITHIN_SECONDS = 60.0  # an operator finds what is down
_PAUSE_SECONDS = 0.5  # as often as a page that is open asks
_TROUBLE = re.compile(r"<li><b>([^<]+)</b>(.*?)</li>", re.DOTALL)


def troubles(api: httpx.Client) -> dict[str, str]:
    """What the page lists as not up: names, and what it says of them."""
    page = api.get("/status").raise_for_status().text
    found = _TROUBLE.findall(page.partition('id="troubles"')[2].partition("<section")[0])
    return {name: " ".join(unescape(re.sub(r"<[^>]+>", " ", said)).split()) for name, said in found}


def assert_status_names(api: httpx.Client, part: str, said: str = "") -> dict[str, str]:
    """The page lists this part as down in time, and says this of it. Returns all that it lists then."""
    deadline = time.monotonic() + WITHIN_SECONDS
    while True:
        found = troubles(api)
        if found.get(part, "").startswith("▲ down") and said in found[part]:
            return found
        assert time.monotonic() < deadline, f"{part} ({said}) is not among {found}"
        time.sleep(_PAUSE_SECONDS)
