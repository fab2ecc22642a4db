"""SIGTERM under load: what a process has taken it finishes, what it has not taken was never counted, and it ends by
itself."""

from __future__ import annotations

import threading
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any
from uuid import UUID, uuid4

import httpx
import psutil
import pytest

from counters.apply import dead_letters
from counters.intake import journal
from counters.intake.journal import Journal
from counters.write_id import WriteId
from sharding import databases, topology
from sharding.lanes import LOCK_ID
from tests.support.cluster import Cluster, eventually, frozen, value_of
from tests.support.load import assert_exact, load

pytestmark = pytest.mark.usefixtures("whole")


@dataclass
class End:
    """How a process of the cluster ends; made before it is told to.

    `how`: as the supervisor puts it. uvicorn ends itself by the signal, after it has answered all.
    """

    cluster: Cluster
    name: str
    how: str = "exit 0"

    def __post_init__(self) -> None:
        self._before = self._count()

    def _count(self) -> int:
        return (self.cluster.dir / "logs" / "supervisor.log").read_text().count(f"{self.name} ended ({self.how})")

    def within(self, processes: list[psutil.Process], seconds: float) -> None:
        """All its processes end in time, by themselves, and the supervisor saw how."""
        _, alive = psutil.wait_procs(processes, timeout=seconds)
        assert not alive, f"{self.name} has not ended within {seconds} s"
        eventually(lambda: self._count() == self._before + 1, 5)


# An API process


@dataclass
class Direct:
    """Clients that write straight to one API process until it refuses them: nothing stands between that could hide a
    lost answer."""

    url: str
    headers: dict[str, str]
    key: str
    answered: int = 0
    unanswered: list[str] = field(default_factory=list)  # idempotency keys
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def run(self, wait: int) -> None:
        """One client on one connection after the other."""
        while True:
            with httpx.Client(base_url=self.url, headers=self.headers, timeout=60) as client:
                while True:
                    token = uuid4().hex
                    try:
                        answer = post(client, self.key, token, wait)
                    except httpx.ConnectError:
                        return
                    except httpx.HTTPError:
                        with self._lock:
                            self.unanswered.append(token)
                        break
                    assert answer.status_code in {200, 202}, answer.text
                    with self._lock:
                        self.answered += 1


def post(client: httpx.Client, key: str, token: str, wait: int) -> httpx.Response:
    return client.post(
        f"/v1/counters/{key}/increments", json={"delta": 1}, params={"wait": wait}, headers={"Idempotency-Key": token}
    )


def test_an_api_process_answers_what_it_has_taken(cluster: Cluster, client: httpx.Client, key: str) -> None:
    """Counted is what was answered, no more and no less; the rest was not taken, and is counted once when it is
    repeated."""
    api = cluster.processes("api")[0]
    process = psutil.Process(api["pid"])
    end = End(cluster, api["name"], "SIGTERM")
    direct = Direct(f"http://127.0.0.1:{api['port']}", {"Authorization": f"Api-Key {cluster.key}"}, key)
    with ThreadPoolExecutor(24) as pool:
        running = [pool.submit(direct.run, n % 2 * 5) for n in range(24)]
        eventually(lambda: direct.answered > 50)
        process.terminate()
        end.within([process], 10)
        for one in running:
            one.result()
    eventually(lambda: not any(map(journal.occupied, (0, 1))), 60)
    assert value_of(client, key) == direct.answered
    for token in direct.unanswered:
        assert post(client, key, token, 30).status_code == 200
    assert value_of(client, key) == direct.answered + len(direct.unanswered)


def test_an_api_process_has_time_for_the_longest_wait(cluster: Cluster, key: str) -> None:
    """Its shard's worker stands still meanwhile: the answer comes later than any ordinary one, and it comes."""
    api = cluster.processes("api")[0]
    (worker,) = cluster.processes("worker", topology.current().shard_of(key))
    main, end = psutil.Process(api["pid"]), End(cluster, api["name"], "SIGTERM")
    headers = {"Authorization": f"Api-Key {cluster.key}"}
    with (
        httpx.Client(base_url=f"http://127.0.0.1:{api['port']}", headers=headers, timeout=60) as client,
        ThreadPoolExecutor(1) as pool,
    ):
        with frozen(worker):
            answer = pool.submit(post, client, key, uuid4().hex, 30)
            time.sleep(0.5)
            main.terminate()
            time.sleep(11)
            assert main.is_running()
        assert (answer.result().status_code, answer.result().json()["value"]) == (200, 1)
    end.within([main], 5)


# A worker


def test_a_worker_commits_the_transaction_in_hand(cluster: Cluster, client: httpx.Client, key: str) -> None:
    """It is held up within its transaction by the lock that shifts take; the ledger has the batch as soon as the
    process is gone."""
    lane = topology.current().lane_of(key)
    shard = lane.shard
    worker = cluster.processes("worker", shard)[0]
    process = psutil.Process(worker["pid"])
    with databases.connect(databases.primary(shard), autocommit=True) as conn:
        conn.execute("SELECT pg_advisory_lock(%s, %s)", (LOCK_ID, lane.number))
        write = WriteId.parse(client.post(f"/v1/counters/{key}/increments", json={"delta": 5}).json()["id"])
        eventually(lambda: waiting_for_the_lock(conn), 10)
        process.terminate()
        time.sleep(1)
        assert process.is_running()
        conn.execute("SELECT pg_advisory_unlock(%s, %s)", (LOCK_ID, lane.number))
        psutil.wait_procs([process], timeout=10)
        assert in_ledger(conn, write.batch)
    assert not process.is_running()
    eventually(lambda: value_of(client, key) == 5)
    eventually(lambda: cluster.all_running("worker"), 30)


def waiting_for_the_lock(conn: Any) -> bool:
    return bool(conn.execute("SELECT 1 FROM pg_locks WHERE locktype = 'advisory' AND NOT granted").fetchall())


def in_ledger(conn: Any, batch: UUID) -> bool:
    return bool(conn.execute("SELECT 1 FROM ledger WHERE id = %s", (batch,)).fetchall())


def test_a_worker_ends_although_it_cannot_commit(cluster: Cluster, client: httpx.Client, key: str) -> None:
    """Its tasks would wait for ever; what they wait for stays in the journal, and the next worker applies it."""
    letters = dead_letters.count()
    lane = topology.current().lane_of(key)
    shard = lane.shard
    with databases.connect(databases.primary(shard), autocommit=True) as conn:
        conn.execute("SELECT pg_advisory_lock(%s, %s)", (LOCK_ID, lane.number))
        for _ in range(5):
            assert client.post(f"/v1/counters/{key}/increments", json={"delta": 1}).status_code == 202
        eventually(lambda: waiting_for_the_lock(conn), 10)
        terminate(cluster, cluster.processes("worker", shard), 15)
        assert Journal(lane).depth() >= 1
    eventually(lambda: value_of(client, key) == 5, 60)
    assert dead_letters.count() == letters


def test_workers_end_under_load_and_the_next_ones_go_on(cluster: Cluster, client: httpx.Client, key: str) -> None:
    letters = dead_letters.count()
    with load(cluster, key) as running:
        running.goes_on()
        terminate(cluster, cluster.processes("worker"), 10)
        eventually(lambda: cluster.all_running("worker"), 30)
        running.goes_on()
    assert_exact(client, running)
    assert dead_letters.count() == letters


def terminate(cluster: Cluster, workers: list[dict[str, Any]], seconds: float) -> None:
    """Tell workers to end; all of them do within the time."""
    ends = [(psutil.Process(worker["pid"]), End(cluster, worker["name"])) for worker in workers]
    for process, _ in ends:
        process.terminate()
    until = time.monotonic() + seconds
    for process, end in ends:
        end.within([process], until - time.monotonic())
