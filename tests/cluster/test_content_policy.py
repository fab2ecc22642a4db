"""The Content-Security-Policy of every kind of page: it is strict, and the page works with it in a browser."""

from __future__ import annotations

import httpx
import pytest
from django.conf import settings
from playwright.sync_api import Browser as Chromium
from playwright.sync_api import Page, expect

from tests.support.browser import Browser
from tests.support.chromium import chromium, needs_chromium
from tests.support.cluster import Cluster

__all__ = ["chromium"]
# Made before the browser, in whose thread Django refuses to use a database.
pytestmark = pytest.mark.usefixtures("root")
PUBLIC = ("/", "/status", "/demo/likes", "/v1/docs", "/admin/login/")
STAFF = (
    *("/admin/", "/admin/counters/counter/", "/admin/counters/apikey/add/", "/admin/replication/intervention/"),
    *(
        "/admin/counters/journalentry/",
        "/admin/auth/user/",
        "/admin/password_change/",
        "/admin/second-factor/",
        "/status",
        "/v1/docs",
    ),
)


@pytest.mark.parametrize("path", [*PUBLIC, "/admin/nowhere/"])
def test_a_page_allows_only_its_own_scripts_and_styles(cluster: Cluster, path: str) -> None:
    page = httpx.get(cluster.url + path, follow_redirects=True)
    rules = dict(rule.split(" ", 1) for rule in page.headers["Content-Security-Policy"].split("; "))
    assert rules["default-src"] == rules["base-uri"] == rules["frame-ancestors"] == "'none'"
    assert not {"'unsafe-inline'", "'unsafe-eval'", "*", "https:", "data:"} & set(
        f"{rules['script-src']} {rules['style-src']}".split()
    )
    assert page.headers["X-Frame-Options"] == "DENY"


def test_a_nonce_is_used_once(cluster: Cluster) -> None:
    first, second = (httpx.get(cluster.url + "/v1/docs").headers["Content-Security-Policy"] for _ in range(2))
    assert "'nonce-" in first
    assert first != second


def test_answers_of_the_api_carry_no_policy(cluster: Cluster) -> None:
    assert "Content-Security-Policy" not in httpx.get(cluster.url + "/v1/schema").headers
    assert "Content-Security-Policy" not in httpx.get(cluster.url + "/v1/counters/csp").headers


@pytest.fixture
def complaints() -> list[str]:
    """What the browser blocks or cannot run."""
    return []


def _page(chromium: Chromium, complaints: list[str]) -> Page:
    page = chromium.new_context(viewport={"width": 1200, "height": 800}).new_page()
    page.set_default_timeout(60_000)  # the machine may be slow
    page.on("console", lambda said: complaints.append(said.text) if said.type == "error" else None)
    page.on("pageerror", lambda error: complaints.append(str(error)))
    return page


@needs_chromium
def test_the_browser_sees_violations(chromium: Chromium, cluster: Cluster, complaints: list[str]) -> None:
    page = _page(chromium, complaints)
    page.goto(cluster.url + "/admin/login/")
    page.evaluate("document.body.append(Object.assign(document.createElement('script'), {text: 'window.ran = 1'}))")
    page.evaluate("document.body.append(Object.assign(document.createElement('style'), {textContent: 'a {}'}))")
    assert page.evaluate("window.ran") is None
    assert len([one for one in complaints if "Content Security Policy" in one]) == 2


@needs_chromium
def test_public_pages_work(chromium: Chromium, cluster: Cluster, complaints: list[str]) -> None:
    page = _page(chromium, complaints)
    for path in PUBLIC:
        page.goto(cluster.url + path, wait_until="load")
    page.goto(cluster.url + "/v1/docs")
    call = page.locator(".opblock-get").first
    expect(call).to_be_visible(timeout=60_000)
    call.locator(".opblock-summary-control").click()
    expect(call.locator(".execute")).to_be_visible(timeout=30_000)
    assert complaints == []


@needs_chromium
def test_pages_of_staff_work(chromium: Chromium, cluster: Cluster, root: Browser, complaints: list[str]) -> None:
    page = _page(chromium, complaints)
    session = root.cookies[settings.SESSION_COOKIE_NAME]
    page.context.add_cookies([{"name": settings.SESSION_COOKIE_NAME, "value": session, "url": cluster.url}])
    for path in STAFF:
        answer = page.goto(cluster.url + path, wait_until="load")
        assert answer is not None
        assert answer.status == 200, path
        assert "/login/" not in page.url
    page.goto(cluster.url + "/admin/counters/counter/csp/change/")
    page.locator("[name=operation][value=reset]").check()
    expect(page.locator("[name=number]")).to_be_disabled()  # by the page's own script
    assert complaints == []
