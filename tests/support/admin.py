"""The admin's lists of what operators see: their actions, their columns, and the history that an action leaves."""

from __future__ import annotations

import re
from html import unescape
from typing import Any

import httpx
from django.contrib.admin.models import LogEntry

from tests.support.browser import Browser


def act(browser: Browser, address: str, action: str, *chosen: str, **fields: Any) -> httpx.Response:
    """What the form of a list sends."""
    data = {
        "csrfmiddlewaretoken": browser.cookies["csrftoken"],
        "action": action,
        "_selected_action": list(chosen),
        **fields,
    }
    return browser.post(address, data=data)


def history(model: str, id: str) -> list[str]:
    return [entry.get_change_message() for entry in LogEntry.objects.filter(content_type__model=model, object_id=id)]


def field(page: httpx.Response, name: str) -> list[str]:
    """A column of the list, without its tags."""
    cells = re.findall(rf'<t[hd] class="[^"]*field-{name}[^"]*"[^>]*>(.*?)</t[hd]>', page.text, re.DOTALL)
    return [unescape(re.sub(r"<[^>]+>", "", cell)).strip() for cell in cells]
