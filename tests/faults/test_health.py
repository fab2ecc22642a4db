"""/health and /status while things hang or are gone: they answer in time, name what is down, and count the copies that are
left."""

from __future__ import annotations

import re
import time
from collections.abc import Iterator
from typing import Any

import httpx
import pytest

from counters.operators import health, status
from tests.support.admin import field
from tests.support.browser import Browser
from tests.support.cluster import Cluster, eventually, frozen
from tests.support.http import assert_problem
from tests.support.shards import SHARD, replica_away

BOUND = health.SECONDS + 1.0  # for an answer, on a busy machine
STATUS_BOUND = status.SECONDS + 1.0
COMPONENTS = "/admin/counters/component/"


pytestmark = pytest.mark.usefixtures("whole")


@pytest.fixture
def api(cluster: Cluster) -> Iterator[httpx.Client]:
    """One API process: nginx would hide one that hangs."""
    with httpx.Client(base_url=f"http://127.0.0.1:{cluster.processes('api')[0]['port']}", timeout=60) as client:
        yield client


def asked(api: httpx.Client, path: str = "/health", bound: float = BOUND) -> httpx.Response:
    """The answer, which comes in time."""
    began = time.monotonic()
    answer = api.get(path)
    took = time.monotonic() - began
    assert took < bound, f"{path} took {took:.2f} s"
    return answer


def trouble(api: httpx.Client) -> dict[str, str]:
    """Status by name of what is not up."""
    assert asked(api, "/livez").status_code == 200
    return {one["name"]: one["status"] for one in asked(api).json()["components"] if one["status"] != "up"}


def told(api: httpx.Client) -> set[str]:
    """What /status lists as not up."""
    return set(re.findall(r"<li><b>([^<]+)</b>", asked(api, "/status", STATUS_BOUND).text))


def until(api: httpx.Client, wanted: dict[str, str]) -> None:
    """Wait until this is not up, and nothing else, and the status page names all of it."""
    seen: dict[str, str] = {}

    def is_so() -> bool:
        seen.clear()
        seen.update(trouble(api))
        return seen == wanted

    try:
        eventually(is_so)
    except AssertionError as error:
        raise AssertionError(f"{seen} instead of {wanted}") from error
    eventually(lambda: told(api) >= wanted.keys())


def test_what_hangs_is_named_and_delays_no_answer(cluster: Cluster, api: httpx.Client, root: Browser) -> None:
    replica = next(one for one in cluster.processes("postgres", 0) if one["mode"] == "replica")["name"]
    names = (replica, "redis-cache", "worker-0-1", "spill-worker-1")
    with frozen(*cluster.named(*names)):
        until(
            api,
            {
                f"shard-0-node-{replica[-1]}": "down",
                "cache": "down",
                "shard-0-worker": "down",
                "spill-worker": "down",
            },
        )
        now = asked(api)
        assert (now.status_code, now.json()["status"], now.json()["ready"]) == (200, "degraded", True)
        details = {one["name"]: one.get("detail") for one in now.json()["components"]}
        assert details["shard-0-worker"] == details["spill-worker"] == "no worker runs"
        assert asked(api, "/readyz").status_code == 200
        assert "The cache&#x27;s Redis does not answer" in asked(api, "/status", STATUS_BOUND).text
        page = root.get(COMPONENTS)
        down = [name for name, state in zip(field(page, "name"), field(page, "status"), strict=True) if state != "up"]
        assert down == ["cache", f"shard-0-node-{replica[-1]}"]
        server = httpx.get(
            f"{cluster.url}/v1/shards/0/replicas/shard-0-node-{replica[-1]}/counters",
            headers={"Authorization": f"Api-Key {cluster.key}"},
            timeout=60,
        )
        assert_problem(server, 503, "shard-unavailable")
        assert server.headers["Retry-After"]


def test_the_primary_hangs(cluster: Cluster, api: httpx.Client) -> None:
    """Patroni lets nobody take over as long as its own process answers for the leader; nobody is a copy meanwhile."""
    primary = next(one for one in cluster.processes("postgres", SHARD) if one["mode"] == "primary")["name"]
    with frozen(*cluster.named(primary)):
        until(
            api,
            {
                f"shard-{SHARD}": "down",
                f"shard-{SHARD}-replica": "unknown",
                f"shard-{SHARD}-node-1": "down",
                f"shard-{SHARD}-node-2": "down",
            },
        )
        assert [one["copies"] for one in asked(api).json()["redundancy"]["shards"]] == [2, 0]


def test_the_journal_hangs(cluster: Cluster, api: httpx.Client) -> None:
    """Not ready is not dead, and what only the journal's Redis could tell is unknown."""
    with frozen(*cluster.named("redis-journal")):
        until(
            api,
            {
                "journal": "down",
                **dict.fromkeys(("beat", "disks", "spill-worker", "shard-0-worker", "shard-1-worker"), "unknown"),
            },
        )
        now = asked(api)
        assert (now.status_code, now.json()["status"], now.headers["Retry-After"]) == (503, "down", "1")
        assert now.json()["redundancy"]["journal"] == 0
        problem = eventually(lambda: (answer := asked(api, "/readyz")).is_error and answer)  # its look may be older
        assert "journal" in assert_problem(problem, 503, "not-ready")["detail"]
        assert problem.headers["Retry-After"] == "1"


def test_a_dead_replica_is_a_copy_less_everywhere(
    cluster: Cluster, client: httpx.Client, api: httpx.Client, root: Browser
) -> None:
    """libpq falls back to the primary where no replica answers, so a connection says nothing of replicas."""
    with replica_away(cluster, client) as replica:
        until(api, {replica: "down", f"shard-{SHARD}-replica": "down"})
        assert [one["copies"] for one in asked(api).json()["redundancy"]["shards"]] == [2, 1]
        shown = client.get("/v1/shards").json()["results"]
        assert [(one["copies"], one["copies_wanted"]) for one in shown] == [(2, 2), (1, 2)]
        exposed = cluster.metrics(cluster.processes("api")[0])
        told = re.findall(r"^tally_shard_copies{shard=\"(.)\"} (\S+)$", exposed, re.MULTILINE)
        assert told == [("0", "2.0"), ("1", "1.0")]
        assert field(root.get("/admin/replication/shard/"), "copies") == ["2 of 2", "1 of 2"]
        copies = root.get("/admin/replication/replica/").text.partition('id="copies"')[2].partition("</p>")[0]
        assert re.findall(r"\d of \d", copies) == ["2 of 2", "1 of 2"]
        row = eventually(lambda: next(server for server in servers(cluster, replica) if not server["streaming"]))
        assert row["mode"] == "replica"
        assert problem_of(client, replica)


def servers(cluster: Cluster, node: str) -> list[dict[str, Any]]:
    return [one for one in cluster.processes("postgres", SHARD) if one["name"][-1] == node[-1]]


def problem_of(client: httpx.Client, node: str) -> dict[str, Any]:
    answer = client.get(f"/v1/shards/{SHARD}/replicas/{node}/counters")
    return assert_problem(answer, 503, "shard-unavailable")
