"""What callers may use: quotas by address and by API key, shared by all processes, changed while they run."""

from __future__ import annotations

import asyncio
import re
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any
from uuid import uuid4

import httpx
import msgspec
import pytest
from django.conf import settings
from django.contrib.admin.models import LogEntry
from django.core import signing
from django.core.management import CommandError
from django.http import HttpResponse
from django.test import RequestFactory, override_settings

from counters.admin.login import DEVICE_COOKIE, seconds_to_wait
from counters.admin.pages import PagesLimit
from counters.limits.limiter import Limiter, QuotaExceeded
from counters.limits.policies import Policy, of_address, of_key
from counters.limits.window import EXACT_BELOW, UNREPORTED_SHARE
from counters.models import ApiKey, Limits
from runtime import redis
from runtime.redis import LoopConnection
from sharding import databases
from tests.conftest import fresh_address
from tests.support.browser import LOGIN, Browser, said
from tests.support.cluster import Cluster, eventually, value_of

KEYS = "/admin/counters/apikey/"


class Counting(LoopConnection):
    """Counts its round trips."""

    trips = 0

    async def evaluate(self, text: str, keys: Sequence[Any], args: Sequence[Any]) -> Any:
        self.trips += 1
        return await super().evaluate(text, keys, args)


def with_limiters(
    cluster: Cluster, number: int, work: Callable[[list[Limiter], list[Counting]], Awaitable[None]]
) -> None:
    """Run a coroutine with limiters as so many processes have them."""

    async def run() -> None:
        url = cluster.env["TALLY_CACHE_URL"]
        connections = [Counting(redis.pool_of(url, 10.0), 10.0) for _ in range(number)]
        limiters = [Limiter(connection) for connection in connections]
        try:
            await work(limiters, connections)
        finally:
            for limiter in limiters:
                await limiter.close()

    asyncio.run(run())


async def taken(limiter: Limiter, policy: Policy, caller: str, amount: int = 1) -> int:
    """How many units a caller got: all that it wanted, or none."""
    try:
        await limiter.take(policy, caller, amount)
    except QuotaExceeded:
        return 0
    return amount


# The window


def test_a_window_slides(cluster: Cluster, key: str) -> None:
    """No burst at an edge: what was used leaves the window a window later, not before."""

    async def work(limiters: list[Limiter], _: list[Counting]) -> None:
        policy = Policy("test", 10, 2)
        assert sum([await taken(limiters[0], policy, key) for _ in range(4)]) == 4
        await asyncio.sleep(1.2)
        assert sum([await taken(limiters[0], policy, key) for _ in range(10)]) == 6
        began = time.monotonic()
        while not (got := await taken(limiters[1], policy, key, 4)):
            await asyncio.sleep(0.05)
        assert got == 4, "the first four have left"
        assert time.monotonic() - began > 0.3
        assert await taken(limiters[2], policy, key) == 0, "the six have not"

    with_limiters(cluster, 3, work)


def test_counts_clean_themselves_up(cluster: Cluster, key: str) -> None:
    async def work(limiters: list[Limiter], _: list[Counting]) -> None:
        await limiters[0].take(Policy("test", 10), key)

    with_limiters(cluster, 1, work)
    assert 58 < redis.cache().ttl(f"limit:test:{key}") <= 60


def test_processes_share_a_small_quota_exactly(cluster: Cluster, key: str) -> None:
    async def work(limiters: list[Limiter], _: list[Counting]) -> None:
        policy = Policy("test", 100)
        asked = [taken(limiter, policy, key) for _ in range(80) for limiter in limiters]
        assert sum(await asyncio.gather(*asked)) == 100

    with_limiters(cluster, 3, work)


def test_processes_share_a_large_quota_nearly_exactly_and_seldom_ask(cluster: Cluster, key: str) -> None:
    async def work(limiters: list[Limiter], connections: list[Counting]) -> None:
        policy, got = Policy("test", quota := 10 * EXACT_BELOW), 0
        for _ in range(quota // 150):
            for limiter in limiters:
                got += await taken(limiter, policy, key, 60)
        assert quota <= got + 60
        assert got <= quota + 3 * quota // UNREPORTED_SHARE
        assert sum(connection.trips for connection in connections) < got / 60 / 2

    with_limiters(cluster, 3, work)


def test_a_caller_that_is_known_to_be_over_costs_no_round_trip(cluster: Cluster, key: str) -> None:
    async def work(limiters: list[Limiter], connections: list[Counting]) -> None:
        policy = Policy("test", 3)
        began = time.monotonic()
        got = [await taken(limiters[0], policy, key) for _ in range(1000)]
        assert sum(got) == 3
        assert connections[0].trips <= 4 + (time.monotonic() - began)

    with_limiters(cluster, 1, work)


# Over HTTP


@contextmanager
def limits_in_force(cluster: Cluster, root: Browser, **rates: int) -> Iterator[None]:
    """Limits of all callers, set in the admin, on every API process; afterwards those of before again."""
    change = "/admin/counters/limits/{}/change/"
    if (row := Limits.objects.first()) is None:
        row = Limits.objects.create()
    addresses = [f"http://127.0.0.1:{api['port']}/v1/counters/test" for api in cluster.processes("api")]

    wanted = {
        of_address(rates["anonymous_rate"]).header.decode(),
        of_key(rates["api_key_rate"], rates["api_key_increments_rate"]).header.decode(),
    }

    def in_force() -> set[str]:
        """The policies that the processes tell an address and an API key."""
        with_key = {"Authorization": f"Api-Key {cluster.key}"}
        callers = [(one, who) for one in addresses for who in (cluster.from_address(fresh_address()), with_key)]
        return {httpx.get(one, headers=who).headers["RateLimit-Policy"] for one, who in callers}

    before = in_force()
    try:
        fields: dict[str, Any] = dict(rates)
        assert "was changed successfully" in said(root.submit(change.format(row.pk), **fields))
        eventually(lambda: in_force() == wanted, 15)
        yield
    finally:
        cluster.command("limits", "--anonymous", "default", "--requests", "default", "--increments", "default")
        eventually(lambda: in_force() == before, 15)


def apis(cluster: Cluster) -> list[str]:
    return [f"http://127.0.0.1:{api['port']}" for api in cluster.processes("api")]


def limited(cluster: Cluster, limit: str) -> float:
    """Requests refused by a limit, as all API processes tell."""
    told = "\n".join(cluster.metrics(api) for api in cluster.processes("api"))
    return sum(map(float, re.findall(rf'^tally_limited_total\{{limit="{limit}"\}} (\S+)$', told, re.MULTILINE)))


def test_callers_without_a_key_are_limited_by_address(cluster: Cluster, client: httpx.Client, root: Browser) -> None:
    with limits_in_force(cluster, root, anonymous_rate=20, api_key_rate=5_000_001, api_key_increments_rate=400_000_001):
        before, path = limited(cluster, "anonymous"), "/v1/counters/test:limits"
        # One address, both processes, as many at once as there are; good and bad keys alike.
        stranger = cluster.from_address(fresh_address())
        tries = [stranger, stranger | {"Authorization": "Api-Key un.known"}]
        with ThreadPoolExecutor(8) as threads:
            asked = [(url + path, headers) for _ in range(10) for url in apis(cluster) for headers in tries]
            answers = list(threads.map(lambda one: httpx.get(one[0], headers=one[1], timeout=30), asked))
        seen = Counter(answer.status_code for answer in answers)
        assert seen[429] == len(asked) - 20
        assert seen[200] + seen[401] == 20
        refused = next(answer for answer in answers if answer.status_code == 429)
        assert refused.headers["Content-Type"] == "application/problem+json"
        assert refused.json()["type"] == "urn:tally:problem:quota-exceeded"
        assert refused.json()["violated-policies"] == ["anonymous"]
        assert 1 <= int(refused.headers["Retry-After"]) <= 60
        assert refused.headers["RateLimit-Policy"] == '"anonymous";q=20;w=60'
        assert re.fullmatch(r'"anonymous";r=0;t=\d+', refused.headers["RateLimit"])
        assert limited(cluster, "anonymous") - before == len(asked) - 20
        # From there, what counts nowhere and who has a key goes on; so does another address.
        for calm in ("/livez", "/readyz", "/health", "/", "/favicon.ico"):
            assert httpx.get(apis(cluster)[0] + calm, headers=stranger, timeout=30).status_code == 200
        with_key = stranger | dict(client.headers)
        assert httpx.get(apis(cluster)[0] + path, headers=with_key).status_code == 200
        assert httpx.get(apis(cluster)[0] + path, headers=cluster.from_address(fresh_address())).status_code == 200
        # A subscriber with IPv6 has 2^64 addresses.
        network = f"2001:db8:{uuid4().hex[:4]}:{uuid4().hex[:4]}"
        many = [cluster.from_address(f"{network}::{number:x}") for number in range(1, 26)]
        assert [httpx.get(apis(cluster)[0] + path, headers=one).status_code for one in many].count(429) == 5
        # Through nginx, nobody chooses an address.
        forged = [
            {"X-Forwarded-For": fresh_address(), "X-Real-IP": fresh_address(), "X-Tally-Proxy": "x"} for _ in range(30)
        ]
        with httpx.Client(base_url=cluster.url) as stranger_of_nginx:
            statuses = [stranger_of_nginx.get(path, headers=one).status_code for one in forged]
        assert statuses.count(200) <= 20
        assert set(statuses[20:]) == {429}


def quota_of(cluster: Cluster, root: Browser, api_key: str, **rates: int) -> None:
    """Give an API key quotas in the admin, and wait until both processes have them."""
    prefix = api_key.partition(".")[0]
    page = f"{KEYS}{prefix}/change/"
    fields: dict[str, Any] = {"name": "of a test", "scopes": "write", **rates}
    assert "was changed successfully" in said(root.submit(page, **fields))
    assert LogEntry.objects.filter(object_id=prefix).exists()
    headers = {"Authorization": f"Api-Key {api_key}"}

    def is_in_force() -> bool:
        told = [
            httpx.options(f"{url}/v1/counters/x", headers=headers).headers["RateLimit-Policy"] for url in apis(cluster)
        ]
        return all(f"q={rate};" in one for one in told for rate in rates.values())

    eventually(is_in_force, 15)


def is_recorded(write: str) -> bool:
    """Whether the replica of the token's shard has the record of a write."""
    query = "SELECT FROM idempotency WHERE position(convert_to(%s, 'UTF8') IN record) > 0"
    for shard in (0, 1):
        with databases.connection(databases.replica(shard) or databases.primary(shard)) as conn:
            if conn.execute(query, (write,)).fetchall():
                return True
    return False


def test_a_keys_quotas_are_set_in_the_admin_and_hold_on_both_ways(cluster: Cluster, root: Browser, key: str) -> None:
    api_key = cluster.make_key("write")
    quota_of(cluster, root, api_key, increments_rate=100)
    urls, other = apis(cluster), cluster.make_key("write")
    before = limited(cluster, "increments")

    def add(count: int, number: int = 0, who: str = api_key, **headers: str) -> httpx.Response:
        return httpx.post(
            f"{urls[number]}/v1/increments",
            json={"keys": [key] * count, "deltas": [1] * count},
            headers={"Authorization": f"Api-Key {who}", **headers},
        )

    token = {"Idempotency-Key": uuid4().hex}
    assert add(60).status_code == 202
    first = add(30, 1, **token)
    assert first.status_code == 202, "a view"
    for number in (0, 1):
        for way in ({}, {"Idempotency-Key": uuid4().hex}):
            refused = add(20, number, **way)
            assert refused.status_code == 429
            assert refused.json()["violated-policies"] == ["increments"]
            assert refused.json()["errors"] == [{"field": "increments", "rule": "at most 100 increments in 60 s"}]
            assert 1 <= int(refused.headers["Retry-After"]) <= 60
            assert '"increments";r=10;t=' in refused.headers["RateLimit"]
    eventually(lambda: is_recorded(first.json()["id"]))  # a repeat without a record is charged, and has no quota left
    repeated = add(30, 0, **token)
    assert repeated.status_code == 202, "a repeat counts nothing twice, here neither"
    single: dict[str, Any] = {"json": {"delta": 1}, "headers": {"Authorization": f"Api-Key {api_key}"}}
    assert httpx.post(f"{urls[0]}/v1/counters/{key}/increments", **single).status_code == 202
    waited = httpx.post(f"{urls[1]}/v1/counters/{key}/increments?wait=30", timeout=40, **single)
    assert waited.status_code == 200
    assert add(8).status_code == 202
    assert httpx.post(f"{urls[1]}/v1/counters/{key}/increments", **single).status_code == 429
    assert httpx.post(f"{urls[0]}/v1/counters/{key}/increments?wait=5", **single).status_code == 429
    too_much = add(101)
    assert too_much.status_code == 429
    assert "split the request" in too_much.json()["detail"]
    assert add(1, who=other).status_code == 202, "another key has a quota of its own"
    assert limited(cluster, "increments") - before == 7
    with cluster.client() as client:
        eventually(lambda: value_of(client, key) == 101)  # what was refused was not appended


def test_a_keys_requests_are_counted_exactly_on_all_processes(cluster: Cluster, root: Browser, key: str) -> None:
    api_key = cluster.make_key("read")
    prefix = api_key.partition(".")[0]
    with pytest.raises(CommandError):
        cluster.command("limits", "--key", prefix, "--requests", "0")
    assert "requests: 6000000 a minute (TALLY_API_KEY_RATE)" in cluster.command("limits", "--key", prefix)
    assert "requests: 40 a minute (set)" in cluster.command("limits", "--key", prefix, "--requests", "40")
    headers = {"Authorization": f"Api-Key {api_key}"}
    seen: Counter[int] = Counter()

    def ask(number: int) -> str:
        """One more request, of which a view answers each third."""
        extra = {"X-Anything": "1"} if number % 3 == 0 else {}
        answer = httpx.get(f"{apis(cluster)[number % 2]}/v1/counters/{key}", headers=headers | extra, timeout=30)
        seen[answer.status_code] += 1
        return answer.headers["RateLimit-Policy"]

    eventually(lambda: all("q=40;" in ask(number) for number in (0, 1)), 15, pause=0.5)
    with ThreadPoolExecutor(8) as threads:
        list(threads.map(ask, range(80)))
    assert ApiKey.objects.get(prefix=prefix).requests_rate == 40
    assert seen[429] > 0
    # Of what went before the quota was known, up to two requests each process may have counted a moment later. A request
    # counts although a shard was too slow to answer it.
    assert seen.keys() <= {200, 429, 503}
    assert abs(seen.total() - seen[429] - 40) <= 1


@pytest.mark.limit("TALLY_PAGES_RATE", "TALLY_LOGIN_ADDRESS_RATE")
def test_pages_and_log_ins_are_limited_by_the_settings(cluster: Cluster) -> None:
    """By django-ratelimit, in the cache's Redis."""
    own = settings.TALLY.model_copy(update={"pages_rate": "2/d", "login_address_rate": "1/d"})
    with override_settings(TALLY=own):
        page = PagesLimit(lambda _: HttpResponse("a page"))
        headers = cluster.from_address(fresh_address())
        for path, statuses in (
            ("/admin/", [200, 200, 429]),
            ("/", [429]),
            ("/status/live", [429]),
            ("/favicon.ico", [200]),
        ):
            asked = [page(RequestFactory().get(path, headers=headers | {"Accept": "text/html"})) for _ in statuses]
            assert [one.status_code for one in asked] == statuses, path
        refused = page(RequestFactory().get("/", headers=headers))
        assert 1 <= int(refused.headers["Retry-After"]) <= 24 * 3600
        assert b"too many pages" in refused.content
        for_programs = page(RequestFactory().get("/", headers=headers | {"Accept": "application/json"}))
        assert msgspec.json.decode(for_programs.content)["type"] == "urn:tally:problem:too-many-pages"
        tries = [RequestFactory().post(LOGIN, {"username": uuid4().hex}, headers=headers) for _ in range(2)]
        assert [seconds_to_wait(one) > 0 for one in tries] == [False, True]


@pytest.mark.limit("TALLY_LOGIN_PAIR_RATE", "TALLY_LOGIN_NAME_RATE", "TALLY_LOGIN_ATTACKED_RATE")
@pytest.mark.limit("TALLY_LOGIN_DEVICE_RATE")
def test_tries_to_log_in_are_limited_by_name_and_by_device(cluster: Cluster) -> None:
    rates = {"address": "100/d", "pair": "2/d", "name": "4/d", "attacked": "1/d", "device": "3/d"}
    name, addresses = f"u{uuid4().hex}", [fresh_address() for _ in range(4)]

    def tries(address: str, number: int, cookie: str = "") -> list[bool]:
        """Whether each of them is refused."""
        request = RequestFactory().post(LOGIN, {"username": name}, headers=cluster.from_address(address))
        request.COOKIES[DEVICE_COOKIE] = cookie
        return [seconds_to_wait(request) > 0 for _ in range(number)]

    own = settings.TALLY.model_copy(update={f"login_{limit}_rate": rate for limit, rate in rates.items()})
    with override_settings(TALLY=own):
        assert tries(addresses[0], 3) == [False, False, True]
        assert tries(addresses[1], 3) == [False, False, True]
        assert tries(addresses[2], 1) == [False], "the fifth of this name, and one more than it may have"
        assert tries(addresses[3], 2) == [False, True]
        known = signing.dumps([name, uuid4().hex], salt=DEVICE_COOKIE)
        assert tries(addresses[0], 4, known) == [False, False, False, True]


def test_the_schema_tells_of_limits_where_there_are_some(client: httpx.Client) -> None:
    document = msgspec.json.decode(client.get("/v1/schema", headers={"Accept": "application/json"}).content)
    for path, calls in document["paths"].items():
        for call in calls.values():
            is_counted = path.startswith("/v1/")
            assert ("429" in call["responses"]) == is_counted, path
            for status, answer in call["responses"].items():
                named = set(answer.get("headers", {}))
                assert ({"RateLimit", "RateLimit-Policy"} <= named) == is_counted
                assert ("Retry-After" in named) == (status == "429")
    of_limits = {"RateLimit", "RateLimit-Policy", "Retry-After"}
    assert set(document["components"]["headers"]) == of_limits | {"Tally-Node", "Tally-Write", "X-Request-ID"}
