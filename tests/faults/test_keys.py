"""API keys while the control database changes or stands still: every process refuses a revoked key in time, and who has
a valid key notices nothing."""

from __future__ import annotations

import asyncio
import time
from contextlib import suppress
from uuid import uuid4

import httpx
import pytest

from counters.models import ApiKey
from tests.support.cluster import Cluster, eventually, frozen
from tests.support.shards import key_on

PROMISED_SECONDS = 5.0  # the default of TALLY_API_KEY_TTL_SECONDS
STRANGERS = 600  # many times the threads of an API process


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


async def knock(port: int, key: str, until: asyncio.Event) -> set[int]:
    """The statuses that a stranger gets, who tries another key each second."""
    statuses = set()
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    while not until.is_set():
        unknown = f"{uuid4().hex[:8]}.{uuid4().hex}"
        head = f"PUT /v1/counters/{key} HTTP/1.1\r\nHost: 127.0.0.1\r\nAuthorization: Api-Key {unknown}\r\n"
        writer.write(f"{head}Content-Length: 0\r\n\r\n".encode())
        answer = await reader.readuntil(b"\r\n\r\n")
        length = next(line for line in answer.lower().split(b"\r\n") if line.startswith(b"content-length:"))
        await reader.readexactly(int(length.partition(b":")[2]))
        statuses.add(int(answer.split()[1]))
        with suppress(TimeoutError):
            await asyncio.wait_for(until.wait(), 1)
    writer.close()
    return statuses


async def read_beside_strangers(port: int, there: str, headers: dict[str, str]) -> tuple[list[float], set[int]]:
    """How long reads of a primary take while strangers knock, and what those are answered."""
    until, times = asyncio.Event(), []
    async with asyncio.TaskGroup() as group:
        knocking = [group.create_task(knock(port, there, until)) for _ in range(STRANGERS)]
        async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}", headers=headers, timeout=60) as client:
            for _ in range(5):
                await asyncio.sleep(0.5)  # the strangers are in the midst of it
                began = time.monotonic()
                answer = await client.get(f"/v1/counters/{there}", params={"consistency": "primary"})
                assert answer.status_code == 200, answer.text
                times.append(time.monotonic() - began)
        until.set()
    return times, set().union(*(one.result() for one in knocking))


@pytest.mark.usefixtures("whole")
def test_strangers_hold_up_nobody_while_the_control_database_stands_still(cluster: Cluster, key: str) -> None:
    """A read of the primary is answered in a thread. Strangers' requests would take all of them if they waited there."""
    port, there = cluster.processes("api")[0]["port"], key_on(1, key)
    assert add(f"http://127.0.0.1:{port}", cluster.key, there) == 202
    log = cluster.dir / "logs" / f"{cluster.processes('api')[0]['name']}.log"
    logged = log.stat().st_size
    with frozen(*cluster.processes("postgres", 0)):
        times, answers = asyncio.run(read_beside_strangers(port, there, {"Authorization": f"Api-Key {cluster.key}"}))
    assert sorted(times)[len(times) // 2] < 2.5, times
    assert 503 in answers
    assert log.stat().st_size - logged < 50_000, "nor do they fill the log"
    assert answers <= {401, 503}, "401 until the first read has failed"
    with cluster.client(f"{uuid4().hex[:8]}.{uuid4().hex}") as stranger:
        eventually(lambda: stranger.put(f"/v1/counters/{key}", json={"value": 1}).status_code == 401)
