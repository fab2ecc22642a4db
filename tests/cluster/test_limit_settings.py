"""What a process takes on at most: an application of this process whose settings are small."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import Awaitable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from threading import Event, Semaphore
from typing import Any
from uuid import UUID

import msgspec
import pytest
from django.conf import settings
from django.test import override_settings

from counters.api import waiting
from counters.api.application import Application
from counters.api.authentication import keyring
from counters.api.fast_path import Raw
from counters.intake import turns, writes
from counters.intake.intake import Intake
from counters.intake.journal import JournalUnavailable
from counters.intake.writes import Accepted
from counters.limits.policies import of_address
from counters.models import ApiKey
from runtime.event_loop import LoopThread
from tests.conftest import fresh_address
from tests.support.cluster import Cluster, eventually, frozen, value_of
from tests.support.journal import lane_of

THREADS, WRITING, FLUSH, WAITING, RATE = 2, 5, 2, 2, 3
FLUSH_BYTES = 1000
JSON = (b"content-type", b"application/json")
FOR_A_VIEW = (b"x-anything", b"1")
HOST = (b"host", b"127.0.0.1")


@contextmanager
def limits(**values: Any) -> Iterator[None]:
    """Settings of this process."""
    with override_settings(TALLY=settings.TALLY.model_copy(update=values)):
        yield


class Api:
    """The application, called from a test's thread."""

    def __init__(self, cluster: Cluster, thread: LoopThread, application: Application) -> None:
        self._cluster, self._thread, self.application = cluster, thread, application

    def run(self, work: Awaitable[Any]) -> Any:
        """What a coroutine returns on the application's loop."""

        async def done() -> Any:
            return await work

        return self._thread.run(done())

    @property
    def intake(self) -> Intake:
        service = self.application._service
        assert service is not None
        return service.intake

    def ask(
        self,
        method: str,
        target: str,
        data: Any = None,
        *headers: tuple[bytes, bytes],
        who: str | None = None,
        address: str = "",
    ) -> Raw:
        """The answer to a request of an API key (the cluster's own by default), or of an address."""
        path, _, query = target.partition("?")
        told = (
            self._cluster.from_address(address) if address else {"Authorization": f"Api-Key {who or self._cluster.key}"}
        )
        sent = [(name.lower().encode(), value.encode()) for name, value in told.items()]
        kind = [] if data is None else [JSON]
        scope = {
            "type": "http",
            "method": method,
            "path": path,
            "query_string": query.encode(),
            "headers": [HOST, *kind, *sent, *headers],
            "client": ("127.0.0.1", 1),
        }
        answer: Raw = self.run(self.application.answer(scope, b"" if data is None else msgspec.json.encode(data)))
        return answer


@pytest.fixture(scope="module")
def api(cluster: Cluster) -> Iterator[Api]:
    small = {
        "api_threads": THREADS,
        "max_waiting": WAITING,
        "max_writing": WRITING,
        "flush_max_writes": FLUSH,
        "flush_max_bytes": FLUSH_BYTES,
        "slow_write_seconds": 1e-6,
        "key_rate": RATE,
        "key_rate_window_seconds": 0.5,
    }
    with limits(**small), LoopThread("limited") as thread:
        application = thread.run(_made())
        thread.run(application.open())
        try:
            eventually(lambda: application._fast_path is not None)
            yield Api(cluster, thread, application)
        finally:
            thread.run(application.close())


async def _made() -> Application:
    return Application()


def hot(key: str) -> writes.Write:
    """As many increments of a counter as it may have in a window."""
    return writes.increments({key: RATE}, None, RATE, {key: RATE})


@pytest.mark.limit("TALLY_API_THREADS")
def test_so_many_requests_are_with_a_view_at_once(api: Api, monkeypatch: pytest.MonkeyPatch) -> None:
    """The others wait for a thread."""
    running, crowded, go_on = Semaphore(THREADS), Event(), Event()
    django = api.application._django
    answer = django.answer

    def watched(*asked: Any) -> Raw:
        if not running.acquire(blocking=False):
            crowded.set()
        go_on.wait(30)
        answered = answer(*asked)
        running.release()
        return answered

    monkeypatch.setattr(django, "answer", watched)
    with ThreadPoolExecutor() as pool:
        asked = [pool.submit(api.ask, "GET", "/none", None, FOR_A_VIEW) for _ in range(THREADS + 1)]
        eventually(lambda: not running._value, pause=0.01)
        assert not crowded.wait(0.2)
        go_on.set()
        assert [one.result(30).status for one in asked] == [404] * (THREADS + 1)


@pytest.mark.limit("TALLY_MAX_WAITING")
def test_so_many_requests_wait_for_a_shard_at_once(api: Api) -> None:
    with waiting.room(0) as first, waiting.room(0) as second:
        assert (first, second) == (True, True)
        with waiting.room(0.1) as third:
            assert not third
    with waiting.room(0) as again:
        assert again


@pytest.mark.limit("TALLY_MAX_WRITING", "TALLY_FLUSH_MAX_WRITES")
def test_so_many_writes_wait_for_the_journal_and_so_many_share_a_batch(api: Api, cluster: Cluster, key: str) -> None:
    """The loop does nothing between them, so none is flushed meanwhile."""

    async def crowd() -> list[Accepted]:
        submitted = [api.intake.submit(writes.increment(f"{key}:{n}", 1)) for n in range(WRITING)]
        with pytest.raises(JournalUnavailable, match="this one was not taken"):
            api.intake.submit(writes.increment(key, 1))
        return await asyncio.gather(*submitted)

    accepted = api.run(crowd())
    sizes = Counter(one.id.batch for one in accepted).values()
    assert sorted(sizes) == [1, FLUSH, FLUSH]
    with cluster.client() as client:
        eventually(lambda: [value_of(client, f"{key}:{n}") for n in range(WRITING)] == [1] * WRITING)
        assert value_of(client, key) == 0
    assert api.ask("POST", f"/v1/counters/{key}/increments", {"delta": 1}).status == 202, "there is room again"


@pytest.mark.limit("TALLY_FLUSH_MAX_BYTES")
def test_bulk_writes_of_so_many_bytes_share_a_batch_and_a_single_one_goes_first(api: Api, key: str) -> None:
    def body(number: int, length: int) -> writes.Write:
        return writes.increments({f"{key}:{number}:{n}:{'x' * length}": 1 for n in range(4)})

    async def batches(*asked: writes.Write) -> list[UUID]:
        return [one.id.batch for one in await asyncio.gather(*map(api.intake.submit, asked))]

    small, large = [body(number, 1) for number in range(2)], [body(number, 120) for number in range(4)]
    assert sum(one.size for one in small) < FLUSH_BYTES
    assert all(FLUSH_BYTES / 2 < one.size < FLUSH_BYTES for one in large)
    first, second = api.run(batches(*small))
    assert first == second
    first, second = api.run(batches(*large[:2]))
    assert first != second
    first, second, single = api.run(batches(*large[2:], writes.increment(key, 1)))
    assert single == first != second


@pytest.mark.limit("TALLY_SLOW_WRITE_SECONDS")
def test_bodies_rest_while_single_increments_are_late(api: Api, monkeypatch: pytest.MonkeyPatch, key: str) -> None:
    """A rest is as long as the body took at most: tests/unit/test_turns.py."""
    monkeypatch.setattr(turns, "LOOK_SECONDS", 0)
    for n in range(turns.FEWEST):
        assert api.ask("POST", f"/v1/counters/{key}:{n}/increments", {"delta": 1}).status == 202
    body = {"keys": [f"{key}:{n}" for n in range(2000)], "deltas": [1] * 2000}
    assert api.ask("POST", "/v1/increments", body).status == 202
    assert api.intake.turns.rest == 1.0


@pytest.mark.limit("TALLY_KEY_RATE", "TALLY_KEY_RATE_WINDOW_SECONDS")
def test_the_rate_of_a_counter_is_that_of_a_window(api: Api, key: str) -> None:
    async def excess(number: int) -> list[bool]:
        """Whether so many writes, of one flush, go to the excess queue."""
        accepted = await asyncio.gather(*[api.intake.submit(hot(key)) for _ in range(number)])
        return [bool(one.shed.excess) for one in accepted]

    assert api.run(excess(2)) == [False, True]
    eventually(lambda: api.run(excess(1)) == [False], 10)


@pytest.mark.limit("TALLY_ANONYMOUS_RATE", "TALLY_API_KEY_RATE", "TALLY_API_KEY_INCREMENTS_RATE")
def test_callers_have_the_quotas_of_the_settings(api: Api, cluster: Cluster, key: str) -> None:
    own, other, address = (
        *(cluster.command("make_key", "of a test", "--scope", "write") for _ in range(2)),
        fresh_address(),
    )
    body = {"keys": [f"{key}:{n}" for n in range(3)], "deltas": [1] * 3}
    try:
        with limits(anonymous_rate=2, api_key_rate=4, api_key_increments_rate=5):
            api.run(keyring().reread())
            from_address = [api.ask("GET", f"/v1/counters/{key}", address=address) for _ in range(3)]
            of_key = [api.ask("GET", f"/v1/counters/{key}", who=own) for _ in range(5)]
            written = [api.ask("POST", "/v1/increments", body, who=other) for _ in range(2)]
        assert [one.status for one in from_address] == [200, 200, 429]
        assert [one.status for one in of_key] == [200] * 4 + [429]
        assert [one.status for one in written] == [202, 429]
        assert msgspec.json.decode(written[1].body)["violated-policies"] == ["increments"]
    finally:  # keys are loaded again, with the settings, when one has changed
        prefixes = [one.partition(".")[0] for one in (own, other)]
        assert ApiKey.objects.filter(prefix__in=prefixes).update(revoked=True) == 2
        api.run(keyring().reread())
    assert keyring().anonymous == of_address(settings.TALLY.anonymous_rate)


@pytest.mark.limit("TALLY_MAX_KEYS")
@pytest.mark.parametrize("extra", [(), (FOR_A_VIEW,)], ids=["fast path", "view"])
def test_so_many_keys_are_read_at_once(api: Api, key: str, extra: tuple[tuple[bytes, bytes], ...]) -> None:
    with limits(max_keys=2):
        assert api.ask("GET", f"/v1/counters?key={key}&key=b", None, *extra).status == 200
        refused = api.ask("GET", f"/v1/counters?key={key}&key=b&key=c", None, *extra)
        assert api.ask("GET", f"/v1/counters?prefix={key}&limit=2", None, *extra).status == 200
        page = api.ask("GET", f"/v1/counters?prefix={key}&limit=3", None, *extra)
    assert (refused.status, msgspec.json.decode(refused.body)["errors"][0]["rule"]) == (400, "2 keys at most")
    assert (page.status, msgspec.json.decode(page.body)["errors"][0]["field"]) == (400, "limit")


@pytest.mark.limit("TALLY_MAX_WAIT_SECONDS")
@pytest.mark.parametrize("extra", [(), (FOR_A_VIEW,)], ids=["fast path", "view"])
def test_a_request_waits_so_long_at_most(
    api: Api, cluster: Cluster, key: str, extra: tuple[tuple[bytes, bytes], ...]
) -> None:
    with limits(max_wait_seconds=0.2), frozen(*cluster.processes("worker", lane_of(key).shard)):
        refused = api.ask("POST", f"/v1/counters/{key}/increments?wait=0.3", {"delta": 1}, *extra)
        began = time.monotonic()
        assert api.ask("PUT", f"/v1/counters/{key}", {"value": 7}, *extra).status == 202
        assert time.monotonic() - began < 10
    assert (refused.status, msgspec.json.decode(refused.body)["errors"][0]["field"]) == (400, "wait")
    with cluster.client() as client:
        eventually(lambda: value_of(client, key) == 7)


@pytest.mark.limit("TALLY_MAX_BODY_BYTES")
def test_a_body_that_is_too_large_is_not_read_to_its_end(api: Api) -> None:
    """Its length may not be told before."""
    parts = iter([b" " * 600, b" " * 600, b" " * 600])
    sent: list[dict[str, Any]] = []

    async def receive() -> dict[str, Any]:
        return {"type": "http.request", "body": next(parts), "more_body": True}

    async def send(message: dict[str, Any]) -> None:
        sent.append(message)

    scope = {"type": "http", "method": "POST", "path": "/v1/increments", "query_string": b"", "headers": [HOST, JSON]}
    with limits(max_body_bytes=1000):
        api.run(api.application(scope, receive, send))
    assert sent[0]["status"] == 413
    assert len(list(parts)) == 1
