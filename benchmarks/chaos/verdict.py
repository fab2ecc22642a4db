"""The verdict: when all is quiet, every key, write and copy is compared with what the clients remember."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from heapq import nsmallest
from itertools import islice
from typing import Any
from uuid import UUID

import psycopg
from redis.exceptions import RedisError

from benchmarks.chaos import likes_verdict
from benchmarks.chaos.entries import Entry
from benchmarks.chaos.expected_counts import ExpectedCounts, counts_of, out_of_order
from benchmarks.chaos.load import Load
from benchmarks.chaos.sampler import longest_lack
from benchmarks.chaos.subject import Subject
from benchmarks.chaos.trial import Trial, wait_until
from counters.write_id import WriteId
from runtime import polling
from sharding.lanes import MOST, QUEUES, SPILL, STALE, Lane

QUIET_SECONDS = 120.0
QUEUE_SECONDS = 30.0  # for the messages that are left
RESULT_SECONDS = 3.0  # for one result when nothing else goes on
COPIES_SECONDS = 120.0  # for the copies of a shard to stream and to be equal
SAMPLE = 200  # writes whose status is asked of the API
LOOK_UP = 2000  # batches in one query
SHOWN = 12

COUNTERS = "SELECT key, value FROM counter WHERE key >= %s AND key < %s"
# What every copy must have: key and values of each row, by table.
COPIED = {
    "counter": "SELECT key, value, version FROM counter",
    "user_likes": "SELECT item || ' ' || user_id, liked, at, event, earlier, since FROM user_likes",
    "liked_items": "SELECT item || ' ' || user_id, liked, at, event, earlier, since FROM liked_items",
    "like_events": "SELECT concat_ws(' ', item, user_id, position, encode(event, 'hex')), liked, at FROM like_events",
}
SENDERS = "SELECT application_name FROM pg_stat_replication WHERE state = 'streaming'"
REJECTED = "SELECT id, index FROM outcome WHERE status = 'rejected' AND key >= %s AND key < %s"
# An increment that was applied with the set that voids it, or after it: nobody has looked whether it would have fitted.
# The transactions of a lane have ids in their order, whatever clocks do.
VOIDED = """
SELECT FROM ledger JOIN outcome ON outcome.version > ledger.position AND age(outcome.xmin) >= age(ledger.xmin)
WHERE ledger.id = %s AND ledger.lane = ANY(%s) AND ledger.deferred IS NULL
    AND outcome.key = %s AND outcome.status = 'applied' AND outcome.version >= %s"""
# What was deferred and never came out of the stale queue.
LEFT = """
SELECT id, lane FROM ledger WHERE deferred IS NOT NULL
    AND NOT EXISTS (SELECT FROM ledger AS stale WHERE stale.id = ledger.id AND stale.lane = ledger.lane + %s)"""
SPILLED = "SELECT lane / %s, count(*) FROM ledger GROUP BY 1"
Rows = dict[tuple[str, str], list[Any]]  # table and key → values
IN_LEDGER = "SELECT id, lane FROM ledger JOIN unnest(%s::uuid[], %s::smallint[]) AS wanted (id, lane) USING (id, lane)"


@dataclass
class Verdict:
    """`findings` are differences, each a sentence: exact means that there are none. `figures` tell how much was
    checked."""

    findings: list[str] = field(default_factory=list)
    figures: dict[str, int] = field(default_factory=dict)

    @property
    def exact(self) -> bool:
        return not self.findings

    def find(self, texts: Iterable[str]) -> None:
        """Add findings; of very many the first."""
        texts = list(texts)
        self.findings += texts[:SHOWN]
        if len(texts) > SHOWN:
            self.findings.append(f"… and {len(texts) - SHOWN} more of this kind")


def judge(subject: Subject, load: Load, trial: Trial, quiet_seconds: float = QUIET_SECONDS) -> Verdict:
    """Check everything. The load has been stopped."""
    verdict = Verdict()
    clients = load.expected
    verdict.find(load.failures)
    verdict.find(text for one in clients for text in one.complaints)
    verdict.find(text for reader in load.readers for text in reader.complaints)
    verdict.find(
        f"{one.name} ({one.victim}): {one.missing} was not back in time" for one in trial.struck if one.missing
    )
    verdict.find(_unquiet(subject, quiet_seconds))
    verdict.find(_still(subject, load))
    for check in (_keys, _likes, _ledgers, _rejections, _copies, _statuses):
        try:
            check(subject, load, trial, verdict)
        except psycopg.OperationalError as error:
            verdict.find([f"{check.__name__.strip('_')} could not be checked: {error}"])
    verdict.find(out_of_order([one for client in clients for one in client.waited], counts_of(clients)))
    verdict.figures |= {
        "writes acknowledged": sum(len(one.entries) for one in clients),
        "repeats of acknowledged writes": sum(one.repeats for one in clients),
        "attempts without an answer": sum(one.retries for one in clients),
        "writes spilled to excess queues, in part or whole": sum(one.spilled for one in clients),
        **_refused(clients),
        "times that a shard's breaker opened": len(load.sampler.openings),
        "primaries promoted": _promoted(subject, trial),
        "results compared": sum(len(one.waited) for one in clients),
        "seconds without a copy of some shard, at most": round(
            longest_lack(load.copies.samples, 1 + subject.replicas(0))
        ),
        "reads": load.read(),
        "reads older than before, after the cache was lost": sum(
            reader.went_back_with_the_cache for reader in load.readers
        ),
    }
    return verdict


def _refused(clients: Iterable[ExpectedCounts]) -> dict[str, int]:
    """How often an attempt was refused, or a counter of a bulk write, by reason."""
    refusals = sum((one.refusals for one in clients), Counter[str]())
    return {f"refused: {reason}": refusals[reason] for reason in sorted(refusals)}


def _promoted(subject: Subject, trial: Trial) -> int:
    """How often a shard has changed its primary; -1 if a shard cannot tell."""
    try:
        return sum(subject.timeline(shard) - before for shard, before in enumerate(trial.timelines))
    except psycopg.OperationalError:
        return -1


def _unquiet(subject: Subject, seconds: float) -> list[str]:
    """Wait until the cluster is whole and the journals are empty. Returns what is not."""
    missing = wait_until(subject.is_whole, seconds)
    depths: dict[Lane, int] | None = None
    for _ in polling.attempts(seconds, pause=0.3):
        with suppress(RedisError):
            depths = subject.depths()
        if depths == {}:
            break
    texts = [f"the cluster is not whole: {missing}"] if missing else []
    if depths is None:
        return [*texts, "the journal does not answer"]
    texts += [f"the journal of lane {lane} still has {depth} batches" for lane, depth in depths.items()]
    with suppress(RedisError):
        texts += [f"{count} batches of lane {lane} were set aside" for lane, count in subject.set_aside().items()]
    return texts


def _still(subject: Subject, load: Load) -> list[str]:
    """What stands still although all is whole: messages that no worker takes, writes whose result does not come."""
    for _ in polling.attempts(QUEUE_SECONDS, pause=0.3):
        left = {shard: count for shard in range(len(subject.shards)) if (count := subject.queued(shard))}
        if not left:
            break
    texts = [f"queue shard-{shard} still has {count} messages: its worker takes none" for shard, count in left.items()]
    for waiter in load.waiters:
        began = time.monotonic()
        told = waiter.client.waited(waiter.key, 1)
        if not told or time.monotonic() - began > RESULT_SECONDS:
            texts.append(
                f"the result of a write on {waiter.key} took {time.monotonic() - began:.1f} s although all was quiet"
            )
    return texts


def _keys(subject: Subject, load: Load, trial: Trial, verdict: Verdict) -> None:
    """Counted == acknowledged, for every key."""
    counted: dict[str, int] = {}
    wrong = []
    for shard in range(len(subject.shards)):
        with subject.database(shard) as conn:
            for key, value in conn.execute(COUNTERS, load.range()):
                if key in counted:
                    wrong.append(f"{key} stands on two shards")
                counted[key] = counted.get(key, 0) + value
    due = counts_of(load.expected)
    verdict.figures["keys"] = len(due)
    verdict.figures["increments acknowledged"] = sum(sum(one.added.values()) for one in load.expected)
    differences = {key: counted.get(key, 0) - due.get(key, 0) for key in {*due, *counted}}
    shared = {key: differences[key] for one in load.expected for key in one.added}
    verdict.figures["increments lost"] = -sum(difference for difference in shared.values() if difference < 0)
    verdict.figures["increments counted twice"] = sum(difference for difference in shared.values() if difference > 0)
    for key, difference in sorted(differences.items()):
        if difference:
            touching = _touching(load.expected, key, difference) if len(wrong) < SHOWN else ()
            suspects = "; ".join(_told(entry, trial) for entry in touching)
            wrong.append(
                f"{key}: counted {counted.get(key, 0)}, acknowledged {due.get(key, 0)} ({difference:+}); {suspects}"
            )
    verdict.find(wrong)


def _likes(subject: Subject, load: Load, _trial: Trial, verdict: Verdict) -> None:
    """Likers, what users like, counts and the event log agree, and are what was acknowledged."""
    figures, differences = likes_verdict.judge(subject, load)
    verdict.figures |= figures
    verdict.find(differences)


def _touching(clients: list[ExpectedCounts], key: str, difference: int) -> list[Entry]:
    """Some writes of a key, those that changed it by as much as is missing first."""
    return nsmallest(
        3,
        (entry for one in clients for entry in one.entries if key in entry.keys),
        key=lambda entry: (entry.keys[key] != abs(difference), -entry.attempts, entry.sent),
    )


def _told(entry: Entry, trial: Trial) -> str:
    during = next((one.name for one in reversed(trial.struck) if one.at <= entry.answered), "no fault yet")
    answered = f"{entry.kind} {entry.id} answered {entry.status} at {entry.answered - trial.started:.2f} s"
    return f"{answered}, attempts {entry.attempts}, ({during})"


def _ledgers(subject: Subject, load: Load, trial: Trial, verdict: Verdict) -> None:
    """Every acknowledged write is in the ledger of each of its lanes, and what was deferred in that of a stale queue."""
    looked_up = 0
    spilled: Counter[str] = Counter()
    for shard in range(len(subject.shards)):
        batches = _batches(load, shard)
        texts: list[str] = []
        with subject.database(shard) as conn:
            left = conn.execute(LEFT, (Lane(shard, 0, STALE).place,)).fetchall()
            texts += [f"deferred, and not applied: batch {id.hex} of lane {Lane.at(shard, lane)}" for id, lane in left]
            spilled.update({QUEUES[queue]: count for queue, count in conn.execute(SPILLED, (MOST,))})
            while entries := dict(islice(batches, LOOK_UP)):
                looked_up += len(entries)
                columns = [list(column) for column in zip(*entries, strict=True)]
                found = set(conn.execute(IN_LEDGER, columns).fetchall())
                texts += [
                    f"not in the ledger of lane {Lane.at(shard, one[1])}: {_told(entry, trial)}"
                    for one, entry in entries.items()
                    if one not in found
                ]
        verdict.find(texts)
    verdict.figures["batches looked up in the ledger"] = looked_up
    verdict.figures |= {f"batches applied from {queue} queues": spilled[queue] for queue in SPILL if spilled[queue]}


def _batches(load: Load, shard: int) -> Iterator[tuple[tuple[UUID, int], Entry]]:
    """The batch and lane of every acknowledged write, with the write, as far as this shard has them."""
    for entry in (entry for one in load.expected for entry in one.entries if " " not in entry.id):
        write = WriteId.parse(entry.id)
        yield from (((write.batch, lane.place), entry) for lane in write.lanes if lane.shard == shard)


def _rejections(subject: Subject, load: Load, _trial: Trial, verdict: Verdict) -> None:
    """What was rejected is what had to be: increments that do not fit, versions that do not match."""
    due = {id.rpartition("-")[0]: (id, key) for one in load.expected for id, key in one.rejected.items()}
    found: set[str] = set()
    for shard in range(len(subject.shards)):
        with subject.database(shard) as conn:
            found |= {f"{id.hex}-{index:x}" for id, index in conn.execute(REJECTED, load.range())}
    verdict.figures["writes rejected, as they had to be"] = len(found & due.keys())
    verdict.find(f"write {id} was acknowledged and then rejected" for id in sorted(found - due.keys()))
    left = [id for id in sorted(due.keys() - found) if not _is_voided(subject, load, *due[id])]
    verdict.find(f"write {id} should have been rejected" for id in left)
    verdict.figures["writes that would have been rejected, voided by a set"] = len(due.keys() - found) - len(left)


def _is_voided(subject: Subject, load: Load, id: str, key: str) -> bool:
    """Whether a set has voided this increment of a key before it was applied: its owner has set the key since, and the shard
    has applied it no earlier than that."""
    version = next((one.voidable[id] for one in load.expected if id in one.voidable), None)
    if version is None:
        return False
    write = WriteId.parse(id)
    (lane,) = write.lanes
    places = [lane.place] if lane.spills else [lane.place, lane.of(STALE).place]
    with subject.database(lane.shard) as conn:
        return conn.execute(VOIDED, (write.batch, places, key, version)).fetchone() is not None


def _copies(subject: Subject, _load: Load, _trial: Trial, verdict: Verdict) -> None:
    """Every copy of each shard streams, and primary == replica for every row, within two minutes."""
    rows = copies = 0
    for shard in range(len(subject.shards)):
        for _ in polling.attempts(COPIES_SECONDS, pause=1.0):
            primary, lacking = lacking_copies(subject, shard)
            if not lacking:
                break
        rows += len(primary) * subject.replicas(shard)
        copies += 1 + subject.replicas(shard) - len(lacking)
        verdict.find(lacking)
    verdict.figures["rows compared between primary and replica"] = rows
    verdict.figures["copies that are equal and stream"] = copies


def lacking_copies(subject: Subject, shard: int) -> tuple[Rows, list[str]]:
    """The rows of a shard's primary, and one text for each of its replicas that does not stream or differs."""
    with subject.database(shard) as conn:
        port = conn.info.port
        senders = {name for (name,) in conn.execute(SENDERS)}
        primary = _rows(conn)
    texts = []
    for number, node in enumerate(subject.shards[shard]["nodes"], 1):
        name = f"shard-{shard}-node-{number}"
        if node["port"] == port:
            continue
        if name not in senders:
            texts.append(f"shard {shard} has lost a copy: {name} does not stream")
            continue
        try:
            with subject.server(node) as conn:
                replica = _rows(conn)
        except psycopg.Error as error:
            texts.append(f"shard {shard} has lost a copy: {name} cannot be read: {error}")
            continue
        if different := _different(primary, replica):
            row = different[0]
            texts.append(
                f"shard {shard}: {len(different)} rows differ, such as {' '.join(row)}: the primary has {primary.get(row)}, "
                f"{name} {replica.get(row)}"
            )
    return primary, texts


def _rows(conn: psycopg.Connection[Any]) -> Rows:
    return {(table, key): values for table, query in COPIED.items() for key, *values in conn.execute(query)}


def _different(one: Rows, other: Rows) -> list[tuple[str, str]]:
    return sorted(row for row in {*one, *other} if one.get(row) != other.get(row))


def _statuses(subject: Subject, load: Load, trial: Trial, verdict: Verdict) -> None:
    """`GET /v1/writes/{id}` says applied, or names what had to be rejected."""
    step = max(1, sum(len(one.entries) for one in load.expected) // SAMPLE)
    every = (entry for one in load.expected for entry in one.entries)
    entries = [entry for entry in islice(every, 0, None, step) if " " not in entry.id]
    rejected = {id: key for one in load.expected for id, key in one.rejected.items()}
    wire = subject.wire()
    for entry in entries:
        answer = wire.ask("GET", f"/v1/writes/{entry.id}")
        wanted = "rejected" if entry.id in rejected else "applied"
        said = "rejected" if answer.json.get("rejected") else answer.json.get("status")
        if said == "applied" and wanted == "rejected" and _is_voided(subject, load, entry.id, rejected[entry.id]):
            continue
        if said != wanted:
            verdict.find([f"status is {answer.body[:200]!r}, must be {wanted}: {_told(entry, trial)}"])
    wire.close()
    verdict.figures["statuses asked"] = len(entries)
