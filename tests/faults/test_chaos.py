"""A short round of the bench (`make chaos`): a worker killed in a shift, messages doubled and lost, then every key."""

from __future__ import annotations

import shutil
from collections import Counter
from functools import partial
from itertools import islice
from pathlib import Path

import pytest

from benchmarks.chaos import broken, kills, likes_mix, messages, picture, report
from benchmarks.chaos.__main__ import run_trial
from benchmarks.chaos.chance import stream
from benchmarks.chaos.entries import Entries, Entry
from benchmarks.chaos.expected_likes import Event, ExpectedLikes, bytes_of, counts_of, likes_of
from benchmarks.chaos.fault import Fault, Scene, deck
from benchmarks.chaos.sampler import Copies, Sample, longest_lack
from benchmarks.chaos.subject import Subject
from counters.api.media import ARROW, JSON, MSGPACK, NDJSON
from likes.api import bulk
from tests.support.cluster import Cluster

FAULTS = [  # test_faults kills each role by itself
    Fault("kill flower", partial(kills.kill_role, "flower")),
    Fault("kill worker in a shift", kills.kill_in_a_shift),
    *messages.all_messages(),
]


@pytest.mark.usefixtures("whole")
def test_a_short_round_is_exact(cluster: Cluster) -> None:
    outcome = run_trial(Subject(cluster.dir), FAULTS, seed=7, minutes=0, count=len(FAULTS), clients=3)
    assert outcome.verdict.findings == []
    assert sum(not one.skipped for one in outcome.trial.struck) == len(FAULTS)
    assert outcome.verdict.figures["writes acknowledged"] > 200
    assert outcome.verdict.figures["likes acknowledged"] > 200
    assert outcome.verdict.figures["likers"] > 10
    assert outcome.verdict.figures["copies that are equal and stream"] == 4


def test_the_longest_time_without_a_copy_is_told() -> None:
    seen = [Copies(float(at), least) for at, least in enumerate([2, 1, 2, 1, 0, 1, 1, 2, 2, 1])]
    assert longest_lack(seen, 2) == 3
    assert longest_lack(seen, 0) == longest_lack([], 2) == 0


def test_acknowledged_writes_are_read_back_as_often_as_wanted() -> None:
    entries = Entries()
    assert list(entries) == []
    wrote = [Entry("bulk", f"id-{n}", 1.5, 2.5, n, 202, {f"key:{n}": n, "set": None}) for n in range(300)]
    for one in wrote:
        entries.append(one)
    assert (len(entries), list(entries), list(entries)) == (300, wrote, wrote)
    both = zip(entries, entries, strict=True)
    assert all(one == other for one, other in both)


def test_the_newest_event_decides_whoever_sent_it() -> None:
    """Of the same moment the one with the greatest id: a UUID counts as its bytes, and a later write of an own user always."""
    one, other = ExpectedLikes(), ExpectedLikes()
    old, late = (Event("t/a", "ann", liked, 7, id) for liked, id in ((True, "0" * 8), (False, "~")))
    uuid = Event("t/b", "ann", True, 7, "41414141-4141-4141-4141-414141414141")  # "AAAAAAAAAAAAAAAA"
    for client, events in ((one, (late, uuid)), (other, (old, uuid._replace(liked=False, id="AAAA")))):
        for event in events:
            client.stated(event)
    assert one.accepted(("t/c", "bob"), liked=True) is True
    one.stated(Event("t/c", "bob", False, 2**40, "x"))
    assert one.accepted(("t/c", "bob"), liked=True) is False
    due = {("t/a", "ann"): False, ("t/b", "ann"): True, ("t/c", "bob"): True}
    assert likes_of([one, other]) == likes_of([other, one]) == due
    assert counts_of(due) == {"t/a": 0, "t/b": 1, "t/c": 1}


def test_the_mix_has_likes_in_every_form() -> None:
    """And each says the same."""
    ids = ("0" * 8, "41414141-4141-4141-4141-414141414141")
    events = [Event(f"t/{at}", "ann", at == 7, at, id) for at, id in zip((7, 2_000_000_000), ids, strict=True)]
    due = [(one.item, one.user, one.liked, one.at * 1_000_000, bytes_of(one.id)) for one in events]
    rng = stream(1, "bodies")
    bodies = [likes_mix.encoded(events, rng) for _ in range(60)]
    assert {media for _, media in bodies} == {JSON, NDJSON, MSGPACK, ARROW}
    assert [bulk.decode(media, body).events for body, media in bodies] == [due] * 60


def test_failovers_are_as_frequent_as_asked() -> None:
    def none(_scene: Scene) -> str:
        return ""

    faults = [Fault("kill", none, weight=2, fails_over=True), Fault("freeze", none)]
    assert Counter(one.name for one in islice(deck(faults, stream(1, "x"), failovers=4), 9)) == {"kill": 8, "freeze": 1}


def test_a_picture_has_so_many_points_and_no_other_backlog() -> None:
    samples = [Sample(float(n), 10.0 * (n % 2), 4.0, None if n < 3 else n) for n in range(1000)]
    thinned = picture.thinned(samples, 400)
    assert len(thinned) == 334
    assert thinned[0] == Sample(1.0, 10 / 3, 4.0, None)
    assert max(sample.depth or 0 for sample in thinned) == 999
    assert picture.thinned(samples[:400], 400) == samples[:400]


@pytest.mark.parametrize("name", broken.BREAKS)
def test_a_broken_build_can_be_made_of_this_code(name: str, tmp_path: Path) -> None:
    one = broken.BREAKS[name]
    for path in one.changes:
        (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(report.ROOT / path, tmp_path / path)
    broken.apply(one, tmp_path)
    assert all((tmp_path / path).read_text() != (report.ROOT / path).read_text() for path in one.changes)
