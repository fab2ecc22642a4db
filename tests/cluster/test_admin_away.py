"""Every page of the admin while a part is down: it comes within seconds, and says which part that is."""

from __future__ import annotations

import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from django.contrib import admin
from django.urls import reverse

from tests.support.browser import Browser
from tests.support.cluster import Cluster, eventually, frozen
from tests.support.shards import primary_of

pytestmark = pytest.mark.usefixtures("whole")
WITHIN_SECONDS = 8.0  # each page, twelve being asked for at once
PARTS: dict[str, tuple[Callable[[Cluster], list[dict[str, Any]]], str]] = {
    "a shard's primary": (lambda cluster: [primary_of(cluster, 1)], "shard-1"),
    "the journal": (lambda cluster: cluster.processes("redis-journal"), "journal"),
    "the cache": (lambda cluster: cluster.processes("redis-cache"), "cache"),
    "the broker": (lambda cluster: cluster.processes("redis-broker"), "broker"),
}


def pages() -> list[str]:
    """The index, the list of everything that is registered, and the pages that are no lists."""
    lists = [reverse(f"admin:{one._meta.app_label}_{one._meta.model_name}_changelist") for one in admin.site._registry]
    return [
        reverse("admin:index"),
        *sorted(lists),
        "/admin/counters/counter/away/change/",
        "/admin/counters/counter/writes/?id=01a21e02d60976cbbe3c9c35f9ddb1d4-0-1",
        "/admin/counters/apikey/add/",
        "/admin/likes/like/?user=away",
    ]


@pytest.mark.parametrize("part", PARTS)
def test_every_page_comes_and_says_what_is_down(root: Browser, cluster: Cluster, part: str) -> None:
    find, name = PARTS[part]
    eventually(lambda: "Not up now" not in root.get("/admin/").text)  # a look is shared for a second or two

    def asked(page: str) -> tuple[str, int, bool, float]:
        began = time.monotonic()
        answer = root.get(page)
        said = answer.text.partition('id="parts-down"')[2].partition("</div>")[0]
        return page, answer.status_code, f"<b>{name}" in said, round(time.monotonic() - began, 1)

    with frozen(*find(cluster)):
        eventually(lambda: asked("/admin/")[2])
        with ThreadPoolExecutor(12) as pool:
            found = list(pool.map(asked, pages()))
    bad = [one for one in found if one[1] >= 500 or not one[2] or one[3] > WITHIN_SECONDS]
    assert not bad, found
