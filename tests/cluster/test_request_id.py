"""A request's id is in its answer and in every problem document, whichever way it took."""

from __future__ import annotations

import re

import httpx
import pytest

from sharding import databases, topology
from tests.support.cluster import Cluster, eventually

WAYS = pytest.mark.parametrize("way", [{}, {"X-Unknown": "1"}], ids=["fast path", "view"])


@WAYS
def test_an_answer_has_the_id_of_its_request(client: httpx.Client, key: str, way: dict[str, str]) -> None:
    answer = client.post(
        f"/v1/counters/{key}/increments", json={"delta": 1}, headers={"X-Request-ID": "order-7", **way}
    ).raise_for_status()
    assert answer.headers.get_list("X-Request-ID") == ["order-7"]
    assert "request_id" not in answer.json()


@WAYS
def test_a_problem_document_has_it_too(client: httpx.Client, key: str, way: dict[str, str]) -> None:
    answer = client.post(
        f"/v1/counters/{key}/increments", json={"delta": "x"}, headers={"X-Request-ID": "order-8", **way}
    )
    assert answer.status_code == 400
    assert answer.headers["Content-Type"] == "application/problem+json"
    assert answer.json()["request_id"] == answer.headers["X-Request-ID"] == "order-8"
    assert int(answer.headers["Content-Length"]) == len(answer.content)


def test_a_request_that_has_none_gets_one(cluster: Cluster, client: httpx.Client) -> None:
    """Also on the port of an API process, where no nginx has looked at it."""
    port = cluster.processes("api")[0]["port"]
    answers = [client.get("/livez"), httpx.get(f"http://127.0.0.1:{port}/livez", headers={"X-Request-ID": "two words"})]
    ids = {answer.headers["X-Request-ID"] for answer in answers}
    assert len(ids) == 2
    assert all(re.fullmatch("[0-9a-f]{32}", id) for id in ids)


def test_a_body_that_is_too_large_is_named_too(cluster: Cluster) -> None:
    port = cluster.processes("api")[0]["port"]
    body = b"x" * (int(cluster.env.get("TALLY_MAX_BODY_BYTES", 16 * 1024 * 1024)) + 1)
    answer = httpx.post(f"http://127.0.0.1:{port}/v1/increments", content=body, headers={"X-Request-ID": "large"})
    assert answer.status_code == 413
    assert answer.json()["request_id"] == answer.headers["X-Request-ID"] == "large"


def _is_on_replica(key: str, value: int) -> bool:
    alias = databases.replica(topology.current().shard_of(key))
    assert alias, "the shard has no replica"
    with databases.connection(alias) as conn:
        return conn.execute("SELECT FROM counter WHERE key = %s AND value = %s", (key, value)).rowcount == 1


@WAYS
def test_the_answer_to_a_write_names_it(client: httpx.Client, key: str, way: dict[str, str]) -> None:
    """nginx' log leads from the request to the batch by this header."""
    path = f"/v1/counters/{key}"
    one = client.post(f"{path}/increments", json={"delta": 1}, headers={**way, "Idempotency-Key": key})
    again = client.post(f"{path}/increments", json={"delta": 1}, headers={**way, "Idempotency-Key": key})
    many = client.post("/v1/increments", json={"keys": [key, f"{key}:b"], "deltas": [1, 2]}, headers=way)
    eventually(lambda: _is_on_replica(key, 2))
    applied = client.post(f"{path}/increments", json={"delta": 1}, headers={**way, "Idempotency-Key": key})
    for answer in (one, again, many, applied):
        assert answer.raise_for_status().headers["Tally-Write"] == answer.json()["id"]
    assert one.headers["Tally-Write"] == again.headers["Tally-Write"] == applied.headers["Tally-Write"]
    put = client.put(path, json={"value": 7}, headers=way).raise_for_status()
    assert client.get(f"/v1/writes/{put.headers['Tally-Write']}").json()["status"] == "applied"
    refused = client.put(path, json={"value": 8}, headers={**way, "If-Match": '"1"'})
    assert refused.status_code == 412
    assert refused.headers["Tally-Write"] == refused.json()["id"]
    assert "Tally-Write" not in client.get(path, headers=way).headers
