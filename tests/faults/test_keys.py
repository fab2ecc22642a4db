"""API keys while the control database changes or stands still: every process refuses a revoked key in time, and who has
a valid key notices nothing."""

from __future__ import annotations

import time
from concurrent.futures import ThreadPoolExecutor
from uuid import uuid4

import httpx

from counters.models import ApiKey
from tests.support.cluster import Cluster, eventually
from tests.support.shards import frozen, key_on

PROMISED_SECONDS = 5.0  # the default of TALLY_API_KEY_TTL_SECONDS
STRANGERS = 80  # more than an API process has threads


def add(url: str, api_key: str, key: str) -> int:
    """The status of one increment."""
    return httpx.post(
        f"{url}/v1/counters/{key}/increments",
        json={"delta": 1},
        headers={"Authorization": f"Api-Key {api_key}"},
        timeout=30,
    ).status_code


def test_every_idle_process_refuses_a_revoked_key_and_a_removed_scope_in_time(cluster: Cluster, key: str) -> None:
    urls = [f"http://127.0.0.1:{api['port']}" for api in cluster.processes("api")]
    revoked, narrowed = cluster.make_key("write"), cluster.make_key("write")
    assert [add(url, one, key) for url in urls for one in (revoked, narrowed)] == [202] * 4
    ApiKey.objects.filter(prefix=revoked.partition(".")[0]).update(revoked=True)
    ApiKey.objects.filter(prefix=narrowed.partition(".")[0]).update(scopes=["read"])
    time.sleep(PROMISED_SECONDS)  # without a request: a process that is asked may reread the keys because of that
    assert [add(url, one, key) for url in urls for one in (revoked, narrowed)] == [401, 403] * 2


def test_strangers_hold_up_nobody_while_the_control_database_stands_still(cluster: Cluster, key: str) -> None:
    """A read of the primary is answered in a thread. Strangers' requests would take all of them if they waited there."""
    url, there = f"http://127.0.0.1:{cluster.processes('api')[0]['port']}", key_on(1, key)
    assert add(url, cluster.key, there) == 202
    until = time.monotonic() + 60

    def knock(_: int) -> set[int]:
        statuses = set()
        while time.monotonic() < until:
            statuses.add(add(url, f"{uuid4().hex[:8]}.{uuid4().hex}", key))
        return statuses

    def read() -> float:
        began = time.monotonic()
        answer = httpx.get(
            f"{url}/v1/counters/{there}",
            params={"consistency": "primary"},
            headers={"Authorization": f"Api-Key {cluster.key}"},
            timeout=30,
        )
        assert answer.status_code == 200, answer.text
        return time.monotonic() - began

    with frozen(cluster, 0), ThreadPoolExecutor(STRANGERS) as pool:
        knocking = pool.map(knock, range(STRANGERS))
        times = [read() for _ in range(30)]
        until = 0
        answered = set().union(*knocking)
    assert sorted(times)[len(times) // 2] < 1, times
    assert 503 in answered
    assert answered <= {401, 503}, "401 until the first read has failed"
    with cluster.client(f"{uuid4().hex[:8]}.{uuid4().hex}") as stranger:
        eventually(lambda: stranger.put(f"/v1/counters/{key}", json={"value": 1}).status_code == 401)
