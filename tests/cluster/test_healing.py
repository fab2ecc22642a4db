"""When a replica may be copied again, against real servers; that it is, and what is lost without: tests/faults."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from uuid import uuid4

import httpx
import pytest

from replication import healing, patroni
from replication.comparisons import Comparison, Round
from replication.healing import Differing
from replication.models import Intervention
from replication.outage import Outage
from replication.patroni import Refused
from runtime import redis
from tests.support.cluster import Cluster, eventually

NODE = f"shard-0-node-{uuid4().hex}"  # Patroni knows none of this name, so nothing is done to it


pytestmark = pytest.mark.usefixtures("found_whole")


def round_of(equal: bool | None, node: str = NODE, primary: str = "primary") -> Round:
    at = datetime.now(UTC)
    found = Comparison(node, equal, at, "invalid page" if equal is False else "")
    return Round(0, at, 0.1, primary, 1, "0/1", "", 0, (found,))


def test_only_a_primary_that_is_well_is_copied_from() -> None:
    held: list[None] = []
    for one in patroni.members(1):
        if one.is_leader:
            healing.check_primary(1, one, lambda: held.append(None))
        else:
            with pytest.raises(Refused, match="lock"):
                healing.check_primary(1, one, lambda: None)
    assert len(held) > 1, "the lock is held for longer with each part of the counters that is read"


def test_nothing_is_copied_from_a_primary_that_once_differed(key: str) -> None:
    differed = {f"1/{one.name}": Differing(2, key) for one in patroni.members(1)}
    (one,) = eventually(lambda: [found for found in healing.replicas(1, 0.0, differing=differed) if found.look.follows])
    cause, reason = one.trouble or ("", "")
    assert (cause, key in reason) == ("differs", True)
    try:
        healing.copy(one, cause, reason, lambda: None)
        assert not Intervention.objects.filter(reason__contains=key).exists()
    finally:
        healing.remember(one.field, None)


def test_it_must_differ_twice_in_a_row() -> None:
    """The first time asks for another round."""
    try:
        assert [healing.note(round_of(equal)) for equal in (False, None, True, False, False, False)] == [
            *(True, False, False),
            *(True, False, False),
        ]
    finally:
        assert not healing.note(round_of(True))


def test_what_differs_from_a_primary_that_once_differed_is_not_counted() -> None:
    """Else, after a switch back, none of the two could be copied."""
    other = f"{NODE}-other"
    try:
        assert healing.note(round_of(False))
        assert not healing.note(round_of(False, other, primary=NODE))
        assert healing.note(round_of(False, other)), "for the first time"
        assert not healing.note(round_of(True, other, primary=NODE))
        assert healing.note(round_of(False)), "all were equal in between"
    finally:
        for node in (NODE, other):
            healing.note(round_of(True, node))


def test_one_process_looks_at_a_time() -> None:
    lock = redis.journal().lock("healing:lock", timeout=30)
    assert lock.acquire(blocking_timeout=90), "a killed look's lock ends by itself within a minute"
    try:
        assert healing.look() == set()
    finally:
        lock.release()


def test_a_shard_is_left_alone_while_patroni_is_paused(cluster: Cluster) -> None:
    """What was seen before is not looked at any more, and so is forgotten."""
    password = json.loads((cluster.dir / "secrets.json").read_text())["patroni"]
    leader = patroni.leader(1)

    def pause(on: bool) -> None:
        answer = httpx.patch(f"{leader.url}/config", json={"pause": on or None}, auth=("tally", password), timeout=30)
        assert answer.status_code == 200
        eventually(lambda: patroni.cluster(1).pause is on)

    assert [one.member.is_leader for one in healing.replicas(1, 0.0)] == [False]
    pause(True)
    try:
        assert healing.replicas(1, 0.0) == []
    finally:
        pause(False)


def test_every_process_tells_of_a_replica_that_does_not_follow(cluster: Cluster) -> None:
    now, _ = redis.journal().time()  # a look forgets what is old
    kept = Outage("primary", "0/1 0/1", seen=now, since=now - 7.5, attempts=2)
    told = {f'tally_replica_not_following_seconds{{node="{NODE}",shard="0"}}': 7.5}
    told[f'tally_replica_attempts{{node="{NODE}",shard="0"}}'] = 2
    healing.remember(f"0/{NODE}", kept)
    try:
        for role in ("api", "spill-worker"):
            lines = cluster.metrics(cluster.processes(role)[0]).splitlines()
            found = {name: float(value) for line in lines if NODE in line for name, value in [line.rsplit(" ", 1)]}
            found = {
                name.replace(f'shard="0",node="{NODE}"', f'node="{NODE}",shard="0"'): v for name, v in found.items()
            }
            assert found == told
    finally:
        healing.remember(f"0/{NODE}", None)
