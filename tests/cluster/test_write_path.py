"""What the write calls promise, over HTTP, on the real parts."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any
from uuid import uuid4

import httpx
import msgspec
import psutil
import pytest
from django.db import connections

from counters.intake import idempotency, journal
from counters.models import ApiKey
from runtime import redis
from tests.support.cluster import Cluster, eventually, value_of
from tests.support.shards import key_on

MAX = 2**63 - 1


def increment(
    client: httpx.Client, key: str, delta: int = 1, *, wait: float | None = None, **headers: str
) -> httpx.Response:
    return client.post(
        f"/v1/counters/{key}/increments",
        json={"delta": delta},
        params={} if wait is None else {"wait": wait},
        headers={name.replace("_", "-"): value for name, value in headers.items()},
    )


def status_of(client: httpx.Client, write: str) -> dict[str, Any]:
    answer: dict[str, Any] = client.get(f"/v1/writes/{write}").raise_for_status().json()
    return answer


def settled(client: httpx.Client, write: str) -> dict[str, Any]:
    """The status of a write once it is no longer queued."""
    found: dict[str, Any] = eventually(lambda: (one := status_of(client, write))["status"] != "queued" and one)
    return found


@pytest.mark.smoke
def test_increment_is_queued_then_applied(client: httpx.Client, key: str) -> None:
    answer = increment(client, key, 5)
    assert answer.status_code == 202
    body = answer.json()
    assert body.keys() == {"id", "key", "delta", "status", "queue"}
    assert (body["key"], body["delta"], body["status"]) == (key, 5, "queued")
    assert body["queue"].startswith("shard-")
    assert settled(client, body["id"])["status"] == "applied"
    assert value_of(client, key) == 5


@pytest.mark.smoke
def test_unwritten_counter_reads_as_zero(client: httpx.Client, key: str) -> None:
    answer = client.get(f"/v1/counters/{key}")
    assert answer.status_code == 200
    assert answer.headers["ETag"] == '"0"'
    body = answer.json()
    assert (body["value"], body["version"], body["updated_at"]) == (0, 0, None)


def test_waited_increments_of_one_key_are_each_a_step(cluster: Cluster, client: httpx.Client, key: str) -> None:
    """Add-and-get: sixteen clients on one key get each value once, and versions rise with values."""
    with ThreadPoolExecutor(16) as pool:
        answers = list(pool.map(lambda _: increment(client, key, wait=30).raise_for_status().json(), range(160)))
    assert sorted(answer["value"] for answer in answers) == list(range(1, 161))
    by_value = sorted(answers, key=lambda answer: answer["value"])
    versions = [answer["version"] for answer in by_value]
    assert versions == sorted(set(versions))


@pytest.mark.smoke
def test_waited_read_follows(client: httpx.Client, key: str) -> None:
    """What an applied answer says, the next read says too, also from the cache."""
    for expected in range(1, 20):
        answer = increment(client, key, wait=30).json()
        read = client.get(f"/v1/counters/{key}").json()
        assert (read["value"], read["version"]) == (expected, answer["version"])


@pytest.mark.smoke
@pytest.mark.parametrize("media", ["json", "ndjson", "msgpack"])
def test_bulk(client: httpx.Client, key: str, media: str) -> None:
    deltas = [(f"{key}:{n % 7}", n) for n in range(-50, 150)]
    items = [{"key": one, "delta": delta} for one, delta in deltas]
    content, kind = {
        "json": (msgspec.json.encode({"increments": items}), "application/json"),
        "ndjson": (b"\n".join(map(msgspec.json.encode, items)), "application/x-ndjson"),
        "msgpack": (msgspec.msgpack.encode({"increments": items}), "application/msgpack"),
    }[media]
    answer = client.post("/v1/increments", content=content, headers={"Content-Type": kind})
    assert answer.status_code == 202, answer.text
    body = answer.json()
    assert (body["accepted"], body["keys"]) == (200, 7)
    assert settled(client, body["id"])["status"] == "applied"
    expected: Counter[str] = Counter()
    for one, delta in deltas:
        expected[one] += delta
    assert {one: value_of(client, one) for one in expected} == dict(expected)


@pytest.mark.smoke
def test_set_reset_and_versions(client: httpx.Client, key: str) -> None:
    first = client.put(f"/v1/counters/{key}", json={"value": -7})
    assert first.status_code == 200
    assert first.json() == {"key": key, "value": -7, "version": first.json()["version"]}
    assert first.headers["ETag"] == f'"{first.json()["version"]}"'
    assert increment(client, key, 10, wait=30).json()["value"] == 3
    reset = client.delete(f"/v1/counters/{key}")
    assert (reset.status_code, reset.json()["value"]) == (200, 0)
    assert value_of(client, key) == 0


@pytest.mark.smoke
def test_compare_and_set(client: httpx.Client, key: str) -> None:
    created = client.put(f"/v1/counters/{key}", json={"value": 1}, headers={"If-Match": '"0"'})
    assert created.status_code == 200
    again = client.put(f"/v1/counters/{key}", json={"value": 2}, headers={"If-Match": '"0"'})
    assert again.status_code == 412
    assert again.json()["version"] == created.json()["version"]
    changed = client.put(f"/v1/counters/{key}", json={"value": 3}, headers={"If-Match": created.headers["ETag"]})
    assert changed.status_code == 200
    assert value_of(client, key) == 3


def test_concurrent_compare_and_set_has_one_winner(client: httpx.Client, key: str) -> None:
    """Sixteen clients add one by read and compare-and-set; no update is lost."""

    def add_one(_: int) -> int:
        tries = 0
        while True:
            tries += 1
            read = client.get(f"/v1/counters/{key}", params={"consistency": "primary"}).json()
            answer = client.put(
                f"/v1/counters/{key}", json={"value": read["value"] + 1}, headers={"If-Match": f'"{read["version"]}"'}
            )
            if answer.status_code == 200:
                return tries
            assert answer.status_code == 412, answer.text

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(add_one, range(40)))
    assert value_of(client, key) == 40


def test_set_voids_what_was_accepted_before(client: httpx.Client, key: str) -> None:
    for _ in range(20):
        increment(client, key, 1000)
        assert client.put(f"/v1/counters/{key}", json={"value": 1}).status_code == 200
        increment(client, key, 1)
    assert eventually(lambda: value_of(client, key) == 2)


@pytest.mark.smoke
def test_idempotency_key(client: httpx.Client, key: str) -> None:
    token = uuid4().hex
    answers = [increment(client, key, 3, Idempotency_Key=token) for _ in range(3)]
    assert [answer.status_code for answer in answers] == [202] * 3
    assert len({answer.text for answer in answers}) == 1
    other = increment(client, key, 4, Idempotency_Key=token)
    assert other.status_code == 422
    assert other.json()["type"] == "urn:tally:problem:idempotency-key-reused"
    settled(client, answers[0].json()["id"])
    assert increment(client, key, 3, Idempotency_Key=token).text == answers[0].text
    assert value_of(client, key) == 3


def test_idempotency_key_in_one_flush(client: httpx.Client, key: str) -> None:
    """Thirty-two at once: one is counted, all get the same answer."""
    token = uuid4().hex
    with ThreadPoolExecutor(32) as pool:
        answers = list(pool.map(lambda _: increment(client, key, Idempotency_Key=token), range(64)))
    assert len({answer.text for answer in answers}) == 1
    settled(client, answers[0].json()["id"])
    assert value_of(client, key) == 1


@pytest.mark.parametrize("call", ["wait", "put", "delete", "bulk", "cas"])
def test_idempotency_key_on_every_write(client: httpx.Client, key: str, call: str) -> None:
    headers = {"Idempotency-Key": uuid4().hex}
    calls: dict[str, Callable[[], httpx.Response]] = {
        "wait": lambda: client.post(
            f"/v1/counters/{key}/increments", json={"delta": 2}, params={"wait": 30}, headers=headers
        ),
        "put": lambda: client.put(f"/v1/counters/{key}", json={"value": 9}, headers=headers),
        "delete": lambda: client.delete(f"/v1/counters/{key}", headers=headers),
        "bulk": lambda: client.post("/v1/increments", json={"increments": [{"key": key, "delta": 1}]}, headers=headers),
        "cas": lambda: client.put(f"/v1/counters/{key}", json={"value": 1}, headers={**headers, "If-Match": '"77"'}),
    }
    send = calls[call]
    first = send()
    increment(client, key, 100, wait=30)
    value = value_of(client, key)
    second = send()
    assert (second.status_code, second.text) == (first.status_code, first.text)
    assert value_of(client, key) == value


def test_idempotency_key_that_left_redis_is_found_in_its_shard(
    cluster: Cluster, client: httpx.Client, key: str
) -> None:
    """After an hour the record is in PostgreSQL only."""
    token = uuid4().hex
    first = increment(client, key, 3, Idempotency_Key=token)
    settled(client, first.json()["id"])
    prefix = cluster.key.partition(".")[0]
    claim = idempotency.claim(prefix, token, "POST", f"/v1/counters/{key}/increments", first.request.content)
    eventually(lambda: idempotency.records(claim.home_shard, [claim.token]))
    assert redis.journal().delete(journal.token_key(claim.token)) == 1
    assert increment(client, key, 3, Idempotency_Key=token).text == first.text
    assert increment(client, key, 4, Idempotency_Key=token).status_code == 422
    assert value_of(client, key) == 3


@pytest.mark.smoke
def test_overflow_is_rejected_alone(client: httpx.Client, key: str) -> None:
    """Increments that fit are counted, those that do not say so, whoever shares their batch."""
    other = f"{key}:other"
    client.put(f"/v1/counters/{key}", json={"value": MAX - 10}).raise_for_status()
    with ThreadPoolExecutor(16) as pool:
        writes = list(pool.map(lambda _: increment(client, key, 1).json()["id"], range(25)))
        list(pool.map(lambda _: increment(client, other, 1).raise_for_status(), range(25)))
    statuses = Counter(settled(client, write)["status"] for write in writes)
    assert statuses == {"applied": 10, "rejected": 15}
    assert value_of(client, key) == MAX
    assert eventually(lambda: value_of(client, other) == 25)
    rejected = next(found for write in writes if (found := status_of(client, write))["status"] == "rejected")
    assert rejected["rejected"] == [
        {"key": key, "reason": "overflow", "detail": "the counter would leave the range of a signed 64-bit integer"}
    ]
    waited = increment(client, key, 1, wait=30)
    assert (waited.status_code, waited.json()["value"]) == (409, MAX)
    assert increment(client, key, -MAX, wait=30).json()["value"] == 0


def test_overflow_of_a_sum_in_a_bulk(client: httpx.Client, key: str) -> None:
    """One key of a bulk write overflows; the others are counted, and the write names the key."""
    client.put(f"/v1/counters/{key}", json={"value": MAX}).raise_for_status()
    items = [{"key": key, "delta": 5}, {"key": f"{key}:b", "delta": 5}]
    write = client.post("/v1/increments", json={"increments": items}).json()["id"]
    found = settled(client, write)
    assert found["status"] == "applied"
    assert [one["key"] for one in found["rejected"]] == [key]
    assert value_of(client, f"{key}:b") == 5


def test_scopes(cluster: Cluster, client: httpx.Client, key: str) -> None:
    with cluster.client(cluster.make_key("read")) as reading:
        assert increment(reading, key).status_code == 403
        assert reading.get(f"/v1/counters/{key}").status_code == 200
    with cluster.client("") as anonymous:
        assert increment(anonymous, key).status_code == 401
        assert anonymous.get(f"/v1/counters/{key}").status_code == 200


def test_revoked_key_is_refused(cluster: Cluster, key: str) -> None:
    writer = cluster.make_key("write")
    with cluster.client(writer) as writing:
        assert increment(writing, key).status_code == 202
        connections.close_all()  # an earlier test may have ended the server that they lead to
        row = ApiKey.objects.get(prefix=writer.partition(".")[0])
        row.revoked = True
        row.save()
        eventually(lambda: increment(writing, key).status_code == 401)


def test_unknown_write(client: httpx.Client) -> None:
    assert client.get(f"/v1/writes/{uuid4().hex}-0-0").status_code == 404


def test_a_repeat_does_not_wait_for_a_result_that_nobody_kept(client: httpx.Client, key: str) -> None:
    """The first request did not ask for the result, so the repeat is told at once that it is applied, and no more."""
    headers = {"Idempotency-Key": uuid4().hex}
    first = client.post(f"/v1/counters/{key}/increments", json={"delta": 1}, headers=headers).raise_for_status().json()
    settled(client, first["id"])
    answer = client.post(f"/v1/counters/{key}/increments?wait=30", json={"delta": 1}, headers=headers)
    assert answer.json() == {**first, "status": "applied", "value": None, "version": None}
    assert answer.status_code == 200
    assert answer.elapsed.total_seconds() < 20
    assert value_of(client, key) == 1


@pytest.mark.parametrize(("seconds", "clients"), [(0.2, 4), (2.5, 40)])
def test_a_write_that_is_waited_for_in_vain_counts_once(
    cluster: Cluster, client: httpx.Client, key: str, seconds: float, clients: int
) -> None:
    """It waits on the loop first and in a thread then, if there is one left for it; meanwhile reads go on."""
    key = key_on(1, key)
    workers = [psutil.Process(one["pid"]) for one in cluster.processes("worker", 1)]

    def add(_: int) -> tuple[int, str]:
        with cluster.client() as own:
            answer = own.post(f"/v1/counters/{key}/increments", json={"delta": 1}, params={"wait": seconds})
            return answer.status_code, answer.json()["status"]

    for worker in workers:
        worker.suspend()
    try:
        with ThreadPoolExecutor(clients) as pool:
            answers = pool.map(add, range(clients))
            started = time.monotonic()
            assert value_of(client, key) == 0
            assert time.monotonic() - started < 2
            assert set(answers) == {(202, "queued")}
    finally:
        for worker in workers:
            worker.resume()
    eventually(lambda: value_of(client, key) == clients)
    client.post(f"/v1/counters/{key}/increments", json={"delta": 1}, params={"wait": 20}).raise_for_status()
    assert value_of(client, key) == clients + 1
