"""What a collector of OpenTelemetry is told of a write, from the request to the transaction."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager
from uuid import uuid4

import httpx
import pytest
from django.conf import settings
from opentelemetry.proto.trace.v1.trace_pb2 import Span

from counters.api.traced import Traced
from counters.apply import tasks
from counters.apply.worker import Worker
from counters.intake.lease import Lease
from runtime.event_loop import LoopThread
from runtime.resources import Resources
from sharding.lanes import Lane
from tests.support.cluster import Cluster, eventually
from tests.support.journal import lane_of
from tests.support.traces import Receiver, attributes, receiver

TRACE, PARENT = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"
UNSAMPLED = "5bf92f3577b34da6a3ce929d0e0e4736"


@pytest.fixture
def collector(cluster: Cluster) -> Iterator[Receiver]:
    """A collector, and settings by which this process tells it of every request."""
    before = settings.TALLY
    with receiver() as collector:
        update = {"traces_endpoint": collector.url, "traces_percent": 100.0, "worker_memory_bytes": 0}
        settings.TALLY = before.model_copy(update=update)
        try:
            yield collector
        finally:
            settings.TALLY = before


@contextmanager
def put_off(lane: Lane) -> Iterator[None]:
    """Nobody applies this lane until the end; then a shift may."""
    holder, lease = f"of a test#{uuid4().hex}", Lease(lane)
    eventually(lambda: lease.take(holder))
    yield
    assert lease.take(holder)
    assert lease.hand_over(holder)


async def written(application: Traced, key: str, authorization: dict[str, str]) -> list[httpx.Response]:
    """Writes with and without a trace of their callers, a problem and a probe, all at once."""
    parents = [f"00-{TRACE}-{PARENT}-01", f"00-{UNSAMPLED}-{PARENT}-00"]
    headers: list[dict[str, str]] = [
        *({"traceparent": parent} for parent in parents),
        *({} for _ in range(3)),
        {"X-Request-ID": "mine"},
    ]
    transport = httpx.ASGITransport(application)  # type: ignore[arg-type]
    async with httpx.AsyncClient(transport=transport, base_url="http://127.0.0.1", headers=authorization) as client:
        path = f"/v1/counters/{key}/increments"
        return await asyncio.gather(
            *(client.post(path, json={"delta": 1}, headers=one) for one in headers),
            client.post(path, json={"delta": "x"}),
            client.get("/livez"),
        )


def links(span: Span) -> set[tuple[bytes, bytes]]:
    return {(one.trace_id, one.span_id) for one in span.links}


def own(span: Span) -> tuple[bytes, bytes]:
    return span.trace_id, span.span_id


def test_a_request_leads_to_its_transaction(cluster: Cluster, collector: Receiver, key: str) -> None:
    lane = lane_of(key)
    with LoopThread("application") as thread:
        application = thread.run(made())
        thread.run(application.open())
        with put_off(lane):
            *answers, refused, _ = thread.run(written(application, key, {"Authorization": f"Api-Key {cluster.key}"}))
        thread.run(application.close())
    assert [one.status_code for one in (*answers, refused)] == [202] * 6 + [400]
    with Resources():
        tasks._setup().worker = Worker("of a test", [lane.shard])
        task = tasks.apply.apply((lane.shard, lane.number))
        assert int(task.get()["operations"]) >= 6

    requests = {attributes(one)["tally.request_id"]: one for one in collector.named("POST")}
    assert requests.keys() == {one.headers["X-Request-ID"] for one in (*answers, refused)} - {UNSAMPLED}
    assert (requests[TRACE].trace_id.hex(), requests[TRACE].parent_span_id.hex()) == (TRACE, PARENT)
    assert all(id in {"mine", one.trace_id.hex()} for id, one in requests.items())
    told = attributes(requests["mine"])
    assert told["tally.write"] == answers[5].headers["Tally-Write"]
    assert told["http.route"] == "/v1/counters/{key}/increments"
    assert told["http.response.status_code"] == 202
    assert attributes(requests.pop(refused.headers["X-Request-ID"]))["http.response.status_code"] == 400

    flushes = collector.named("flush")
    assert set().union(*map(links, flushes)) == {own(one) for one in requests.values()}
    assert {one.trace_id.hex() for one in flushes} >= {attributes(one)["tally.write"][:32] for one in requests.values()}
    assert set().union(*map(links, requests.values())) == {own(one) for one in flushes}

    (shift,) = collector.named("counters.apply")
    transactions = collector.named("transaction")
    assert attributes(shift)["tally.task"] == task.id
    assert {own(one)[0] for one in transactions} == {shift.trace_id}
    assert {one.parent_span_id for one in transactions} == {shift.span_id}
    assert set().union(*map(links, transactions)) == links(shift) == {own(one) for one in flushes}
    assert all(attributes(one)["tally.shard"] == lane.shard and attributes(one)["tally.rows"] for one in transactions)
    applied = collector.named("applied")
    assert {(one.trace_id, one.parent_span_id) for one in applied} == {own(one) for one in flushes}
    assert set().union(*map(links, applied)) == {own(one) for one in transactions}
    assert not collector.named("GET")
    assert {service for service, _ in collector.spans} == {"tally-api", "tally-worker"}


async def made() -> Traced:
    return Traced()
