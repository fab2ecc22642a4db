"""A browser of the admin, as far as tests need one."""

from __future__ import annotations

import re
from html import unescape
from typing import Any

import httpx

PASSWORD = "a-long-Password-7"
LOGIN = "/admin/login/"


class Browser(httpx.Client):
    """A client that logs in and sends forms as a page gave them."""

    def log_in(self, name: str, password: str = PASSWORD) -> httpx.Response:
        self.get(LOGIN)
        return self.post(LOGIN, data={"username": name, "password": password, "csrfmiddlewaretoken": self.cookies["csrftoken"]})

    def submit(self, address: str, page: httpx.Response | None = None, **fields: Any) -> httpx.Response:
        """Post a form: the hidden fields of its page, and these."""
        page = page or self.get(address)
        hidden = dict(re.findall(r'<input type="hidden" name="([^"]+)" value="([^"]*)"', page.text))
        return self.post(address, data={**hidden, **{name: value for name, value in fields.items() if value is not None}})


def said(page: httpx.Response) -> str:
    """The messages on a page."""
    return unescape(" ".join(re.findall(r'<li class="(?:success|warning|error)">(.*?)</li>', page.text, re.DOTALL)))
