"""Processes are killed under writes: what was accepted is counted exactly once, and reads go on."""

from __future__ import annotations

import os
import re
import signal
import time
from concurrent.futures import ThreadPoolExecutor
from typing import Any
from urllib.parse import urlsplit

import httpx
import psutil
import pytest
from playwright.sync_api import Browser as Chromium
from playwright.sync_api import Page, expect

from sharding import topology
from tests.support.browser import Browser
from tests.support.chromium import chromium, needs_chromium, opened
from tests.support.cluster import Cluster, eventually, frozen, value_of
from tests.support.load import assert_exact, load
from tests.support.shards import primary_of

__all__ = ["chromium"]
pytestmark = pytest.mark.usefixtures("whole")


def is_overloaded() -> bool:
    """Whether far more wants to run than `make test` alone starts. Waiting for a Redis does not count."""
    return os.getloadavg()[0] > 8 * (os.cpu_count() or 1)


def kill(cluster: Cluster, role: str, **which: Any) -> None:
    """SIGKILL every process of a role, and see that it is gone: a process takes a moment to die, and would still look
    well."""
    victims = [psutil.Process(process["pid"]) for process in cluster.processes(role, **which)]
    for victim in victims:
        victim.kill()
    psutil.wait_procs(victims, timeout=10)


@pytest.mark.parametrize(
    "role", ["worker", "api", "nginx", "redis-journal", "redis-cache", "redis-broker", "spill-worker", "beat", "etcd"]
)
def test_exact_after_a_kill(cluster: Cluster, client: httpx.Client, key: str, role: str) -> None:
    with load(cluster, key) as running:
        running.goes_on()
        kill(cluster, role)
        eventually(lambda: cluster.all_running(role), 90)
        running.goes_on()
    assert_exact(client, running)


def test_exact_after_a_primary_was_killed(cluster: Cluster, client: httpx.Client, key: str) -> None:
    """Failover is Patroni's: reads go on all the time, writes by themselves, and the old primary returns as a replica.

    The primary is that of shard 0, which has the control database too.
    """
    keys = [f"{key}:read:{n}" for n in range(10)]
    items = [{"key": one, "delta": 7} for one in keys]
    client.post("/v1/increments", json={"increments": items}).raise_for_status()
    eventually(lambda: all(value_of(client, one) == 7 for one in keys))
    eventually(lambda: all(client.get(f"/v1/counters/{one}").json()["value"] == 7 for one in keys))
    with load(cluster, key) as running:
        running.goes_on()
        old = primary_of(cluster, 0)
        os.kill(old["pid"], signal.SIGKILL)
        until = time.monotonic() + 3
        while time.monotonic() < until:
            for one in keys:
                answer = client.get(f"/v1/counters/{one}")
                assert (answer.status_code, answer.json()["value"]) == (200, 7), answer.text
        eventually(lambda: primary_of(cluster, 0)["name"] != old["name"], 60)
        cluster.wait_until_whole()
        running.goes_on()
    assert_exact(client, running)
    eventually(lambda: cluster.all_running("postgres"), 90)


# What the headline has said, since the page was opened.
RECORD = """() => {
    const now = document.getElementById("now");
    window.said = [now.innerText];
    new MutationObserver(() => said.push(now.innerText)).observe(now, {childList: true, subtree: true});
}"""


@needs_chromium
def test_the_status_page_shows_that_a_primary_was_killed(
    cluster: Cluster, client: httpx.Client, key: str, root: Browser, chromium: Chromium
) -> None:
    """Under load, to staff, in a real browser that is open all the time."""
    page = opened(chromium, f"{cluster.url}/status", width=1280, height=900)
    page.context.add_cookies(
        [{"name": name, "value": value, "url": cluster.url} for name, value in root.cookies.items()]
    )
    page.reload()
    expect(page.locator("#now")).to_contain_text("Everything is up", timeout=30_000)
    page.evaluate(RECORD)
    old = primary_of(cluster, 1)
    with load(cluster, key) as running:
        running.goes_on()
        for _ in range(50):
            client.get(f"/v1/counters/{key}").raise_for_status()
        os.kill(old["pid"], signal.SIGKILL)
        expect(page.locator("#now")).to_contain_text("shard-1", timeout=30_000)
        new = eventually(lambda: (found := primary_of(cluster, 1))["name"] != old["name"] and found, 60)
        names = [one["name"].replace("postgres-1-", "shard-1-node-") for one in (old, new)]
        expect(page.locator("#events")).to_contain_text(" → ".join(names), timeout=60_000)
        expect(page.locator("#now")).to_contain_text("Everything is up", timeout=90_000)
        running.goes_on()
    assert_exact(client, running)
    says_that_nginx_is_down(cluster, page)
    said = page.evaluate("said")
    assert not [one for one in said if "shard-0" in one or "journal" in one], said
    assert f"127.0.0.1:{new['port']}" in page.locator("#shards").inner_text()
    assert "test:" in page.locator("#staff").inner_text(), "keys that are read much"


def says_that_nginx_is_down(cluster: Cluster, page: Page) -> None:
    """A page that is open says that it has lost nginx, goes on by itself, and then says since when and why."""
    trouble, host = page.locator("#trouble"), urlsplit(cluster.url).netloc
    assert trouble.inner_text() == ""
    with frozen(*cluster.processes("nginx")):
        expect(trouble).to_contain_text(f"nginx at {host} takes connections but does not answer", timeout=30_000)
    expect(trouble).to_be_empty(timeout=30_000)
    expect(page.locator("#gap")).to_have_text(re.compile(r"no news from \S+ UTC to \S+ UTC: nginx at "))


@pytest.mark.parametrize("role", ["redis-journal", "redis-cache"])
def test_reads_go_on_while_a_redis_stands_still(cluster: Cluster, client: httpx.Client, key: str, role: str) -> None:
    """Writes wait or get 503, no read fails or has to wait for them, and the counts are exact afterwards.

    On an overloaded machine a shard may not answer in time, and ten reads may take longer.
    """
    client.put(f"/v1/counters/{key}", json={"value": 7}).raise_for_status()
    with load(cluster, key, clients=24) as running:
        running.goes_on()
        with frozen(*cluster.processes(role)):
            until, reads = time.monotonic() + 4, 0
            while time.monotonic() < until or (reads < 10 and is_overloaded()):
                answer = client.get(f"/v1/counters/{key}")
                if answer.status_code == 503 and is_overloaded():
                    continue
                assert (answer.status_code, answer.json().get("value")) == (200, 7), answer.text
                reads += 1
        running.goes_on()
    assert reads >= 10
    assert_exact(client, running)


@pytest.mark.parametrize("role", ["api", "postgres"])
def test_reads_leave_a_process_that_stands_still(cluster: Cluster, client: httpx.Client, key: str, role: str) -> None:
    """An API process or a replica is stopped for 6 s; no read waits for it to come back."""
    replica = next(one for one in cluster.processes("postgres", 0) if one["name"] != primary_of(cluster, 0)["name"])
    client.get(f"/v1/counters/{key}:first").raise_for_status()
    with frozen(replica if role == "postgres" else cluster.processes("api")[0]):
        began, slowest, reads = time.monotonic(), 0.0, 0
        while time.monotonic() < began + 6:
            answer = client.get(f"/v1/counters/{key}:{reads}")  # never read before: not in the cache
            assert answer.status_code == 200, answer.text
            slowest, reads = max(slowest, answer.elapsed.total_seconds()), reads + 1
    assert slowest < 3, f"{slowest:.1f} s, {reads} reads"


def test_a_dead_shard_keeps_its_trouble_to_itself(cluster: Cluster, client: httpx.Client, key: str) -> None:
    """Every node of shard 1 stands still: its cached keys are read, its others get 503, and shard 0 does not notice."""
    by_shard: dict[int, list[str]] = {0: [], 1: []}
    for n in range(60):
        by_shard[client.get(f"/v1/counters/{key}:{n}").json()["shard"]].append(f"{key}:{n}")
    cached, uncached = by_shard[1][0], f"{key}:uncached"
    while not is_on_shard_one(uncached):
        uncached += "x"
    written = [cached, by_shard[0][0]]
    for one in written:
        client.post(f"/v1/counters/{one}/increments", json={"delta": 3}, params={"wait": 30}).raise_for_status()
    with frozen(*cluster.processes("patroni", 1), *cluster.processes("postgres", 1)):
        answers = [client.get(f"/v1/counters/{uncached}") for _ in range(3)]
        assert {answer.status_code for answer in answers} == {503}, [answer.text for answer in answers]
        assert answers[0].json()["shard"] == 1
        assert answers[0].headers["Retry-After"]
        for _ in range(4):  # five failures open a breaker
            client.get(f"/v1/counters/{uncached}")
        before = attempts(cluster)
        with ThreadPoolExecutor(24) as pool:
            until = time.monotonic() + 5
            answered = list(pool.map(lambda _: statuses(client, uncached, until), range(24)))
        assert {status for one in answered for status in one} == {503}
        assert sum(map(len, answered)) > 24 * 5, "each takes milliseconds, but for the few that try"
        assert attempts(cluster) - before <= 8, "of all processes one tries at a time, every two seconds at most"
        read = client.get(f"/v1/counters/{cached}").json()
        assert (read["value"], read["source"]) == (3, "cache")
        assert value_of(client, by_shard[0][0]) == 3
        waiting = client.post(f"/v1/counters/{cached}/increments", json={"delta": 1})
        assert waiting.status_code == 202
    eventually(lambda: value_of(client, cached) == 4, 90)


def statuses(client: httpx.Client, key: str, until: float) -> list[int]:
    """What reads of a key get, one after the other."""
    found = []
    while time.monotonic() < until:
        found.append(client.get(f"/v1/counters/{key}").status_code)
    return found


def attempts(cluster: Cluster) -> float:
    """Calls of shard 1 that the API processes have waited for in vain."""
    name = "tally_component_failures_total"
    text = "\n".join(cluster.metrics(api, name) for api in cluster.processes("api"))
    return sum(map(float, re.findall(rf'^{name}\{{component="shard-1.*"\}} (\S+)$', text, re.M)))


def is_on_shard_one(key: str) -> bool:
    """Whether a key lives on shard 1; nothing is read."""
    return topology.current().shard_of(key) == 1
