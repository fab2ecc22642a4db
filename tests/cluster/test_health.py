"""The probes and /health of a whole cluster, and copies as a figure, wherever it is shown."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import httpx
import psycopg
import pytest

from cluster import programs
from counters.operators import health
from replication import copies, flush
from replication.steering import get_quorum
from sharding import databases, nodes, topology
from tests.support.admin import field
from tests.support.browser import Browser
from tests.support.cluster import Cluster, eventually, wait_applied
from tests.support.shards import SHARD, key_on

SENDERS = "SELECT count(*) FROM pg_stat_replication"
COMPONENTS = "/admin/counters/component/"
REPLICAS = "/admin/replication/replica/"


def apis(cluster: Cluster) -> list[str]:
    return [f"http://127.0.0.1:{api['port']}" for api in cluster.processes("api")]


@pytest.mark.smoke
def test_probes_are_three_things(cluster: Cluster) -> None:
    for url in apis(cluster):
        live, ready, whole = (httpx.get(url + path) for path in ("/livez", "/readyz", "/health"))
        assert (live.status_code, ready.status_code, whole.status_code) == (200, 200, 200)
        assert live.json() == ready.json() == {"status": "ok", "node": whole.json()["node"]}
        assert whole.json()["live"] is whole.json()["ready"] is True


@pytest.mark.smoke
def test_health_names_every_component(cluster: Cluster, client: httpx.Client, key: str) -> None:
    cluster.wait_until_whole()
    began = datetime.now(UTC) - timedelta(seconds=1)
    wait_applied(client, key_on(SHARD, key))

    def shift() -> Any:
        now = client.get("/health").json()
        there = {one["name"]: one for one in now["components"]}
        last = there[f"shard-{SHARD}-worker"].get("last_shift")
        return now if last and datetime.fromisoformat(last) >= began else None

    now = eventually(shift)
    found = {one["name"]: one for one in now["components"]}
    servers = {f"shard-{shard}-node-{node}" for shard in (0, 1) for node in (1, 2)}
    parts = {f"shard-{shard}{part}" for shard in (0, 1) for part in ("", "-replica", "-worker")}
    others = {"journal", "cache", "broker", "control", "topology", "keys", "etcd", "beat", "disks", "spill-worker"}
    assert found.keys() == servers | parts | others
    assert now["status"] == "ok"
    assert {one["status"] for one in found.values()} == {"up"}
    for shard in (0, 1):
        its = [one for name, one in found.items() if name in servers and one["shard"] == shard]
        assert sorted((one["role"], one["state"]) for one in its) == [("primary", "running"), ("replica", "streaming")]
    assert datetime.fromisoformat(found["beat"]["last_tick"]) > datetime.now(UTC) - timedelta(seconds=10)
    assert now["redundancy"] == {
        "journal": 1,
        "journal_wanted": 1,
        "shards": [{"shard": shard, "copies": 2, "wanted": 2} for shard in (0, 1)],
    }
    age = datetime.now(UTC) - datetime.fromisoformat(now["at"])
    assert age < timedelta(seconds=health.SECONDS + health.FRESH_SECONDS + 5)


def test_copies_are_shown_everywhere(cluster: Cluster, client: httpx.Client, root: Browser) -> None:
    shown = client.get("/v1/shards").json()["results"]
    assert [(one["copies"], one["copies_wanted"]) for one in shown] == [(2, 2), (2, 2)]
    for api in cluster.processes("api"):
        told = re.findall(r"^(tally_\w+_copies\w*)(?:{.*})? (\S+)$", cluster.metrics(api), re.MULTILINE)
        assert sorted(told) == [
            ("tally_journal_copies", "1.0"),
            ("tally_journal_copies_wanted", "1.0"),
            *[("tally_shard_copies", "2.0")] * 2,
            *[("tally_shard_copies_wanted", "2.0")] * 2,
        ]
    page = root.get(REPLICAS).text.partition('id="copies"')[2].partition("</p>")[0]
    assert re.findall(r"\d of \d", page) == ["2 of 2", "2 of 2"]
    assert field(root.get("/admin/replication/shard/"), "copies") == ["2 of 2", "2 of 2"]


def test_statistics_of_each_component(root: Browser, client: httpx.Client, key: str) -> None:
    wait_applied(client, key)
    page = root.get(COMPONENTS)
    names = field(page, "name")
    assert names[:3] == ["journal", "cache", "broker"]
    assert sorted(names[3:]) == [f"shard-{shard}-node-{node}" for shard in (0, 1) for node in (1, 2)]
    assert set(field(page, "status")) == {"up"}
    kinds = field(page, "kind")
    assert sorted(kind.split(", ")[1] for kind in kinds[3:]) == ["primary"] * 2 + ["replica"] * 2
    for column in ("clients", "rate", "memory"):
        assert [figure for figure in field(page, column) if not re.match(r"\d", figure)] == []
    queues = ("shard-0", "shard-1", "spill", "maintenance", "low-priority")
    assert re.fullmatch("".join(rf"{queue}: \d+" for queue in queues), field(page, "messages")[2])


def test_a_copy_in_the_making_is_none(cluster: Cluster, tmp_path: Path) -> None:
    """pg_basebackup streams and tells what it has flushed, but nobody could take over from what it has (I3)."""
    secrets = json.loads((cluster.dir / "secrets.json").read_text())
    with databases.connect(databases.primary(SHARD), timeout=5, autocommit=True) as primary:
        address = f"host={primary.info.host} port={primary.info.port} user=replicator"
        backup = subprocess.Popen(
            [
                str(programs.find().postgres_bin / "pg_basebackup"),
                *(f"--dbname={address}", "--pgdata", str(tmp_path / "copy"), "-X", "stream", "--max-rate=32k"),
                "--checkpoint=fast",
            ],
            env={"PGPASSWORD": secrets["replication"]},
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
        try:
            eventually(lambda: primary.execute(f"{SENDERS} WHERE state = 'streaming'").fetchall() == [(2,)])
            eventually(lambda: primary.execute(f"{SENDERS} WHERE flush_lsn IS NOT NULL").fetchall() == [(2,)])
            assert flush.flushed(primary, 1) is not None
            assert flush.flushed(primary, 2) is None
            assert len(copies.ask_primary(SHARD).streaming) == get_quorum(SHARD).following == 1
        finally:
            os.killpg(backup.pid, signal.SIGKILL)  # with the child that streams
            backup.wait()
            eventually(lambda: primary.execute(SENDERS).fetchall() == [(1,)])


def test_counters_of_a_chosen_server(client: httpx.Client, key: str) -> None:
    shard_of = topology.current().shard_of
    names = [name for n in range(10, 99) if shard_of(name := f"{key}:{n}") == SHARD][:5]
    client.post("/v1/increments", json={"increments": [{"key": name, "delta": 3} for name in names]}).raise_for_status()
    servers = {one["node"]: one["role"] for one in client.get(f"/v1/shards/{SHARD}/replicas").json()["results"]}
    assert sorted(servers.values()) == ["primary", "replica"]

    def pages(node: str) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = []
        params: dict[str, Any] = {"prefix": f"{key}:", "limit": 2}
        while True:
            answer = client.get(f"/v1/shards/{SHARD}/replicas/{node}/counters", params=params)
            assert answer.status_code == 200, answer.text
            found += answer.json()["results"]
            if (following := answer.json()["next"]) is None:
                return found
            params["cursor"] = following

    for node, role in servers.items():
        eventually(lambda: len(pages(node)) == len(names))  # noqa: B023 - it has ended before the next
        found = pages(node)
        assert [(one["key"], one["value"]) for one in found] == [(name, 3) for name in names]
        assert {(one["source"], one["shard"]) for one in found} == {(role, SHARD)}
    assert pages(f"127.0.0.1:{nodes.of(SHARD)[0].port}") == pages(f"shard-{SHARD}-node-1"), "an address is a name, too"


def test_a_refused_connection_is_no_server(cluster: Cluster) -> None:
    """What `ask_primary` raises is told in /health without the address that the error names."""
    error = psycopg.OperationalError('connection to server at "10.0.0.1", port 5432 failed')
    component = health._answers("shard-0", error)
    assert (component.status, component.detail) == ("down", "no answer (OperationalError)")
