"""A primary dies right after its promotion, of which its replica has not heard: two servers must not begin the same
timeline, as nothing would notice later that they differ."""

from __future__ import annotations

import base64
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import httpx
import psycopg
import pytest

from benchmarks.chaos import damage
from benchmarks.chaos.freezes import frozen
from benchmarks.chaos.kills import kill
from benchmarks.chaos.subject import Subject, family
from cluster.layout import Directory
from tests.support.cluster import Cluster, eventually, value_of
from tests.support.shards import SHARD, is_streaming, key_on

SECONDS = 90.0


class Etcd:
    """What Patroni keeps of the shard."""

    def __init__(self, directory: Path) -> None:
        transport = httpx.HTTPTransport(uds=str(Directory(directory).socket("etcd")))
        self._client = httpx.Client(transport=transport, base_url="http://etcd")

    def __enter__(self) -> Etcd:
        return self

    def __exit__(self, *_: object) -> None:
        self._client.close()

    def _call(self, name: str, key: str, **more: str) -> dict[str, Any]:
        body = {"key": base64.b64encode(f"/tally/shard-{SHARD}/{key}".encode()).decode(), **more}
        answer: dict[str, Any] = self._client.post(f"/v3/kv/{name}", json=body).raise_for_status().json()
        return answer

    def failsafe(self) -> str:
        """The members that may become the leader, in base64."""
        return str(self._call("range", "failsafe")["kvs"][0]["value"])

    def leader_has_died(self, failsafe: str) -> None:
        """What happens twenty seconds after a leader's death: etcd deletes its key.

        On a slow machine the replica has been away for as long by now, and the leader has taken it off the list of those
        that may follow. Put that back: the replica must refuse for its timeline.
        """
        self._call("put", "failsafe", value=failsafe)
        assert self._call("deleterange", "leader")["deleted"] == "1"


class Shard:
    """The shard, seen through its servers."""

    def __init__(self, cluster: Cluster) -> None:
        self.subject = Subject(cluster.dir)
        self.logs = cluster.dir / "logs"
        self._login = cluster.env["TALLY_PATRONI_USER"], cluster.env["TALLY_PATRONI_PASSWORD"]

    def patroni_of(self, row: dict[str, Any]) -> dict[str, Any]:
        return self.subject.named(str(row["name"]).replace("postgres", "patroni"))

    def last_history(self, row: dict[str, Any]) -> int:
        """The timeline that a server's Patroni has told etcd of last."""
        address = f"http://127.0.0.1:{self.patroni_of(row)['port']}/history"
        lines = httpx.get(address, auth=self._login, timeout=5).raise_for_status().json()
        return 1 + max((int(line[0]) for line in lines), default=0)

    def primary_on(self, timeline: int) -> dict[str, Any] | None:
        """The primary, once it is on a timeline and the supervisor knows its process."""
        try:
            return self.subject.primary(SHARD) if self.subject.timeline(SHARD) == timeline else None
        except (psycopg.OperationalError, LookupError):
            return None


@pytest.mark.usefixtures("whole")
@pytest.mark.timeout(300)
def test_a_replica_that_has_not_heard_of_a_timeline_does_not_begin_it(
    cluster: Cluster, client: httpx.Client, key: str
) -> None:
    shard, key = Shard(cluster), key_on(SHARD, key)
    primary, replica = shard.subject.primary(SHARD), shard.subject.replica(SHARD)
    before = shard.subject.timeline(SHARD)
    log = shard.logs / f"{shard.patroni_of(replica)['name']}.log"
    with ExitStack() as first_is_down, Etcd(cluster.dir) as etcd:
        failsafe = etcd.failsafe()
        with frozen([*family(shard.patroni_of(replica)), *family(replica)]):
            kill(family(primary))
            promoted = eventually(lambda: shard.primary_on(before + 1), SECONDS)
            assert promoted["name"] == primary["name"]
            eventually(lambda: shard.last_history(primary) == before + 1, SECONDS)
            client.post(f"/v1/counters/{key}/increments", json={"delta": 7}, params={"wait": 20}).raise_for_status()
            first_is_down.enter_context(damage.stopped(shard.subject, promoted))
            etcd.leader_has_died(failsafe)
            said = log.stat().st_size
        eventually(
            lambda: f"My timeline {before} is behind last known cluster timeline" in log.read_text()[said:], SECONDS
        )
        assert shard.primary_on(before + 1) is None
    eventually(lambda: shard.primary_on(before + 2), SECONDS)
    assert value_of(client, key) == 7
    eventually(lambda: is_streaming(SHARD), SECONDS)
    eventually(lambda: client.get(f"/v1/shards/{SHARD}/digest", params={"wait": 20}).json().get("equal"), SECONDS)
