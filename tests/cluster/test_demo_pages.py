"""`/demo/likes`: two browsers like the same items. The pages themselves are tested in Chromium, where there is one."""

from __future__ import annotations

from collections.abc import Iterator

import httpx
import pytest
from playwright.sync_api import Browser, Page, expect

from likes import demo
from tests.support.chromium import chromium, needs_chromium, opened
from tests.support.cluster import Cluster, eventually

__all__ = ["chromium"]
ITEM = "bicycle"
CLICK = f"/demo/likes/{ITEM}"


@pytest.fixture
def guest(cluster: Cluster) -> Iterator[httpx.Client]:
    """A browser without scripts that has opened the page."""
    with httpx.Client(base_url=cluster.url, timeout=30) as client:
        assert client.get("/demo/likes").status_code == 200
        yield client


def click(guest: httpx.Client, liked: object, path: str = CLICK) -> httpx.Response:
    return guest.post(path, json={"liked": liked}, headers={"X-CSRFToken": guest.cookies["csrftoken"]})


def state(guest: httpx.Client) -> dict[str, object]:
    results = guest.get("/demo/likes/state").json()["results"]
    assert [one["item"] for one in results] == [item.name for item in demo.ITEMS]
    return next(one for one in results if one["item"] == ITEM)


def test_a_click_is_a_like_of_this_browser(guest: httpx.Client, client: httpx.Client) -> None:
    user = guest.cookies[demo.COOKIE].partition(":")[0].strip('"')
    like = f"/v1/likes/{demo.TYPE}/{ITEM}/users/{user}"
    assert state(guest)["liked"] is False
    assert click(guest, True).status_code == 202
    assert state(guest)["liked"] is True
    assert client.get(like).json()["liked"] is True
    assert click(guest, False).status_code == 202
    assert state(guest)["liked"] is False
    eventually(lambda: client.get(like).json()["pending"] is False)
    assert client.get(like).json()["liked"] is False


def test_a_click_needs_the_page(guest: httpx.Client) -> None:
    assert guest.post(CLICK, json={"liked": True}).status_code == 403
    token = guest.cookies["csrftoken"]
    for cookies in ({"csrftoken": token}, {"csrftoken": token, demo.COOKIE: "guest-1:forged"}):
        guest.cookies = httpx.Cookies(cookies)
        answer = click(guest, True)
        assert answer.status_code == 403
        assert "/demo/likes" in answer.json()["detail"]


@pytest.mark.parametrize("liked", [1, None, "yes"])
def test_a_click_says_what_is_wrong_with_it(guest: httpx.Client, liked: object) -> None:
    answer = click(guest, liked)
    assert answer.status_code == 400
    assert answer.json()["errors"][0]["field"] == "liked"


def test_only_the_items_of_the_page(guest: httpx.Client) -> None:
    answer = click(guest, True, "/demo/likes/secret")
    assert answer.status_code == 400
    assert answer.json()["errors"][0]["field"] == "item"


@needs_chromium
def test_two_browsers_see_each_others_likes(chromium: Browser, cluster: Cluster) -> None:
    wide = _opened(chromium, cluster, width=900, height=760)
    phone = _opened(chromium, cluster, width=360, height=740)
    heart, count = "li[data-item=coffee] button", "#coffee-count"
    before = int(phone.locator(count).inner_text())
    wide.locator(heart).click()
    expect(wide.locator(heart)).to_have_attribute("aria-pressed", "true")
    expect(phone.locator(count)).to_have_text(str(before + 1), timeout=30_000)
    expect(phone.locator(heart)).to_have_attribute("aria-pressed", "false")
    phone.locator(heart).click()
    expect(wide.locator(count)).to_have_text(str(before + 2), timeout=30_000)
    wide.reload()
    expect(wide.locator(heart)).to_have_attribute("aria-pressed", "true")
    wide.locator(heart).click()
    expect(phone.locator(count)).to_have_text(str(before + 1), timeout=30_000)
    assert phone.evaluate("document.documentElement.scrollWidth <= window.innerWidth")


@needs_chromium
def test_the_page_says_that_the_api_is_away(chromium: Browser, cluster: Cluster) -> None:
    page = _opened(chromium, cluster, width=900, height=760)
    page.context.set_offline(True)
    expect(page.locator("#trouble")).to_contain_text("No news", timeout=30_000)
    page.context.set_offline(False)
    expect(page.locator("#trouble")).to_be_empty(timeout=30_000)


def _opened(chromium: Browser, cluster: Cluster, *, width: int, height: int) -> Page:
    page = opened(chromium, f"{cluster.url}/demo/likes", width=width, height=height)
    expect(page.locator("#monday-count")).to_have_text("0", timeout=30_000)
    return page
