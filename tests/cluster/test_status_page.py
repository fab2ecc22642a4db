"""/status of a whole cluster: without JavaScript, by server-sent events, and in Chromium, where there is one; for staff and
for anybody."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from html import unescape

import httpx
import pytest
from playwright.sync_api import Browser as Chromium
from playwright.sync_api import expect

from counters.operators import events
from runtime import pulses
from tests.support.browser import Browser
from tests.support.chromium import chromium, needs_chromium, opened
from tests.support.cluster import Cluster, eventually, wait_applied
from tests.support.commands import ROOT
from tests.support.http import assert_problem
from tests.support.limited import UVICORN

__all__ = ["chromium"]
LIVE = "/status/live"
pytestmark = pytest.mark.usefixtures("found_whole")


def text(html: str) -> str:
    """HTML without its tags."""
    return re.sub(r"\s+", " ", unescape(re.sub(r"<[^>]+>", " ", html)))


def frames(url: str, headers: Mapping[str, str] | None = None) -> Iterator[dict[str, str]]:
    """What the events of a stream carry."""
    with httpx.stream("GET", url + LIVE, headers=headers, timeout=20) as stream:
        assert stream.status_code == 200, stream.read()
        assert stream.headers["Content-Type"] == "text/event-stream"
        for line in stream.iter_lines():
            if line.startswith("data: "):
                yield json.loads(line.removeprefix("data: "))


def test_the_page_says_all_without_javascript(cluster: Cluster, client: httpx.Client, key: str) -> None:
    wait_applied(client, key)
    page = eventually(lambda: "Everything is up" in (found := httpx.get(f"{cluster.url}/status")).text and found)
    assert "default-src 'none'" in page.headers["Content-Security-Policy"]
    assert not re.search(r"(?:src|href)=\"(?:https?:)?//", page.text)
    assert 'style="' not in page.text, "the policy would refuse it"
    shown = text(page.text)
    for name in ("journal", "cache", "broker", "etcd", "beat", "shard-0-node-1", "shard-1-node-2", "api-1", "api-2"):
        assert f" {name} " in shown
    assert shown.count("2 of 2 copies") == 2
    assert 'href="/status"' in httpx.get(cluster.url).text
    address = f"127.0.0.1:{cluster.named('postgres-0-1')[0]['port']}"
    for private in (address, "worker-0-1@", "Hottest", "Orders of operators"):
        assert private not in shown


def test_staff_see_names_and_addresses(cluster: Cluster, root: Browser) -> None:
    shown = text(root.get("/status").text)
    assert f"127.0.0.1:{cluster.named('postgres-0-1')[0]['port']}" in shown
    assert "worker-0-1@" in shown
    assert "Hottest counters" in shown
    flower = f'href="http://127.0.0.1:{cluster.named("flower")[0]["port"]}/"'
    assert flower in root.get("/status").text
    assert flower not in httpx.get(f"{cluster.url}/status").text
    assert "Orders of operators" in shown
    cookies = "; ".join(f"{name}={value}" for name, value in root.cookies.items())
    assert "worker-0-1@" in next(frames(cluster.url, {"Cookie": cookies}))["processes"]
    assert "worker-0-1@" not in next(frames(cluster.url))["processes"]


def test_a_proof_of_staff_is_worth_nothing_without_its_session(cluster: Cluster, root: Browser) -> None:
    """It counts while the control database is away: tests/faults."""
    root.get("/status")
    proof = {"tally_status": root.cookies["tally_status"], "sessionid": "0" * 32}
    page = httpx.get(f"{cluster.url}/status", cookies=proof)
    assert "worker-0-1@" not in page.text
    assert 'tally_status=""' in page.headers["Set-Cookie"]


def test_events_come_every_second_through_nginx(cluster: Cluster) -> None:
    stream = frames(cluster.url)
    first, began = next(stream), time.monotonic()
    assert {"clock", "now", "figures", "shards", "parts", "processes", "lanes", "events"} <= first.keys()
    later = [next(stream) for _ in range(2)]
    assert 1 < time.monotonic() - began < 15
    assert all("clock" in one for one in later)
    assert all(len(one) < len(first) for one in later), "only what has changed"


def test_what_is_done_shows(cluster: Cluster, client: httpx.Client, key: str) -> None:
    client.post("/v1/increments", json={"keys": [key] * 500, "deltas": [1] * 500}).raise_for_status()

    def is_told() -> bool:
        figures = text(httpx.get(f"{cluster.url}/status").text)
        return bool(re.search(r"Increments accepted [\d.,]+/s at most (?!0/s)", figures))

    eventually(is_told, 20, pause=0.5)


def test_an_api_process_tells_nothing_while_nobody_watches(cluster: Cluster) -> None:
    def telling(place: str) -> tuple[str, set[str]]:
        place, heard = pulses.since(place)
        return place, {one.pulse.process for one in heard if one.pulse.kind == "api"}

    def is_quiet() -> bool:
        """Whether nobody has told for three seconds: tests before may have left a browser open."""
        place, _ = telling("0")
        time.sleep(3)
        return not telling(place)[1]

    eventually(is_quiet)
    place, _ = telling("0")
    httpx.get(f"{cluster.url}/status").raise_for_status()
    eventually(lambda: telling(place)[1] == {"api-1", "api-2"})


def test_one_process_records_and_another_when_that_is_gone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(events, "_TURN", "test:turn")
    assert events.take_turn("one", 0.5)
    assert not events.take_turn("another", 0.5)
    assert events.take_turn("one", 0.5), "it goes on"
    eventually(lambda: events.take_turn("another", 0.5))
    assert not events.take_turn("one", 0.5)


def test_a_worker_records_while_nobody_watches(cluster: Cluster) -> None:
    place, _ = pulses.since("0")
    looks = eventually(lambda: [one.pulse for one in pulses.since(place)[1] if one.pulse.kind == "look"])
    assert {one.process.partition("@")[0] for one in looks} == {"spill-worker-1"}
    assert {"backlog", "age", "missing"} <= looks[0].levels.keys()


def test_other_methods(cluster: Cluster) -> None:
    for path in ("/status", LIVE):
        assert_problem(httpx.post(cluster.url + path), 405, "method-not-allowed")
        head = httpx.head(cluster.url + path)
        assert (head.status_code, head.content) == (200, b"")


@contextmanager
def server(cluster: Cluster, socket: str) -> Iterator[subprocess.Popen[bytes]]:
    """An API process of its own, as the cluster starts one."""
    command = [*UVICORN, "--timeout-graceful-shutdown", "35", "--uds", socket, "counter_project.asgi:application"]
    env = {**os.environ, **cluster.env, "TALLY_NODE_ID": "of-a-test"}
    process = subprocess.Popen(command, cwd=ROOT, env=env)
    try:
        yield process
    finally:
        process.kill()
        process.wait()


def test_an_open_stream_does_not_delay_the_end(cluster: Cluster, tmp_path: object) -> None:
    socket = f"{tmp_path}/api.sock"
    with server(cluster, socket) as process:
        client = httpx.Client(base_url="http://127.0.0.1", transport=httpx.HTTPTransport(uds=socket), timeout=30)
        eventually(lambda: client.get("/readyz").status_code == 200)
        with client.stream("GET", LIVE) as stream:
            lines = stream.iter_lines()
            while not next(lines).startswith("data"):
                pass
            process.terminate()
            began = time.monotonic()
            assert process.wait(30) in {0, -signal.SIGTERM}
            took = time.monotonic() - began
        assert took < 15, f"{took:.1f} s, of the 35 that requests have"


@needs_chromium
def test_in_a_browser(chromium: Chromium, cluster: Cluster) -> None:
    """On a phone; tests/faults has it on a desktop."""
    troubles: list[str] = []
    page = opened(chromium, f"{cluster.url}/status", width=360, height=800, color_scheme="dark")
    page.on("pageerror", lambda error: troubles.append(str(error)))
    page.on("console", lambda said: troubles.append(said.text))
    expect(page.locator("#now")).to_contain_text("Everything is up", timeout=30_000)
    before = page.locator("#clock").inner_text()
    expect(page.locator("#clock")).not_to_have_text(before, timeout=30_000)
    assert page.evaluate("document.documentElement.scrollWidth <= window.innerWidth")
    assert page.locator("#figures svg[role=img]").count() == 7
    assert troubles == []


@needs_chromium
def test_in_a_browser_without_javascript(chromium: Chromium, cluster: Cluster) -> None:
    page = opened(chromium, f"{cluster.url}/status", width=1280, height=800, java_script_enabled=False)
    assert page.locator("#shards tbody tr").count() == 6
    assert page.locator("noscript meta[http-equiv=refresh]").count() == 1
