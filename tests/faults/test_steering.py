"""Staff calls that cannot be done: invalid values, servers and Patronis that are down. Never 500, and nothing half done."""

from __future__ import annotations

import time
from typing import Any

import httpx
import pytest

from replication.models import Intervention
from tests.support.cluster import Cluster, eventually, frozen
from tests.support.shards import SHARD, URL, one_of, patroni_of, replica_away, replicas_of

DELAY = f"{URL}/replicas/nobody/delay"
REASON = {"reason": "x"}
LONG = "x" * 1001
NO_QUORUMS: list[Any] = [-1, "1", 1.5, True, 101, None, [], 2**64]


@pytest.mark.parametrize(
    ("method", "path", "body", "field", "rule"),
    [
        *(("PUT", f"{URL}/quorum", {"quorum": value}, "quorum", "`int`") for value in NO_QUORUMS),
        ("PUT", f"{URL}/quorum", {}, "body", "missing required field `quorum`"),
        ("PUT", f"{URL}/quorum", [], "body", "`object`"),
        ("PUT", f"{URL}/quorum", b"", "body", "truncated"),
        ("PUT", f"{URL}/quorum", b"quorum=1", "body", "malformed"),
        ("PUT", f"{URL}/quorum", b'{"quorum": NaN}', "body", "malformed"),
        ("PUT", f"{URL}/quorum", b"\xff\xfe{}", "body", "malformed"),
        ("PUT", f"{URL}/quorum", {"quorum": 0, "strict": "yes"}, "strict", "`bool | null`"),
        (
            "PUT",
            f"{URL}/quorum",
            {"quorum": 0, "synchronous_commit": "local"},
            "synchronous_commit",
            "Invalid enum value",
        ),
        ("PUT", f"{URL}/quorum", {"quorum": 0, "reason": LONG}, "reason", "length <= 1000"),
        ("PUT", f"{URL}/quorum", {"quorum": 0, "reason": "a\0b"}, "reason", "matching"),
        ("PUT", f"{URL}/quorum", {"quorum": 0, "reason": " \u00a0\n"}, "reason", "matching"),
        ("PUT", "/v1/shards/quorum", {"quorum": 0, "reason": ""}, "reason", "matching"),
        ("PUT", DELAY, {"delay": "0ms", "reason": " "}, "reason", "matching"),
        ("PUT", "/v1/shards/quorum", {"quorum": "1"}, "quorum", "`int`"),
        ("POST", f"{URL}/switchover", {}, "body", "missing required field `reason`"),
        ("POST", f"{URL}/switchover", {"reason": " \n"}, "reason", "matching"),
        ("POST", f"{URL}/switchover", {"reason": "x\0"}, "reason", "matching"),
        ("POST", f"{URL}/switchover", {**REASON, "candidate": ""}, "candidate", "matching"),
        ("POST", f"{URL}/switchover", {**REASON, "candidate": 2}, "candidate", "`str | null`"),
        ("POST", f"{URL}/failover", REASON, "body", "missing required field `candidate`"),
        ("POST", f"{URL}/failover", {**REASON, "candidate": "a\0b"}, "candidate", "matching"),
        ("POST", f"{URL}/failover", {**REASON, "candidate": "x", "force": True}, "body", "unknown field `force`"),
        ("POST", f"{URL}/replicas/nobody/rejoin", {"reason": 1}, "reason", "`str`"),
        ("POST", f"{URL}/replicas/nobody/reinitialise", {"reason": ""}, "reason", "matching"),
        ("PUT", DELAY, {"delay": 200}, "delay", "`str`"),
        *(
            ("PUT", DELAY, {"delay": text}, "delay", "a time like")
            for text in ("", "200", "-1ms", "2s..1s", "3601s", "1ms\n", "9" * 9999)
        ),
        ("GET", f"{URL}/digest?wait=nan", None, "wait", "seconds from 0 to 30"),
    ],
)
def test_a_value_that_is_none_is_named(
    client: httpx.Client, method: str, path: str, body: Any, *, field: str, rule: str
) -> None:
    before = Intervention.objects.count()
    sent = (
        {"content": body, "headers": {"Content-Type": "application/json"}}
        if isinstance(body, bytes)
        else {"json": body}
    )
    answer = client.request(method, path, **(sent if method != "GET" else {}))
    assert answer.status_code == 400, answer.text
    assert answer.headers["Content-Type"] == "application/problem+json"
    (error,) = answer.json()["errors"]
    assert (error["field"], rule in error["rule"]) == (field, True), error
    assert Intervention.objects.count() == before, "nothing was asked of anybody"


@pytest.mark.parametrize(
    ("body", "headers", "status"), [(b"{}", {}, 415), (b" " * 17 * 2**20, {"Content-Type": "application/json"}, 413)]
)
def test_a_body_of_another_kind(client: httpx.Client, body: bytes, headers: dict[str, str], status: int) -> None:
    answer = client.put(f"{URL}/quorum", content=body, headers={"Content-Type": "text/plain", **headers})
    assert (answer.status_code, answer.json()["status"]) == (status, status)


@pytest.mark.parametrize("shard", ["2", "-1", "01", "1.0", "x", "+1", "%D9%A1", "9" * 40])
@pytest.mark.parametrize("call", ["quorum", "digest", "replicas"])
def test_a_shard_has_one_number(client: httpx.Client, shard: str, call: str) -> None:
    answer = client.get(f"/v1/shards/{shard}/{call}")
    assert (answer.status_code, answer.json()["type"]) == (404, "urn:tally:problem:unknown-shard"), answer.text


@pytest.mark.usefixtures("asynchronous")
def test_a_copy_that_runs_is_not_begun_again(client: httpx.Client) -> None:
    replica = one_of(client, "replica")["node"]
    answers = [client.post(f"{URL}/replicas/{replica}/reinitialise", json=REASON) for _ in range(3)]
    assert [one.status_code for one in answers] == [202, 409, 409], [one.text for one in answers]
    assert "already in progress" in answers[1].json()["detail"]
    eventually(lambda: one_of(client, "replica")["state"] == "streaming" and one_of(client, "replica")["flush"], 90)


@pytest.mark.usefixtures("asynchronous")
def test_the_primarys_patroni_stands_still(cluster: Cluster, client: httpx.Client) -> None:
    """What only it could tell or do is 503, soon; what is known without it is shown."""
    primary = one_of(client, "primary")["node"]
    with frozen(patroni_of(cluster, SHARD, primary)):
        began = time.monotonic()
        shown = client.get("/v1/shards").json()["results"][SHARD]
        answers = [client.get(f"{URL}/quorum"), client.put(f"{URL}/quorum", json={"quorum": 1})]
        assert time.monotonic() - began < 19, "Patroni's ttl: the replica may be promoted then"
    assert (shown["primary"], shown["quorum"]) == (primary, None)
    for answer in answers:
        assert (answer.status_code, answer.headers["Retry-After"]) == (503, "1"), answer.text
        assert f"{primary} did not answer" in answer.json()["detail"]
        assert " at 0x" not in answer.text
    eventually(lambda: client.put(f"{URL}/quorum", json={"quorum": 0}).status_code == 200)


@pytest.mark.usefixtures("asynchronous")
def test_a_replica_that_is_away_can_not_take_over_and_is_still_one(cluster: Cluster, client: httpx.Client) -> None:
    """Patroni forgets a node after 20 s. The shard is still meant to have it, so a quorum of 1 can be set but is not met now."""
    primary = one_of(client, "primary")["node"]
    with replica_away(cluster, client) as gone:
        row = eventually(
            lambda: next(one for one in replicas_of(client) if one["node"] == gone and one["state"] != "streaming")
        )
        assert row["flush"] is None
        for body in ({**REASON, "candidate": gone}, REASON):
            answer = client.post(f"{URL}/switchover", json=body)
            assert answer.status_code == 409, answer.text
        assert client.post(f"{URL}/replicas/{gone}/rejoin", json=REASON).status_code == 503
        eventually(lambda: "gone" in [one["state"] for one in replicas_of(client)], 40)
        assert client.post(f"{URL}/switchover", json=REASON).status_code == 409
        assert client.post(f"{URL}/replicas/{gone}/reinitialise", json=REASON).status_code == 404
        answer = client.put(f"{URL}/quorum", json={"quorum": 1})
        assert (answer.status_code, answer.json()["in_force"]) == (202, False), answer.text
        answer = client.put(f"{URL}/quorum", json={"quorum": 2})
        assert (answer.status_code, "has 1 replica" in answer.json()["detail"]) == (409, True), answer.text
        assert one_of(client, "primary")["node"] == primary
    eventually(lambda: client.get(f"{URL}/quorum").json()["in_force"], 60)
