"""The load balancer: switched, scaled and drained under load without a lost request, and a sick process is left out."""

from __future__ import annotations

import http.client
import json
import re
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import pytest

from cluster import commands, state
from cluster.layout import Directory
from replication.models import Intervention
from runtime.balancing import LEAST_CONN, ROUND_ROBIN
from tests.support.admin import act
from tests.support.admin import field as column
from tests.support.browser import Browser, said
from tests.support.cluster import Cluster, eventually, frozen, value_of

pytestmark = pytest.mark.usefixtures("whole")
PAGE = "/admin/replication/loadbalancer/"


@dataclass
class Strict:
    """Clients that each keep one connection and repeat nothing: a lost request is an error. They write each way that a
    write has, and read."""

    url: str
    api_key: str
    key: str
    nodes: Counter[str] = field(default_factory=Counter)  # answers by process
    errors: list[str] = field(default_factory=list)
    counted: int = 0
    _stop: threading.Event = field(default_factory=threading.Event)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def run(self, number: int) -> None:
        """One client."""
        connection = http.client.HTTPConnection(self.url.removeprefix("http://"), timeout=60)
        calls = self._calls(number)
        while not self._stop.is_set():
            method, path, body, expected = next(calls)
            try:
                connection.request(method, path, body, self._headers)
                answer = connection.getresponse()
                text = answer.read()
            except (OSError, http.client.HTTPException) as error:
                self.errors.append(f"{method} {path}: {error!r}")
                connection.close()
                continue
            with self._lock:
                self.nodes[answer.headers["Tally-Node"]] += 1
                self.counted += method == "POST" and answer.status == 202
            if answer.status not in expected:
                self.errors.append(f"{method} {path}: {answer.status} {text.decode()}")
            self._stop.wait(0.05)
        connection.close()

    @property
    def _headers(self) -> dict[str, str]:
        return {"Authorization": f"Api-Key {self.api_key}", "Content-Type": "application/json"}

    def _calls(self, number: int) -> Iterator[tuple[str, str, str | None, set[int]]]:
        own = f"/v1/counters/{self.key}:{number}"
        while True:
            yield "POST", f"/v1/counters/{self.key}/increments", '{"delta": 1}', {202}
            yield "GET", f"{own}?consistency=primary", None, {200}
            yield "PUT", own, '{"value": 7}', {200, 202}
            yield "GET", own, None, {200}

    def goes_on(self, answers: int = 60) -> None:
        """Wait until so many more are answered."""
        enough = self.nodes.total() + answers
        eventually(lambda: self.nodes.total() >= enough, 60, 0.02)

    def stop(self) -> None:
        self._stop.set()


@contextmanager
def strict_load(cluster: Cluster, key: str, clients: int = 8) -> Iterator[Strict]:
    running = Strict(cluster.url, cluster.key, key)
    threads = [threading.Thread(target=running.run, args=(number,)) for number in range(clients)]
    for thread in threads:
        thread.start()
    try:
        yield running
    finally:
        running.stop()
        for thread in threads:
            thread.join()


def said_of(cluster: Cluster) -> list[str]:
    """What the command says. Its exit status tells whether every process serves."""
    done = cluster.manage("loadbalancer", "--dir", str(cluster.dir), check=False)
    lines = done.stdout.splitlines()
    assert done.returncode == (not all(line.endswith(": serves") for line in lines[1:])), done.stderr
    return lines


def balance(cluster: Cluster, strategy: str) -> None:
    """As the command, without starting it."""
    assert commands.run_loadbalancer([strategy, "--dir", str(cluster.dir)]) == 0


def scale(cluster: Cluster, count: int) -> None:
    """As the command, without starting it."""
    assert commands.run(["scale", f"api={count}", "--dir", str(cluster.dir)]) == 0


def left_out(cluster: Cluster) -> dict[str, str]:
    found: dict[str, str] = state.read(Directory(cluster.dir)).front["left_out"]
    return found


def upstream(cluster: Cluster) -> str:
    text = (cluster.dir / "nginx" / "nginx.conf").read_text()
    found = re.search(r"upstream api \{(.*?)\}", text, re.DOTALL)
    assert found
    return found[1]


def test_no_request_is_lost_while_balancing_is_switched_and_processes_come_and_go(cluster: Cluster, key: str) -> None:
    try:
        with strict_load(cluster, key) as running:
            running.goes_on()
            assert said_of(cluster) == ["nginx: round_robin", "api-1: serves", "api-2: serves"]
            balance(cluster, LEAST_CONN)
            assert "least_conn;" in upstream(cluster)
            running.goes_on()
            scale(cluster, 3)
            running.nodes.clear()
            running.goes_on()
            assert set(running.nodes) == {"api-1", "api-2", "api-3"}, "all share the load, the new one too"
            assert "least_conn;" in upstream(cluster), "scaling keeps the strategy"
            scale(cluster, 2)
            running.nodes.clear()
            running.goes_on()
            assert set(running.nodes) == {"api-1", "api-2"}
            assert json.loads((cluster.dir / "layout.json").read_text())["balancing"] == LEAST_CONN
            balance(cluster, ROUND_ROBIN)
            assert "least_conn;" not in upstream(cluster)
            running.goes_on()
        assert running.errors == []
        with cluster.client() as client:
            eventually(lambda: value_of(client, key) == running.counted)
    finally:
        if upstream(cluster).count("server ") != 2:
            scale(cluster, 2)
        balance(cluster, ROUND_ROBIN)


def test_a_process_that_hangs_is_left_out_and_comes_back(cluster: Cluster, key: str) -> None:
    """It keeps its port open. The supervisor asks each process every second; nobody else has to find out."""
    with cluster.client() as client:
        with frozen(*cluster.named("api-2")):
            eventually(lambda: left_out(cluster) == {"api-2": "sick"}, 30)
            assert "down;" in upstream(cluster)
            assert "api-2: sick" in said_of(cluster)
            answers = [client.post(f"/v1/counters/{key}/increments", json={"delta": 1}) for _ in range(20)]
            assert {(one.status_code, one.headers["Tally-Node"]) for one in answers} == {(202, "api-1")}
            assert max(one.elapsed.total_seconds() for one in answers) < 5, "none waits for the one that hangs"
            told = {'tally_api_left_out{process="api-1"} 0.0', 'tally_api_left_out{process="api-2"} 1.0'}
            one = cluster.named("api-1")[0]
            eventually(lambda: told <= set(cluster.metrics(one).splitlines()))  # it is told once a second
        eventually(lambda: left_out(cluster) == {}, 30)
        eventually(
            lambda: {client.get(f"/v1/counters/{key}").headers["Tally-Node"] for _ in range(8)} == {"api-1", "api-2"}
        )


def test_where_all_are_sick_all_serve(cluster: Cluster, key: str) -> None:
    """The journal hangs: no process can take writes, and reads go on."""
    with cluster.client() as client, frozen(*cluster.processes("redis-journal")):
        until = time.monotonic() + 8
        while time.monotonic() < until:
            assert client.get(f"/v1/counters/{key}").status_code == 200
            time.sleep(0.1)


def test_balancing_is_switched_in_the_admin(cluster: Cluster, root: Browser, browse: Callable[..., Any]) -> None:
    try:
        assert column(root.get(PAGE), "strategy") == [ROUND_ROBIN]
        done = act(root, PAGE, LEAST_CONN, "nginx", reason="requests differ")
        assert "Least connections: 1." in said(done), said(done)
        assert column(done, "strategy") == [LEAST_CONN]
        eventually(lambda: column(root.get(PAGE), "serving") == ["api-1, api-2"])  # one may be sick after the last test
        assert "least_conn;" in upstream(cluster)
        assert said_of(cluster)[0] == "nginx: least_conn"
        kept = Intervention.objects.get(action=f"balance by {LEAST_CONN}", reason="requests differ")
        assert (kept.shard, kept.outcome, kept.by.startswith("user u")) == (None, "in force", True)
    finally:
        balance(cluster, ROUND_ROBIN)
    seer = browse("view_loadbalancer")
    assert seer.get(PAGE).status_code == 200
    assert act(seer, PAGE, LEAST_CONN, "nginx", reason="x").status_code == 403
