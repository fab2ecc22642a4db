"""The operators' pages of the admin, against the real journal, queues and shards: what they show, what their actions
do, who may."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from html import unescape
from typing import Any
from urllib.parse import urlencode
from uuid import UUID, uuid4

import httpx
import psutil
import pytest
from celery import current_app
from django.contrib.admin.models import LogEntry
from django.core.management.base import CommandError
from uuid_utils.compat import uuid7

from counters.admin import listing
from counters.apply import dead_letters
from counters.batch import Increments
from counters.intake import dispatch, journal
from counters.intake.journal import Entry, Journal
from counters.intake.set_aside import SetAsideBatches
from counters.operators import applied_records
from sharding import databases, topology
from sharding.lanes import EXCESS, SPILL, Lane
from tests.support.admin import act, field, history
from tests.support.browser import Browser, said
from tests.support.cluster import Cluster, eventually, frozen, value_of
from tests.support.journal import append_bytes, in_ledger, is_drained, lane_of, put_in_journal
from tests.support.shards import primary_of, rows

JOURNAL = "/admin/counters/journalentry/"
LANES = "/admin/counters/lanequeue/"
SPILLED = "/admin/counters/spillqueue/"
DEAD = "/admin/counters/deadletter/"
REJECTED = "/admin/counters/rejectedoperation/"
FORWARDED = "/admin/counters/forwardedbatch/"
PAGES = (JOURNAL, LANES, SPILLED, DEAD, REJECTED, FORWARDED)


@pytest.fixture
def still_worker(cluster: Cluster) -> Iterator[int]:
    """Shard 1, whose workers stand still."""
    workers = [psutil.Process(one["pid"]) for one in cluster.processes("worker", 1)]
    for worker in workers:
        worker.suspend()
    yield 1
    for worker in workers:
        worker.resume()
    eventually(lambda: is_drained(1))


@pytest.fixture
def garbage(client: httpx.Client, key: str) -> Iterator[tuple[Lane, UUID]]:
    """Bytes that are no batch, set aside by a shift of the key's lane."""
    lane, id = lane_of(key), uuid7()
    append_bytes(lane, id, b"\xc1<b>no batch</b>")
    dispatch.send(lane)
    eventually(lambda: id in SetAsideBatches(lane).all())
    yield lane, id
    SetAsideBatches(lane).discard(id)


def test_queued_entries_are_shown_paged_and_dispatched_again(
    root: Browser, still_worker: int, key: str, client: httpx.Client
) -> None:
    mine = next(one for n in range(99) if topology.current().shard_of(one := f"{key}:{n}") == still_worker)
    lane = lane_of(mine)
    batches = [put_in_journal(lane, Increments([mine], [1])) for _ in range(listing.PAGE + 20)]
    page = root.get(JOURNAL, params={"shard": still_worker})
    assert page.status_code == 200, page.text
    assert field(page, "depth")[1] == str(len(batches))
    found = field(page, "batch")
    assert set(field(page, "state")) == {"queued"}
    following = re.search(r'<a href="([^"]+)" rel="next">', page.text)
    assert following
    found += field(root.get(JOURNAL + unescape(following[1])), "batch")
    assert found == [id.hex for id, _ in batches]
    assert field(root.get(JOURNAL, params={"state": "waiting"}), "batch") == []
    assert field(root.get(JOURNAL, params={"shard": 0}), "batch") == []
    eighth = batches[7][0]
    assert field(root.get(JOURNAL, params={"id": eighth.hex}), "batch") == [eighth.hex]
    done = act(root, f"{JOURNAL}?shard={still_worker}", "again", f"{lane}-{eighth.hex}", f"{lane}-{uuid4().hex}")
    assert "Dispatched again: 1." in said(done)
    assert "is not in the journal (any more)" in said(done)
    assert history("journalentry", f"{lane}-{eighth.hex}") == ["Dispatched again."]
    assert value_of(client, mine) == 0
    shown = root.get(LANES, params={"shard": still_worker, "waiting": "yes"})
    waiting = dict(zip(field(shown, "lane"), field(shown, "batches"), strict=True))
    assert waiting[str(lane)] == str(len(batches))
    assert "0" not in waiting.values()
    assert len(field(root.get(LANES), "lane")) == len(topology.current().lanes)
    done = act(root, LANES, "wake", str(lane), f"{1 - still_worker}.9", "9.0", "x")
    for text in ("Woken: 1.", f"Nothing waits in {1 - still_worker}.9.", "There is no shard 9.", "There is no lane x"):
        assert text in said(done)
    assert history("lanequeue", str(lane)) == ["Woken."]


def test_spill_queues_are_shown_and_dispatched_again(
    root: Browser, cluster: Cluster, client: httpx.Client, key: str
) -> None:
    mine = next(_keys_of(1, key))
    excess, stale = (lane_of(mine).of(queue) for queue in SPILL)
    eventually(lambda: not journal.spilled(1))
    with frozen(*cluster.processes("spill-worker")):
        spilled = [put_in_journal(lane, Increments([mine], [1]), increments=3)[0] for lane in (excess, stale, excess)]
        page = root.get(JOURNAL, params={"shard": 1, "state": "queued"})
        assert (field(page, "excess")[1], field(page, "stale")[1]) == ("6", "3")
        assert list(zip(field(page, "batch"), field(page, "lane"), strict=True)) == [
            (id.hex, str(lane)) for id, lane in zip(spilled, (excess, stale, excess), strict=True)
        ]
        assert field(root.get(JOURNAL, params={"id": spilled[1].hex}), "lane") == [str(stale)]
        names = [f"{lane}-{id.hex}" for id, lane in zip(spilled, (excess, stale), strict=False)]
        assert "Dispatched again: 2." in said(act(root, JOURNAL, "again", *names))
        assert history("journalentry", names[1]) == ["Dispatched again."]
        page = root.get(SPILLED, params={"shard": 1})
        assert [field(page, name) for name in ("lane", "increments", "batches", "counters", "sum")] == [
            [str(excess), str(stale)],
            ["6", "3"],
            ["2", "1"],
            [mine, mine],
            ["6", "3"],
        ]
        assert field(root.get(SPILLED, params={"queue": "stale"}), "lane") == [str(stale)]
        assert "Woken: 1." in said(act(root, SPILLED, "wake", str(stale)))
        assert f"woken: {excess}" in cluster.command("lanes", "--wake", str(excess)).splitlines()
        with pytest.raises(CommandError, match=r"Nothing waits in 0\.9:stale"):
            cluster.command("lanes", "--wake", "0.9:stale")
        assert value_of(client, mine) == 0
    eventually(lambda: value_of(client, mine) == 3)
    eventually(lambda: not journal.spilled(1))
    page = root.get(JOURNAL)
    assert (field(page, "excess")[1], field(page, "stale")[1]) == ("0", "0")
    assert "The spill queues are empty" in root.get(SPILLED).text


def test_entries_that_wait_for_replicas_say_so(root: Browser, cluster: Cluster, client: httpx.Client, key: str) -> None:
    cluster.wait_until_whole()
    primary = primary_of(cluster, 1)
    replica = next(one for one in cluster.processes("postgres", 1) if one["name"] != primary["name"])
    receiver = next(
        child for child in psutil.Process(replica["pid"]).children() if "walreceiver" in " ".join(child.cmdline())
    )
    receiver.suspend()
    try:
        mine = next(_keys_of(1, key))
        lane = lane_of(mine)
        id, _ = put_in_journal(lane, Increments([mine], [1]))
        dispatch.send(lane)
        eventually(lambda: in_ledger(1, id))
        assert field(root.get(JOURNAL, params={"state": "waiting"}), "batch") == [id.hex]
        assert id.hex not in field(root.get(JOURNAL, params={"state": "queued"}), "batch")
    finally:
        receiver.resume()
    eventually(lambda: Journal(lane).position(id) is None)
    assert "This batch is not in the journal" in root.get(JOURNAL, params={"id": id.hex}).text


def test_what_was_set_aside_is_retried_and_discarded_with_a_reason(root: Browser, garbage: tuple[Lane, UUID]) -> None:
    lane, id = garbage
    name, listed = f"{lane}-{id.hex}", f"{JOURNAL}?{urlencode({'state': 'set aside', 'shard': lane.shard})}"
    page = root.get(listed)
    assert id.hex in field(page, "batch")
    assert "set aside: not a batch" in " ".join(field(page, "state"))
    assert id.hex not in field(root.get(JOURNAL, params={"state": "set aside", "shard": 1 - lane.shard}), "batch")
    retried = act(root, listed, "retry", name)
    assert "Put back into the journal: 1." in said(retried)
    eventually(lambda: SetAsideBatches(lane).count() and id in SetAsideBatches(lane).ids())  # it is as bad as before
    asked = act(root, listed, "discard", name)
    assert "Discard these batches for ever?" in asked.text
    assert "This field is required" in act(root, listed, "discard", name, reason=" ").text
    assert id in SetAsideBatches(lane).all()
    assert "Discarded: 1." in said(act(root, listed, "discard", name, reason="a test's <i>garbage</i>"))
    assert id not in SetAsideBatches(lane).all()
    assert history("journalentry", name) == ["Discarded: a test's <i>garbage</i>", "Put back into the journal."]
    assert "is not set aside (any more)" in said(act(root, listed, "discard", name, reason="again"))
    shown = root.get(f"{JOURNAL}{name}/history/").text
    assert "a test&#x27;s &lt;i&gt;garbage" in shown
    assert "This batch is not in the journal" in root.get(f"{JOURNAL}{name}/change/").text


def test_a_batch_that_was_set_aside_is_counted_when_retried(
    root: Browser, still_worker: int, client: httpx.Client, key: str
) -> None:
    mine = next(_keys_of(still_worker, key))
    lane = lane_of(mine)
    id, position = put_in_journal(lane, Increments([mine], [9]))
    SetAsideBatches(lane).add(Entry(id, position), "by a test")
    page = root.get(JOURNAL, params={"id": id.hex})
    assert field(page, "state") == ["set aside: by a test"]
    act(root, JOURNAL, "retry", f"{lane}-{id.hex}")
    assert field(root.get(JOURNAL, params={"id": id.hex}), "state") == ["queued"]


def test_degraded_shards_are_told(root: Browser) -> None:
    assert "degraded" not in root.get(JOURNAL).text
    Journal(Lane(1, 2)).tell_degraded(True)
    try:
        assert "degraded: batches left the journal" in root.get(JOURNAL).text
    finally:
        Journal(Lane(1, 2)).tell_degraded(False)


def test_dead_letters_are_filtered_sent_again_and_discarded(root: Browser, cluster: Cluster) -> None:
    queue, mark = dispatch.queue_of(0), uuid4().hex
    task = f"counters.no_such_task_{mark}"
    current_app.send_task(task, ["<b>&", "x" * 2000], queue=queue)
    current_app.send_task(dispatch.TASK, (99, 0, "fresh", mark), queue=queue)
    ids = eventually(
        lambda: len(found := [id for id, one in _letters() if mark in one.task + one.arguments]) == 2 and found
    )
    unknown = next(id for id, one in _letters() if one.task == task)
    page = root.get(DEAD, params={"queue": queue})
    assert task in field(page, "task")
    assert "&lt;b&gt;&amp;" in page.text
    assert "characters)" in next(one for one in field(page, "arguments") if one.startswith('[["<b>&","xxx'))
    assert task in field(root.get(DEAD, params={"kind": "unknown task"}), "task")
    assert task not in field(root.get(DEAD, params={"kind": "failed"}), "task")
    assert any(
        "positional arguments" in reason for reason in field(root.get(DEAD, params={"kind": "failed"}), "reason")
    )
    assert task not in field(root.get(DEAD, params={"queue": "maintenance"}), "task")
    assert "Sent again: 1." in said(act(root, DEAD, "retry", unknown))
    again = eventually(lambda: next((id for id, one in _letters() if one.task == task and id != unknown), None))
    asked = act(root, DEAD, "discard", again, *ids)
    assert asked.text.count('name="_selected_action"') == 3
    done = act(root, DEAD, "discard", again, *ids, reason="no such task")
    assert "Discarded: 2." in said(done)
    assert f"{unknown} is gone." in said(done)
    assert not [one for _, one in _letters() if mark in one.task + one.arguments]
    assert history("deadletter", unknown) == ["Sent again."]
    assert history("deadletter", again) == ["Discarded: no such task"]


def test_rejected_operations_are_found_by_shard_reason_key_and_write(
    root: Browser, client: httpx.Client, key: str
) -> None:
    shard = topology.current().shard_of(key)
    version = client.put(f"/v1/counters/{key}", json={"value": 2**63 - 1}).json()["version"]
    writes = [client.post(f"/v1/counters/{key}/increments", json={"delta": 1}).json()["id"] for _ in range(2)]
    assert client.put(f"/v1/counters/{key}", json={"value": 1}, headers={"If-Match": '"1"'}).status_code == 412

    def found(**asked: Any) -> list[str]:
        page = root.get(REJECTED, params=asked)
        assert page.status_code == 200, page.text
        return [write for write, one in zip(field(page, "write"), field(page, "key"), strict=True) if one == key]

    eventually(lambda: len(found()) == 3)  # a replica may lag
    assert found()[1:] == writes[::-1]  # the newest first
    assert found(shard=shard) == found()
    assert found(shard=1 - shard) == []
    assert found(reason="overflow") == writes[::-1]
    assert len(found(reason="version")) == 1
    assert found(key=key, match="key") == found(key=key[:-3]) == found()
    assert found(key=key[:-3], match="key") == []
    assert found(write=writes[0]) == [writes[0]]
    assert found(write=f"{uuid7().hex}-0-0") == []
    page = root.get(REJECTED, params={"write": writes[0]})
    for text in (
        "would leave the range",
        str(2**63 - 1),
        str(version),
        f"/admin/counters/counter/writes/?id={writes[0]}",
    ):
        assert text in page.text
    assert "<strong>rejected</strong>" in root.get(f"/admin/counters/counter/writes/?id={writes[0]}").text
    for bad in (
        {"write": "x"},
        {"write": f"{uuid7().hex}-0-63"},
        {"key": "a b"},
        {"shard": "9"},
        {"after": "x"},
        {"after": "[1]"},
    ):
        assert root.get(REJECTED, params=bad).status_code == 200, bad


def test_rejected_operations_are_paged_over_all_shards(root: Browser, client: httpx.Client, key: str) -> None:
    keys = [f"{key}.{number:03}" for number in range(listing.PAGE + 30)]
    full = [{"key": one, "delta": 2**63 - 1} for one in keys]
    write = [client.post("/v1/increments", json={"increments": full}).json()["id"] for _ in range(2)][1]
    eventually(lambda: client.get(f"/v1/writes/{write}").json()["status"] == "rejected")
    eventually(lambda: len(_all(root, REJECTED, key, "key")) == len(keys))
    assert sorted(_all(root, REJECTED, key, "key")) == keys
    assert set(field(root.get(REJECTED, params={"key": key}), "shard")) <= {"0", "1"}
    assert len(field(root.get(REJECTED, params={"write": write}), "key")) == listing.PAGE
    with databases.connect(databases.primary(0), autocommit=True) as conn:
        conn.execute(
            "SET enable_seqscan = off"
        )  # the planner knows how few rows there are: can indexes alone serve it?
        found = conn.execute(f"EXPLAIN {applied_records.REJECTED}", (*applied_records.RejectedPlace(), 101)).fetchall()
    plan = "\n".join(row[0] for row in found)
    assert "Seq Scan" not in plan, plan


def test_forwarded_batches_are_shown_and_filtered(root: Browser, client: httpx.Client, key: str) -> None:
    mine = next(_keys_of(1, key))
    id, _ = put_in_journal(Lane(0, 0), Increments([mine], [4]))
    dispatch.send(Lane(0, 0))
    eventually(lambda: value_of(client, mine) == 4)
    [(forwarded,)] = rows(0, "SELECT forwarded_id FROM forwarded WHERE id = %s", id)
    eventually(lambda: id.hex in field(root.get(FORWARDED), "batch"))
    page = root.get(FORWARDED, params={"shard": 0, "to": 1})
    assert page.status_code == 200
    here = field(page, "batch").index(id.hex)
    assert here == 0  # the newest first
    assert [field(page, name)[here] for name in ("from", "to", "forwarded", "applied")] == [
        "0.0",
        str(lane_of(mine)),
        forwarded.hex,
        "yes",
    ]
    assert id.hex not in field(root.get(FORWARDED, params={"shard": 1}), "batch")
    assert id.hex not in field(root.get(FORWARDED, params={"to": 0}), "batch")


def test_permissions(browse: Callable[..., Browser], garbage: tuple[Lane, UUID]) -> None:
    lane, id = garbage
    viewer = browse("view_journalentry", "view_rejectedoperation")
    page = viewer.get(JOURNAL, params={"state": "set aside"})
    assert id.hex in page.text
    assert 'name="action"' not in page.text
    viewer.get("/admin/password_change/")  # a form, for its token
    assert act(viewer, JOURNAL, "discard", f"{lane}-{id.hex}", reason="x").status_code == 403
    assert viewer.get(REJECTED).status_code == 200
    assert act(viewer, REJECTED, "discard", "x").status_code == 403
    assert viewer.get(DEAD).status_code == viewer.get(FORWARDED).status_code == 403
    assert viewer.get(f"{JOURNAL}add/").status_code == 403
    assert viewer.get(f"{JOURNAL}{lane}-{id.hex}/delete/").status_code == 403
    nobody = browse()
    for address in PAGES:
        assert nobody.get(address).status_code == 403, address
        assert nobody.get(f"{address}x/change/").status_code == 403, address
        assert "/admin/login/" in str(browse(log_in=False).get(address).url)
    operator = browse("change_journalentry")
    operator.get(JOURNAL)
    assert "Discarded: 1." in said(act(operator, JOURNAL, "discard", f"{lane}-{id.hex}", reason="may"))
    entry = LogEntry.objects.get(content_type__model="journalentry", object_id=f"{lane}-{id.hex}")
    assert "Discarded: may" in entry.change_message
    assert entry.get_admin_url()


def test_bad_actions_are_told(root: Browser) -> None:
    root.get(JOURNAL)
    assert "Choose an action" in said(act(root, JOURNAL, "", "0-x"))
    assert "Choose an action" in said(act(root, JOURNAL, "retry"))
    for name in ("x", "9-x", f"99-{uuid4().hex}", f"-1-{uuid4().hex}"):
        assert "is not set aside" in said(act(root, JOURNAL, "retry", name))
        assert root.get(f"{JOURNAL}{name}/change/").status_code == 200
    assert "is gone, or cannot be sent" in said(act(root, DEAD, "retry", "x"))


def test_the_journals_absence_is_a_sentence(root: Browser, cluster: Cluster) -> None:
    redis = psutil.Process(cluster.processes("redis-journal")[0]["pid"])
    redis.suspend()
    try:
        for address in (JOURNAL, DEAD):
            page = root.get(address)
            assert page.status_code == 200
            assert "The journal's Redis does not answer now" in said(page)
        assert root.get(REJECTED).status_code == 200
    finally:
        redis.resume()


@pytest.mark.usefixtures("whole")
def test_a_shard_that_is_away_is_a_sentence_and_the_others_come(
    root: Browser, cluster: Cluster, client: httpx.Client, key: str
) -> None:
    cluster.wait_until_whole()
    mine = next(_keys_of(0, key))
    client.put(f"/v1/counters/{mine}", json={"value": 2**63 - 1})
    client.post(f"/v1/counters/{mine}/increments", json={"delta": 1}, params={"wait": 30})
    eventually(lambda: mine in field(root.get(REJECTED), "key"))
    with frozen(*cluster.processes("postgres", 1)):
        away = next(_keys_of(1, key))
        lane = lane_of(away)
        id, _ = put_in_journal(lane, Increments([away], [1]))
        spilled, _ = put_in_journal(lane.of(EXCESS), Increments([away], [1]), increments=1)
        with ThreadPoolExecutor() as pool:  # each of them waits for the shard before it says so
            page, forwarded = pool.submit(root.get, REJECTED), pool.submit(root.get, FORWARDED)
            entry, entries = (pool.submit(root.get, JOURNAL, params=of) for of in ({"id": id.hex}, {}))
        assert "No server of shard 1 answers now" in said(page.result())
        assert mine in field(page.result(), "key")
        assert "No server of shard 1 answers now" in said(forwarded.result())
        assert field(entry.result(), "state") == ["not known"]
        assert "which of its entries are applied is not known" in said(entries.result())
        assert (str(lane.of(EXCESS)), spilled.hex) in zip(
            field(entries.result(), "lane"), field(entries.result(), "batch"), strict=True
        )
        assert field(entries.result(), "excess") == ["0", "1"]
    eventually(lambda: is_drained(1), 60)
    eventually(lambda: value_of(client, away) == 2)


@pytest.mark.usefixtures("whole")
def test_the_control_databases_absence_is_a_page_of_its_own(root: Browser, cluster: Cluster) -> None:
    with frozen(*cluster.processes("postgres", 0)):
        with ThreadPoolExecutor() as pool:  # each of them waits for the database before it says so
            asked = pool.submit(root.get, JOURNAL, headers={"Accept": "text/html"})
            sent = pool.submit(act, root, JOURNAL, "again", "0-x")
            problem = pool.submit(root.get, JOURNAL, headers={"Accept": "application/json"})
        page = asked.result()
        assert (page.status_code, page.headers["Retry-After"]) == (503, "5")
        assert "does not answer now" in page.text
        assert "This page tries again by itself" in page.text
        assert sent.result().status_code == 503
        assert "look before you send it again" in sent.result().text
        assert problem.result().json()["status"] == 503
    assert root.get(JOURNAL).status_code == 200


def _keys_of(shard: int, key: str) -> Iterator[str]:
    return (one for n in range(99) if topology.current().shard_of(one := f"{key}:{n}") == shard)


def _letters() -> list[tuple[str, dead_letters.DeadLetter]]:
    return list(dead_letters.letters().items())


def _all(browser: Browser, address: str, prefix: str, name: str) -> list[str]:
    """A column over all pages of a search by prefix."""
    page = browser.get(address, params={"key": prefix})
    found = field(page, name)
    while following := re.search(r'<a href="([^"]+)" rel="next">', page.text):
        page = browser.get(address + unescape(following[1]))
        found += field(page, name)
    return found
