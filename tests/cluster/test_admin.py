"""The admin over HTTP, as a browser uses it: counters across shards, writes, API keys, log-in; and the front page."""

from __future__ import annotations

import re
from collections.abc import Callable
from html import unescape
from typing import Any
from uuid import uuid4

import httpx
import pytest
from django.contrib.auth.models import User
from django.test import RequestFactory

from counters.admin import listing
from counters.admin.login import seconds_to_wait, user_name
from counters.limits.addresses import of_request
from counters.models import ApiKey, Limits
from tests.support.admin import field
from tests.support.browser import LOGIN, Browser, said
from tests.support.cluster import Cluster, eventually, value_of

LIST = "/admin/counters/counter/"
LIKES = "/admin/likes/like/"


def address_of(key: str) -> str:
    quoted = "".join(f"_{ord(c):02X}" if c in ':/_#?;@&=+$,"[]<>%\n\\' else c for c in key)
    return f"{LIST}{quoted}/change/"


def test_every_page_of_the_index_opens(root: Browser) -> None:
    index = root.get("/admin")
    assert "Tally" in index.text
    links = set(re.findall(r'href="(/admin/(?:auth|counters)/[^"]+)"', index.text))
    assert {LIST, "/admin/counters/apikey/", "/admin/auth/user/", "/admin/auth/group/"} <= links
    assert not any("rest_framework_api_key" in link for link in re.findall(r'href="([^"]+)"', index.text))
    for link in links:
        assert root.get(link).status_code == 200, link


def test_prefix_listing_pages_over_all_shards(root: Browser, client: httpx.Client, key: str) -> None:
    keys = [f"{key}.{number:03}" for number in range(230)]
    answer = client.post("/v1/increments", json={"increments": [{"key": one, "delta": 2} for one in keys]})
    eventually(lambda: client.get(f"/v1/writes/{answer.json()['id']}").json()["status"] == "applied")
    eventually(lambda: len(client.get("/v1/counters", params={"prefix": key, "limit": 500}).json()["results"]) == 230)
    found, shards, page = [], set(), root.get(LIST, params={"q": key})
    for _ in range(4):
        found += re.findall(r'<th class="field-key"><a href="[^"]+">([^<]+)</a>', page.text)
        shards |= set(re.findall(r'field-shard number">(\d+)<', page.text))
        following = re.search(r'<a href="([^"]+)" rel="next">', page.text)
        if not following:
            break
        page = root.get(LIST + unescape(following[1]))
    assert found == keys
    assert shards == {"0", "1"}


def test_searches(root: Browser, key: str) -> None:
    assert "never written" in root.get(LIST, params={"q": key, "match": "key"}).text
    assert "reads as 0" in root.get(LIST, params={"q": key}).text
    bad = root.get(LIST, params={"q": "a b"})
    assert bad.status_code == 200
    assert "A key has 1 to 200 characters" in bad.text
    assert root.get(LIST, params={"match": "x"}).status_code == 200
    assert "This is not a key" in said(root.get(address_of("a b")))


@pytest.mark.smoke
def test_set_add_and_reset_go_through_the_queue(root: Browser, client: httpx.Client, key: str) -> None:
    address = address_of(key)
    assert "never written" in root.get(address).text
    assert "Applied: the value is 40" in said(root.submit(address, operation="set", number="40", unchanged="on"))
    assert "Applied: the value is 42" in said(root.submit(address, operation="add", number="2"))
    assert value_of(client, key) == 42
    assert "Applied: the value is 0" in said(root.submit(address, operation="reset", unchanged="on"))
    history = root.get(address.replace("/change/", "/history/")).text
    for what in ("Set to 40", "Add 2", "Reset to 0"):
        assert what in history


def test_a_change_made_meanwhile_is_not_lost(root: Browser, client: httpx.Client, key: str) -> None:
    address = address_of(key)
    page = root.get(address)
    client.post(f"/v1/counters/{key}/increments", params={"wait": 10}, json={"delta": 5})
    refused = root.submit(address, page, operation="set", number="1", unchanged="on")
    assert "Rejected: it was written meanwhile; its value is 5" in said(refused)
    assert value_of(client, key) == 5
    assert "Applied" in said(root.submit(address, root.get(address), operation="set", number="1"))


def test_a_form_sent_twice_counts_once(root: Browser, client: httpx.Client, key: str) -> None:
    page = root.get(address_of(key))
    for _ in range(3):
        assert "Applied: the value is 7" in said(root.submit(address_of(key), page, operation="add", number="7"))
    assert "sent before, with another change" in said(root.submit(address_of(key), page, operation="add", number="8"))
    assert value_of(client, key) == 7


def test_overflow_and_bad_forms_are_told(root: Browser, client: httpx.Client, key: str) -> None:
    address = address_of(key)
    root.submit(address, operation="set", number=str(2**63 - 1), unchanged="on")
    assert "Rejected: the counter would leave the range" in said(root.submit(address, operation="add", number="1"))
    asked: list[dict[str, Any]] = [
        {"operation": "set"},
        {"operation": "add", "number": "x"},
        {"operation": "set", "number": str(2**63)},
        {},
    ]
    for fields in asked:
        answer = root.submit(address, **fields)
        assert answer.status_code == 200
        assert "Please correct the error" in answer.text
    assert root.submit(address, operation="reset", version="x", token="y").status_code == 200
    assert value_of(client, key) == 2**63 - 1


def test_permissions(browse: Callable[..., Browser], key: str) -> None:
    viewer, nobody = browse("view_counter"), browse()
    page = viewer.get(address_of(key))
    assert "View counter" in page.text
    assert 'name="operation"' not in page.text
    token = viewer.cookies["csrftoken"]
    assert viewer.post(address_of(key), data={"operation": "reset", "csrfmiddlewaretoken": token}).status_code == 403
    for address in (LIST, address_of(key), f"{LIST}writes/", "/admin/counters/apikey/"):
        assert nobody.get(address).status_code == 403, address
    assert viewer.get(f"{LIST}add/").status_code == 403
    assert "/admin/login/" in str(browse(log_in=False).get(LIST).url)


def test_look_up_a_write(root: Browser, client: httpx.Client, key: str) -> None:
    write = client.post(f"/v1/counters/{key}/increments", params={"wait": 10}, json={"delta": 3}).json()["id"]
    found = root.get(f"{LIST}writes/", params={"id": write}).text
    assert "<strong>applied</strong>" in found
    assert key in found
    assert "No write with this id" in root.get(f"{LIST}writes/", params={"id": f"{uuid4().hex}-0-0"}).text
    assert "No write with this id" in root.get(f"{LIST}writes/", params={"id": f"{uuid4().hex}-0-63"}).text
    assert "not an id" in root.get(f"{LIST}writes/", params={"id": "x"}).text


def test_api_keys_are_shown_once_scoped_and_revoked(root: Browser, cluster: Cluster, key: str) -> None:
    listing, name = "/admin/counters/apikey/", f"k{uuid4().hex[:12]}"
    made = root.submit(f"{listing}add/", name=name, scopes="write")
    new = re.search(rf"The API key for {name} is: (\S+)\. ", said(made))
    assert new, said(made)
    stored = ApiKey.objects.get(name=name)
    assert stored.scopes == ["write"]
    shown = made.text + root.get(listing).text + root.get(f"{listing}{stored.pk}/change/").text
    assert stored.hashed_key not in shown
    assert stored.hashed_key not in stored.pk
    assert new[1] not in root.get(listing).text
    with cluster.client(new[1]) as client:
        eventually(lambda: client.post(f"/v1/counters/{key}/increments", json={"delta": 1}).status_code == 202)
        done = root.submit(listing, action="revoke", _selected_action=stored.pk)
        assert "1 revoked" in said(done)
        eventually(lambda: client.post(f"/v1/counters/{key}/increments", json={"delta": 1}).status_code == 401, 15)
    assert 'name="name"' not in root.get(f"{listing}{stored.pk}/change/").text
    assert root.get(f"{listing}{stored.pk}/delete/").status_code == 403
    assert "This field is required" in root.submit(f"{listing}add/", name=name).text


def test_likes_are_found_by_item_and_by_user(root: Browser, client: httpx.Client, key: str) -> None:
    item, others = uuid4().hex, [f"{key}:{number}" for number in range(listing.PAGE + 3)]
    events = [{"item_type": "test", "item_id": item, "user_id": user, "action": "like"} for user in (key, *others)]
    write = client.post("/v1/likes", json={"events": events}).json()["id"]
    eventually(lambda: client.get(f"/v1/writes/{write}").json()["status"] == "applied")
    of_item = {"item": f"test/{item}"}
    page = eventually(
        lambda: f"<strong>{len(events)}</strong> likes" in (page := root.get(LIKES, params=of_item)).text and page
    )
    users = field(page, "user")
    following = re.search(r'<a href="([^"]+)" rel="next">', page.text)
    assert following
    users += field(root.get(LIKES + unescape(following[1])), "user")
    assert sorted(users) == sorted([key, *others])
    assert field(root.get(LIKES, params={"user": key}), "item") == [f"test/{item}"]
    assert field(root.get(LIKES, params={**of_item, "user": key}), "user") == [key]
    assert f"nobody does not like test/{item}." in root.get(LIKES, params={**of_item, "user": "nobody"}).text
    assert "nobody likes nothing." in root.get(LIKES, params={"user": "nobody"}).text
    assert "An item is written as TYPE/ITEM" in root.get(LIKES, params={"item": item}).text
    assert "Name an item or a user." in root.get(LIKES).text
    assert "A user has 1 to 140 characters" in root.get(LIKES, params={"user": "a b"}).text
    assert root.get(LIKES, params={"user": key, "after": "[1"}).status_code == 200


def test_limits_in_force_are_shown_with_where_they_come_from(root: Browser, cluster: Cluster) -> None:
    page = root.get("/admin/counters/limits/")
    assert field(page, "value")[1] == f"{int(cluster.env.get('TALLY_API_KEY_RATE', 6_000_000)):,}"
    assert field(page, "source")[1] == "TALLY_API_KEY_RATE"
    Limits.objects.get_or_create()  # with nothing set
    change = re.search(r'id="change" href="([^"]+)"', root.get("/admin/counters/limits/").text)
    assert change
    assert 'name="api_key_rate"' in root.get(change[1]).text
    name = f"k{uuid4().hex[:12]}"
    made = ApiKey.objects.create(name=name, prefix=name[:8], hashed_key=name, id=name[:8], requests_rate=77)
    try:
        assert f"/admin/counters/apikey/{made.pk}/change/" in root.get("/admin/counters/limits/").text
        assert "TALLY_EXCESS_INCREMENTS" in page.text
    finally:
        made.delete()


@pytest.mark.smoke
def test_log_in(cluster: Cluster, browse: Callable[..., Browser]) -> None:
    user = User.objects.create_user(f"u{uuid4().hex}", password="a-long-Password-7", is_staff=True)
    try:
        browser = browse(log_in=False)
        refused = browser.log_in(user.username, "another")
        assert (refused.status_code, refused.url.path) == (200, LOGIN)
        assert "/admin/login/" in str(browser.get("/admin/").url)
        page = browser.submit(LOGIN, username=user.username, password="a-long-Password-7")
        assert (page.status_code, page.url.path) == (200, "/admin/")
        assert user.username in page.text
    finally:
        user.delete()


def tries(browser: Browser, name: str, number: int) -> list[int]:
    """The statuses of tries to log in with a wrong password."""
    return [browser.log_in(name, "").status_code for _ in range(number)]


def test_log_ins_are_limited_by_address(browse: Callable[..., Browser]) -> None:
    browser = browse(log_in=False)
    answers = [browser.log_in(f"u{uuid4().hex}", "") for _ in range(22)]  # the tenth may begin another minute
    refused = [answer for answer in answers if answer.status_code == 429]
    assert answers[0].status_code == 200
    assert 1 <= int(refused[-1].headers["Retry-After"]) <= 60
    assert "Please wait" in refused[-1].text
    assert browse(log_in=False).log_in(f"u{uuid4().hex}", "").status_code == 200


def test_an_address_is_believed_from_nginx_alone(cluster: Cluster) -> None:
    told = {"X-Real-IP": "10.1.2.3"}
    for headers in (told, told | {"X-Tally-Proxy": ""}, told | {"X-Tally-Proxy": "a guess, é"}):
        assert of_request(RequestFactory().post(LOGIN, headers=headers, REMOTE_ADDR="127.0.0.1")) == "127.0.0.1"
    believed = RequestFactory().post(LOGIN, headers=cluster.from_address("10.1.2.3"), REMOTE_ADDR="127.0.0.1")
    assert of_request(believed) == "10.1.2.3"


def test_spellings_of_a_name_are_one_name(cluster: Cluster) -> None:
    """Django logs a name in full-width letters in as the plain one."""

    def waits(number: int) -> list[int]:
        name, headers = f"u{uuid4().hex}", cluster.from_address(f"10.251.{number}.1")
        spellings = [name, f" {name}", f"\uff55{name[1:]}", f"{name}\u00a0"] * 2
        return [seconds_to_wait(RequestFactory().post(LOGIN, {"username": one}, headers=headers)) for one in spellings]

    assert any(waits(1)) or any(waits(2)), "a new minute may begin in the midst of one of them"
    mixed = f"u{uuid4().hex}"
    plain = RequestFactory().post(LOGIN, {"username": mixed.upper()})
    assert user_name(plain) == mixed.upper(), "another name, to Django too"


def test_nobody_locks_another_out(cluster: Cluster, browse: Callable[..., Browser]) -> None:
    password = "a-long-Password-7"
    user = User.objects.create_user(f"u{uuid4().hex}", password=password, is_staff=True)
    try:
        owner = browse(log_in=False)
        assert owner.log_in(user.username, password).url.path == "/admin/"
        for number in range(102):  # from an address each, so that nothing but the name tells them
            headers = cluster.from_address(f"10.250.{number}.1")
            assert seconds_to_wait(RequestFactory().post(LOGIN, {"username": user.username}, headers=headers)) == 0
        attacker = browse(log_in=False)
        assert tries(attacker, user.username, 3) in ([200, 429, 429], [200, 200, 429]), "a try in ten minutes"
        assert browse(log_in=False).log_in(user.username, password).url.path == "/admin/", "from a fresh address"
        neighbour = browse(log_in=False)
        neighbour.headers["X-Real-IP"] = owner.headers["X-Real-IP"]
        assert 429 in tries(neighbour, user.username, 3)
        owner.get("/admin/")
        owner.submit("/admin/logout/", owner.get("/admin/password_change/"))
        assert owner.log_in(user.username, password).url.path == "/admin/", "the device has logged in before"
    finally:
        user.delete()


def test_front_page_needs_nothing_from_elsewhere(cluster: Cluster) -> None:
    page = httpx.get(cluster.url + "/")
    assert page.status_code == 200
    for link in ("/v1/docs", "/admin/", "/status", "/health"):
        assert f'href="{link}"' in page.text
    assert f"curl {cluster.url}/v1/counters/" in page.text
    assert not re.search(r"(?:src|href)=\"(?:https?:)?//", page.text)
    assert "default-src 'none'" in page.headers["Content-Security-Policy"]
    assert httpx.get(cluster.url + "/favicon.ico").headers["Content-Type"] == "image/svg+xml"
