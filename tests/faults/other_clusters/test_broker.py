"""A broker outside the cluster: all messages go through it, and while it is down writes are taken, applied and read as
before (I4)."""

from __future__ import annotations

import re
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from uuid import uuid4

import httpx
import psutil
import pytest
import redis
from celery import Celery
from kombu import Exchange, Queue
from kombu.exceptions import OperationalError

from tests.support.brokers import BROKERS, Broker, RabbitMQ
from tests.support.cluster import Cluster, eventually, value_of
from tests.support.commands import up
from tests.support.load import assert_exact, load

IMPATIENT = {"TALLY_OVERDUE_SECONDS": "1", "TALLY_RELAY_INTERVAL_SECONDS": "1"}


@dataclass
class Subject:
    """A small cluster and its broker."""

    cluster: Cluster
    broker: Broker

    def metric(self, name: str, role: str) -> float:
        """The sum of a metric over processes of a role and its labels."""
        running = [one for one in self.cluster.processes(role) if one["state"] == "running"]
        texts = [self.cluster.metrics(one, name) for one in running]
        return sum(
            float(value) for text in texts for value in re.findall(rf"^{name}(?:{{.*}})? (\S+)$", text, re.MULTILINE)
        )

    @property
    def dispatched(self) -> float:
        return self.metric("tally_batches_dispatched_total", "api")

    @property
    def undispatched(self) -> float:
        return self.metric("tally_batches_undispatched_total", "api")

    def dead_letters(self) -> list[bytes]:
        journal: Any = redis.Redis.from_url(self.cluster.env["TALLY_JOURNAL_URL"])
        letters: list[bytes] = journal.hvals("dead-letters")
        return letters

    def is_consumed(self) -> bool:
        """Whether a message of an unknown task, sent now, becomes a dead letter: its worker is at the broker's other
        end."""
        name = f"unknown.{uuid4().hex}"
        with Celery(broker=self.broker.url, set_as_current=False) as app:
            app.conf.task_queues = [Queue("shard-0", Exchange("tally", type="direct"), routing_key="shard-0")]
            try:
                app.send_task(name, queue="shard-0", routing_key="shard-0", retry=False)
            except OperationalError:  # kombu keeps connections in a pool: this one was the broker's before
                return False
        until = time.monotonic() + 2
        while time.monotonic() < until:
            if any(name.encode() in letter for letter in self.dead_letters()):
                return True
            time.sleep(0.1)
        return False


@pytest.fixture(scope="module", params=BROKERS)
def subject(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory, put_away: Callable[[Path], None]
) -> Iterator[Subject]:
    if request.param == "rabbitmq" and RabbitMQ.PROGRAM is None:
        pytest.skip("rabbitmq-server is not on PATH (Debian: rabbitmq-server)")
    broker, directory = (
        BROKERS[request.param](tmp_path_factory.mktemp(request.param)),
        tmp_path_factory.mktemp("cluster"),
    )
    with ExitStack() as stack:
        stack.callback(broker.kill)
        broker.launch()  # both take a while
        stack.callback(put_away, directory)
        up(
            directory,
            "--port",
            "0",
            "--shards",
            "1",
            "--replicas",
            "0",
            "--api",
            "1",
            "--broker",
            broker.url,
            **IMPATIENT,
        )
        broker.wait()
        yield Subject(Cluster(directory), broker)


@pytest.fixture
def client(subject: Subject) -> Iterator[httpx.Client]:
    with subject.cluster.client() as client:
        yield client


def add(client: httpx.Client, key: str, **params: Any) -> httpx.Response:
    return client.post(f"/v1/counters/{key}/increments", json={"delta": 1}, params=params)


def test_everything_goes_through_it(subject: Subject, client: httpx.Client, key: str) -> None:
    dispatched, undispatched = subject.dispatched, subject.undispatched
    assert add(client, key).status_code == 202
    assert add(client, key, wait=10).json()["value"] == 2
    assert client.put(f"/v1/counters/{key}", json={"value": 9}).json()["value"] == 9
    eventually(lambda: subject.dispatched > dispatched)
    assert subject.undispatched == undispatched
    eventually(subject.is_consumed)


def test_beat_and_relay_go_through_it(subject: Subject, client: httpx.Client, key: str) -> None:
    """Without a worker an entry is overdue: beat asks for the relay, and the relay sends the message again."""
    subject.cluster.manage("cluster", "scale", "worker=0", "--dir", str(subject.cluster.dir))
    try:
        relayed = subject.metric("tally_batches_relayed_total", "spill-worker")
        assert add(client, key).status_code == 202
        eventually(lambda: subject.metric("tally_batches_relayed_total", "spill-worker") > relayed, 30)
    finally:
        subject.cluster.manage("cluster", "scale", "worker=1", "--dir", str(subject.cluster.dir))
    eventually(lambda: value_of(client, key) == 1)


@pytest.mark.parametrize("how", ["killed", "frozen"])
def test_without_it_nothing_stops(subject: Subject, client: httpx.Client, key: str, how: str) -> None:
    """Writes are taken and not slow, they are applied and read; a worker may even die. When it is back, it is used
    again."""
    with load(subject.cluster, key) as running:
        running.goes_on()
        subject.broker.kill() if how == "killed" else subject.broker.send(signal.SIGSTOP)
        try:
            undispatched = subject.undispatched
            running.goes_on()
            for n in range(3):
                answer = add(client, f"{key}:waited", wait=10)
                assert (answer.status_code, answer.json()["value"]) == (200, n + 1)
                assert client.get(f"/v1/counters/{key}:waited").json()["value"] == n + 1
            worker = psutil.Process(subject.cluster.processes("worker")[0]["pid"])
            worker.send_signal(signal.SIGTERM if how == "killed" else signal.SIGKILL)
            worker.wait(10)
            assert add(client, f"{key}:waited", wait=20).json()["value"] == 4
            running.stop()  # under load a worker may never fall asleep, and one that is awake needs no message
            eventually(
                lambda: how == "frozen" or (add(client, f"{key}:alone") and subject.undispatched > undispatched),
                pause=0.3,
            )
        finally:
            subject.broker.start() if how == "killed" else subject.broker.send(signal.SIGCONT)
    with load(subject.cluster, f"{key}:later") as later:
        eventually(subject.is_consumed, 60)
        later.goes_on()
    dispatched = subject.dispatched
    eventually(lambda: add(client, f"{key}:after").status_code == 202 and subject.dispatched > dispatched, pause=0.3)
    assert max(running.slowest, later.slowest) < 5  # a broker that is waited for costs more
    assert_exact(client, running)
    assert_exact(client, later)
