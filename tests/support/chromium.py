"""A real browser for tests of pages: Chromium, where there is one on PATH."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from typing import Any

import pytest
from playwright.sync_api import Browser, Page, sync_playwright

CHROMIUM = shutil.which("chromium")
ARGUMENTS = (
    *("--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run"),
    *("--disable-background-networking", "--disable-component-update", "--disable-sync"),
)
needs_chromium = pytest.mark.skipif(CHROMIUM is None, reason="no chromium on PATH")


@pytest.fixture(scope="module")
def chromium() -> Iterator[Browser]:
    """A module that uses it imports it."""
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=list(ARGUMENTS))
        yield browser
        browser.close()


def opened(chromium: Browser, url: str, *, width: int, height: int, **options: Any) -> Page:
    """A page in a browser without cookies."""
    page = chromium.new_context(viewport={"width": width, "height": height}, **options).new_page()
    page.goto(url)
    return page
