"""Quotas without their Redis: what a process counts by itself, what the headers say, who a caller is."""

from __future__ import annotations

import re
from collections.abc import Sequence

import pytest
from django.conf import settings
from django.test import RequestFactory
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from counters.limits import addresses
from counters.limits.policies import Policy, of_address, of_key
from counters.limits.window import EXACT_BELOW, REFUSAL_SECONDS, UNREPORTED_SHARE, Window

NOW = 1000.0
# A List of RFC 9651 whose items are strings with parameters, as the draft wants both headers.
ITEM = r'"[a-z]+"(;[a-z*][a-z0-9_.*-]*=([0-9]{1,15}|"[ -~]*"))+'
LIST = re.compile(rf"{ITEM}(, {ITEM})*")


def window(quota: int) -> Window:
    return Window(Policy("requests", quota), "caller", NOW)


def test_a_small_quota_is_never_counted_by_a_process_alone() -> None:
    assert window(11_999).count(1, NOW) == 0, "as docs/limits.md promises"
    assert window(EXACT_BELOW).count(1, NOW) == 1


def test_a_process_counts_no_more_than_its_share_until_it_has_reported() -> None:
    one = window(EXACT_BELOW)
    share = EXACT_BELOW // UNREPORTED_SHARE
    assert [bool(one.count(1, NOW)) for _ in range(share + 2)] == [True] * share + [False] * 2
    assert one.report() == share
    assert one.count(1, NOW)


def test_a_process_counts_nothing_alone_when_little_is_left() -> None:
    one = window(EXACT_BELOW)
    one.learn(EXACT_BELOW * 7 // 8, 60_000, NOW)
    assert one.count(1, NOW) == 0
    one.learn(EXACT_BELOW // 2, 60_000, NOW)
    assert one.count(1, NOW)


@given(
    quota=st.integers(EXACT_BELOW, 3 * EXACT_BELOW),
    uses=st.lists(st.tuples(st.integers(0, 4), st.integers(1, 8000), st.booleans()), min_size=20, max_size=100),
)
@hypothesis_settings(max_examples=40)
def test_processes_together_exceed_a_quota_by_a_share_each_at_most(
    quota: int, uses: Sequence[tuple[int, int, bool]]
) -> None:
    """`lua/count.lua` without time: what is used stays in the window."""
    processes = [window(quota) for _ in range(5)]
    shared = allowed = 0
    for number, amount, reports in uses:
        one = processes[number]
        if reports:
            shared += one.report()
            one.learn(shared, 60_000, NOW)
        if one.count(amount, NOW):
            allowed += amount
            continue
        shared += one.report()
        if shared + amount <= quota:
            shared += amount
            allowed += amount
        one.learn(shared, 60_000, NOW)
    assert allowed <= quota + len(processes) * (quota // UNREPORTED_SHARE)


def test_a_refusal_is_repeated_from_memory_for_a_moment() -> None:
    one = window(10)
    one.refuse(3, 30_500, NOW)
    assert one.seconds_to_wait(3, NOW) == 31
    assert one.seconds_to_wait(2, NOW) == 0, "so many may be free"
    assert one.seconds_to_wait(3, NOW + REFUSAL_SECONDS) == 0, "to be asked again"
    one.allow(Policy("requests", 20))
    assert one.seconds_to_wait(3, NOW) == 0, "another quota"


def test_headers_are_lists_of_structured_fields() -> None:
    one = window(100)
    one.learn(40, 12_100, NOW)
    assert one.item(NOW) == '"requests";r=60;t=13'
    assert one.item(NOW + 13) == '"requests";r=60;t=0'
    policies = of_key(100, 5000).header.decode()
    assert policies == '"requests";q=100;w=60, "increments";q=5000;w=60;tally-unit="increments"'
    assert of_address(7).header == b'"anonymous";q=7;w=60'
    assert LIST.fullmatch(policies)
    assert LIST.fullmatch(one.item(NOW))


@pytest.mark.parametrize(
    ("told", "counted"),
    [
        ("192.0.2.7", "192.0.2.7"),
        ("2001:db8:1:2:3:4:5:6", "2001:db8:1:2::/64"),
        ("2001:db8:1:2:ffff::1", "2001:db8:1:2::/64"),
        ("::ffff:192.0.2.7", "192.0.2.7"),
        ("", "10.9.8.7"),
    ],
)
def test_the_address_is_what_nginx_tells(told: str, counted: str) -> None:
    secret = settings.TALLY.proxy_secret.get_secret_value().encode()
    headers = [(b"x-real-ip", told.encode()), (b"x-tally-proxy", secret)]
    assert addresses.of_scope({"headers": headers, "client": ("10.9.8.7", 1)}) == counted
    request = RequestFactory().get("/", headers={"X-Real-IP": told, "X-Tally-Proxy": secret.decode()})
    request.META["REMOTE_ADDR"] = "10.9.8.7"
    assert addresses.of_request(request) == counted


@pytest.mark.parametrize("secret", [b"", b"a guess", "é".encode()])
def test_nobody_else_is_believed(secret: bytes) -> None:
    headers = [(b"x-real-ip", b"192.0.2.7"), (b"x-forwarded-for", b"192.0.2.7"), (b"x-tally-proxy", secret)]
    assert addresses.of_scope({"headers": headers, "client": ("10.9.8.7", 1)}) == "10.9.8.7"
