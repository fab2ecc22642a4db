"""Copies that are lost, on a replica and on a primary that dies: whole again within a minute, with no hand laid on them.

Both shards suffer at once, each one failure after the other. A shard is whole when its replica streams and a comparison
finds it equal.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any
from uuid import uuid4

import psycopg
import pytest

from benchmarks.chaos import damage, kills, verdict
from benchmarks.chaos.fault import NotPossible
from benchmarks.chaos.subject import Subject
from replication import digests, healing, patroni
from runtime import redis
from sharding.databases import ShardUnavailable
from tests.support.cluster import Cluster, eventually, value_of, wait_applied
from tests.support.shards import is_streaming, key_on

WHOLE_SECONDS = 90  # half of that on a machine that does nothing else
COUNTERS = 500
pytestmark = pytest.mark.timeout(600)  # four failures, each WHOLE_SECONDS at most, come before the first test

Strike = Callable[[Subject, int], str]


@dataclass(frozen=True)
class Failure:
    """What happens to a copy. `why` begins the reason for which Tally makes a new one; "" where Patroni may do it first."""

    name: str
    shard: int
    strike: Strike
    why: str = ""


@dataclass(frozen=True)
class Outcome:
    """What came of it: seconds until all was whole; the reasons for which Tally ordered copies; what Patroni logged; the
    counter's value."""

    seconds: float
    reasons: list[str]
    log: str
    value: int


def checkpoint_of(role: str) -> Strike:
    def strike(subject: Subject, shard: int) -> str:
        row = getattr(subject, role)(shard)
        with damage.stopped(subject, row) as data:
            damage.lose_checkpoint(data)
        return str(row["name"])

    return strike


def files_of(role: str) -> Strike:
    """PostgreSQL runs, and finds out by itself."""

    def strike(subject: Subject, shard: int) -> str:
        row = getattr(subject, role)(shard)
        kills.empty(damage.data_of(subject, row))
        return str(row["name"])

    return strike


def pages_of(role: str) -> Strike:
    def strike(subject: Subject, shard: int) -> str:
        return damage.ruin_pages_of(subject, shard, getattr(subject, role)(shard))

    return strike


NOT_FOLLOWING, DIFFERS = "it has not followed", "it differed in"
FAILURES = [
    Failure("WAL of a replica", 0, damage.lose_wal_of_replica, NOT_FOLLOWING),
    Failure("WAL of a primary", 0, damage.lose_wal_of_primary),
    Failure("checkpoint of a primary", 0, checkpoint_of("primary"), NOT_FOLLOWING),
    Failure("checkpoint of a replica", 1, checkpoint_of("replica"), NOT_FOLLOWING),
    Failure("files of a replica", 1, files_of("replica")),
    Failure("pages of a replica", 1, pages_of("replica"), DIFFERS),
    Failure("pages of a primary", 1, pages_of("primary"), DIFFERS),
    Failure("files of a primary", 1, files_of("primary")),
]


def ordered(log: str, node: str) -> list[str]:
    """The reasons of the copies of a node that Tally ordered. The log has them while the control database is down, too."""
    events = [json.loads(line) for line in log.splitlines() if '"intervention"' in line]
    mine = [one for one in events if (one["event"], one["by"], one["server"]) == ("intervention", healing.BY, node)]
    return [one["reason"] for one in mine if not one["outcome"].startswith("not done")]


class Lane:
    """One shard's failures, one after the other."""

    def __init__(self, cluster: Cluster, shard: int) -> None:
        self.cluster, self.shard = cluster, shard
        self.subject = Subject(cluster.dir)
        self.client = cluster.client()
        self.key = key_on(shard, f"test:{uuid4().hex}")
        self.keys = [key_on(shard, f"{self.key}:{n}") for n in range(COUNTERS)]

    def run(self) -> dict[str, Outcome]:
        with self.client:
            body = {"keys": self.keys, "deltas": [1] * COUNTERS}
            self.client.post("/v1/increments", json=body).raise_for_status()
            return {one.name: self.suffer(one) for one in FAILURES if one.shard == self.shard}

    def suffer(self, failure: Failure) -> Outcome:
        wait_applied(self.client, self.key)
        self.forget()
        logs = self.cluster.dir / "logs"
        sizes = {path: path.stat().st_size for path in logs.glob("*.log")}

        def logged(name: str) -> str:
            with (path := logs / f"{name}.log").open() as log:
                log.seek(sizes[path])
                return log.read()

        began = time.monotonic()
        number = eventually(lambda: self.strike(failure.strike))[-1]
        if failure.why == DIFFERS:
            self.is_found(number)
        eventually(self.is_whole, 2 * WHOLE_SECONDS, pause=0.5)
        seconds = time.monotonic() - began
        reasons = ordered(logged("spill-worker-1"), f"shard-{self.shard}-node-{number}")
        value = value_of(self.client, self.key)
        return Outcome(seconds, reasons, logged(f"patroni-{self.shard}-{number}"), value)

    def strike(self, strike: Strike) -> str | None:
        """The name of the postmaster that was struck; None while the supervisor does not know it yet."""
        try:
            return strike(self.subject, self.shard)
        except (psycopg.OperationalError, LookupError, NotPossible):
            return None

    def forget(self) -> None:
        """Copies that were made before delay no other."""
        for node in (1, 2):
            redis.journal().hdel("healing:outages", f"{self.shard}/shard-{self.shard}-node-{node}")

    def compared(self) -> dict[str, Any]:
        found: dict[str, Any] = self.client.get(f"/v1/shards/{self.shard}/digest", params={"wait": 20}).json()
        return found

    def is_found(self, number: str) -> None:
        """No such server would be copied from, no chaos would pass, no read fails, and a comparison finds the damage."""

        def is_unreadable() -> bool:
            (damaged,) = (one for one in patroni.members(self.shard) if one.name[-1] == number)
            try:
                digests.read(self.shard, damaged)
            except ShardUnavailable as error:  # or it has not started yet
                return "invalid page" in str(error)
            return False

        eventually(is_unreadable, WHOLE_SECONDS)
        _, (lost,) = verdict.lacking_copies(self.subject, self.shard)
        assert f"node-{number}" in lost
        answers = [self.client.get("/v1/counters", params={"key": self.keys[n :: COUNTERS // 50]}) for n in range(10)]
        assert [{row["value"] for row in one.json()["results"]} for one in answers] == [{1}] * len(answers)
        eventually(lambda: is_streaming(self.shard) and self.compared().get("equal") is False, WHOLE_SECONDS)

    def is_whole(self) -> bool:
        return is_streaming(self.shard) and self.compared().get("equal") is True


@pytest.fixture(scope="module")
def outcomes(cluster: Cluster) -> dict[str, Outcome]:
    """What came of each failure, by its name. Both shards at once."""
    cluster.wait_until_whole()
    with ThreadPoolExecutor(2) as pool:
        lanes = [pool.submit(Lane(cluster, shard).run) for shard in (0, 1)]
        found = {name: outcome for lane in lanes for name, outcome in lane.result().items()}
    cluster.wait_until_whole()
    return found


@pytest.mark.parametrize("failure", FAILURES, ids=lambda failure: failure.name.replace(" ", "_"))
def test_a_copy_that_is_lost_is_made_again(outcomes: dict[str, Outcome], failure: Failure) -> None:
    outcome = outcomes[failure.name]
    assert outcome.seconds < WHOLE_SECONDS
    if failure.why:
        assert [reason[: len(failure.why)] for reason in outcome.reasons] == [failure.why]


def test_a_node_that_cannot_be_rewound_is_copied_again_by_patroni(outcomes: dict[str, Outcome]) -> None:
    log = outcomes["WAL of a primary"].log
    assert "Failed to rewind" in log
    assert "remove_data_directory_on_rewind_failure is set" in log


def test_nothing_was_lost(outcomes: dict[str, Outcome]) -> None:
    """Each failure came after one more write."""
    for shard in (0, 1):
        names = [one.name for one in FAILURES if one.shard == shard]
        assert [outcomes[name].value for name in names] == list(range(1, len(names) + 1))


def test_copies_are_counted(outcomes: dict[str, Outcome], cluster: Cluster) -> None:
    lines = cluster.metrics(cluster.processes("spill-worker")[0]).splitlines()
    told = [line for line in lines if line.startswith("tally_replica_reinitialised_total{")]
    counted = sum(float(line.rpartition(" ")[2]) for line in told)
    assert counted >= sum(len(outcome.reasons) for outcome in outcomes.values())
