"""A browser of the admin, as far as tests need one."""

from __future__ import annotations

import re
from html import unescape
from typing import Any

import httpx
from django.conf import settings
from django.test import Client

LOGIN = "/admin/login/"


class Browser(httpx.Client):
    """A client that logs in and sends forms as a page gave them."""

    def log_in(self, name: str, password: str) -> httpx.Response:
        self.get(LOGIN)
        return self.post(
            LOGIN, data={"username": name, "password": password, "csrfmiddlewaretoken": self.cookies["csrftoken"]}
        )

    def resume(self, user: Any) -> None:
        """Go on with a session of a user: hashing a password twice, to make it and to check it, is most of what a
        log-in costs."""
        session = Client()
        session.force_login(user)
        self.cookies.set(settings.SESSION_COOKIE_NAME, session.cookies[settings.SESSION_COOKIE_NAME].value)
        self.get("/admin/password_change/")  # a form, for its token

    def submit(self, address: str, page: httpx.Response | None = None, **fields: Any) -> httpx.Response:
        """Post a form: the hidden fields of its page, and these."""
        page = page or self.get(address)
        hidden = dict(re.findall(r'<input type="hidden" name="([^"]+)" value="([^"]*)"', page.text))
        return self.post(
            address, data={**hidden, **{name: value for name, value in fields.items() if value is not None}}
        )


def said(page: httpx.Response) -> str:
    """The messages on a page."""
    return unescape(" ".join(re.findall(r'<li class="(?:success|warning|error)">(.*?)</li>', page.text, re.DOTALL)))
