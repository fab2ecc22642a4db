"""What a process of Tally holds can be opened and closed: then no thread and no socket is left, and its children share
none."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from typing import Any
from uuid import uuid4

import psutil

from counters import service
from counters.api.application import Application
from counters.intake import dispatch, writes
from counters.operators import health, statistics
from counters.reading import reads
from replication import patroni
from runtime import heartbeats, redis
from runtime.event_loop import LoopThread
from runtime.resources import Resources
from sharding import breakers, databases, topology
from tests.support.cluster import Cluster, eventually
from tests.support.commands import ROOT

FORK = "import django; django.setup(); from tests.cluster import test_lifecycle; test_lifecycle.fork_in_use()"


def held() -> set[object]:
    """The threads of this process, and the ends of its sockets that are connected."""
    connected = {
        (one.laddr, one.raddr) for one in psutil.Process().net_connections("inet") if one.status == "ESTABLISHED"
    }
    return {*threading.enumerate(), *connected}


def use_everything(key: str) -> None:
    """Make every kind of part, and open what it opens."""
    with service.in_background() as serving:
        accepted = serving.submit(writes.increments({key: 1}))
    assert topology.current().lane_count == topology.lane_count(0) or topology.reload()
    assert reads.get(key).key == key
    assert breakers.call(databases.primary(0), lambda: 7) == 7
    assert patroni.members(0)
    heartbeats.beat({"test": 0.0})
    assert dispatch.send(topology.current().lane_of(key))
    dispatch.send_soon(topology.current().lane_of(key))
    assert health.look().result().components
    assert statistics.look().result()
    assert accepted.id


def test_a_process_that_closes_what_it_holds_has_no_thread_and_no_socket_left(cluster: Cluster, key: str) -> None:
    before = held()
    for _ in range(2):
        with Resources():
            use_everything(key)
            assert len(held() - before) > 9
        eventually(lambda: not held() - before)


def test_so_does_an_application(cluster: Cluster, key: str) -> None:
    """Opened twice on one loop, as a server does once; both ways are used."""
    before = held()
    with LoopThread("of a test") as thread:
        application = thread.run(_made())
        around = held()
        for _ in range(2):
            thread.run(application.open())
            eventually(lambda: application._fast_path is not None)
            for method, path in (
                ("GET", f"/v1/counters/{key}"),
                ("GET", "/v1/schema"),
                ("GET", "/health"),
                ("GET", "/status"),
            ):
                answer = thread.run(application.answer(_scope(method, path), b""))
                assert answer.status == 200, answer
            assert len(held() - around) > 9
            thread.run(application.close())
            eventually(lambda: not held() - around)
    assert not held() - before


async def _made() -> Application:
    return Application()


def _scope(method: str, path: str) -> dict[str, Any]:
    headers = [(b"host", b"127.0.0.1")]
    return {"type": "http", "method": method, "path": path, "query_string": b"", "headers": headers}


def test_the_child_of_a_fork_uses_connections_of_its_own(cluster: Cluster) -> None:
    """As a child of Celery's prefork pool. In a process without pytest's threads."""
    env = {**os.environ, **cluster.env, "DJANGO_SETTINGS_MODULE": "counter_project.settings"}
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", FORK], cwd=ROOT, env=env, check=False, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout + done.stderr


def fork_in_use() -> None:
    """The main program of the test above: exits with 0 if parent and child have different connections that work."""
    with Resources():
        mine = connections()
        child = os.fork()
        if not child:
            others = connections()
            os._exit(0 if not set(mine) & set(others) else 1)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0, "the child used its parent's connections"
        assert connections() == mine
        use_everything(f"test:{uuid4().hex}")


def connections() -> list[tuple[str, Any]]:
    """What the servers call this process's connections to them."""
    found: list[tuple[str, Any]] = [
        ("journal", redis.journal().client_id()),
        ("cache", redis.cache_unguarded().client_id()),
        ("patroni", id(patroni._http())),
    ]
    for alias in (databases.CONTROL, databases.primary(0)):
        with databases.connection(alias) as conn:
            found.append((alias, conn.info.backend_pid))
    return found
