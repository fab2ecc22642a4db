"""The health of everything that this process depends on, and how many copies of the data there are.

`look` asks every component at once and shares the answers: see `runtime.looks`. A component that hangs delays an answer
by `SECONDS` at most. `of` makes a `View` of the answers.

Details are sentences of this module, as anyone may ask for /health. The text of an error, which may name addresses, is
logged at the level DEBUG.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from concurrent.futures import Future
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import Any, Literal, NamedTuple

import msgspec
import structlog
from django.conf import settings

from counters.intake import copies as journal_copies
from counters.intake.dispatch import SPILL_QUEUE, queue_of
from counters.intake.journal import ONE_COPY
from counters.operators import broker, processes
from counters.operators.processes import Processes
from replication import copies
from replication.copies import Copies, Copy, Primary, Said
from runtime import disks, heartbeats, redis
from runtime.disks import Room
from runtime.looks import Late, Looks, Result
from runtime.resources import owned
from sharding import databases, nodes

SECONDS = 1.0  # for a look
FRESH_SECONDS = 0.5  # for which a look is shared
_ETCD_SECONDS = 15.0  # since a Patroni last reached etcd, which each tries every `loop_wait` (2 s in the local cluster)
_BEAT_SECONDS = 10.0  # since beat's last task; at least three of the relay's intervals
_GIB = 1024**3
_SPILL_QUEUES = (SPILL_QUEUE, "maintenance", "low-priority")
log = structlog.get_logger(__name__)

Status = Literal["up", "down", "unknown"]


class Component(msgspec.Struct, omit_defaults=True, frozen=True):
    """A part of the system as this process sees it; `unknown` if the component that could say does not answer.

    Servers of a shard have `shard`, `role` and `state` (Patroni's word), workers `last_shift`, beat `last_tick`.
    """

    name: str
    status: Status
    detail: str = ""
    shard: int | None = None
    role: Literal["primary", "replica"] | None = None
    state: str | None = None
    last_shift: str | None = None
    last_tick: str | None = None


class ShardCopies(msgspec.Struct, frozen=True):
    """How many servers have all of a shard, or are receiving it: its primary and the replicas that stream from it.
    `wanted` is what the settings name. 0 copies: no primary answers, so it is not known."""

    shard: int
    copies: int
    wanted: int


class Redundancy(msgspec.Struct, frozen=True):
    """How many copies of the data there are. `journal`: the journal's Redis and its replicas; 0 if it does not
    answer. `journal_wanted` is what the settings ask for."""

    journal: int
    journal_wanted: int
    shards: list[ShardCopies]


class View(NamedTuple):
    """What one look has found, and when it began."""

    components: list[Component]
    redundancy: Redundancy
    at: str


class Journal(NamedTuple):
    """What the journal's Redis says: how many copies it has, whether one is enough, the heartbeats' ages, and the room
    on the servers' disks."""

    copies: int
    one_copy: bool
    ages: dict[str, float]
    rooms: dict[str, Room]


def look() -> Future[View]:
    """The newest view, at most `SECONDS` + `FRESH_SECONDS` old. Never waits."""
    return _looks().look()


def look_at_journal() -> Future[Component]:
    """The journal alone: all that `/readyz` needs, which load balancers ask often. As `look`."""
    return _looks_at_journal().look()


@owned(close=Looks.close)
def _looks_at_journal() -> Looks[Component]:
    checks = {"journal": lambda: redis.journal().ping()}
    return Looks(
        checks,
        lambda results, _began: _answers("journal", results["journal"]),
        seconds=SECONDS,
        fresh_seconds=FRESH_SECONDS,
    )


@owned(close=Looks.close)
def _looks() -> Looks[View]:
    checks: dict[str, Callable[[], Any]] = {
        "journal": _journal,
        "cache": lambda: redis.cache_unguarded().ping(),
        "broker": broker.depths,
        "control": partial(_select_one, databases.CONTROL),
    }
    for shard in range(settings.TALLY.shard_count):
        checks[f"primary {shard}"] = partial(copies.ask_primary, shard)
        for number, node in enumerate(nodes.of(shard)):
            checks[f"server {shard} {number}"] = partial(copies.ask_server, shard, node)
    return Looks(checks, of, seconds=SECONDS, fresh_seconds=FRESH_SECONDS)


def _journal() -> Journal:
    """Raises `RedisError`."""
    with redis.journal().pipeline(transaction=False) as pipe:
        pipe.info("replication")
        pipe.exists(ONE_COPY)
        heartbeats.ask(pipe)
        disks.ask(pipe)
        info, one_copy, now, found, *rooms = pipe.execute()
    return Journal(journal_copies.counted(info), bool(one_copy), heartbeats.ages(now, found), disks.rooms(*rooms))


def _select_one(alias: str) -> None:
    with databases.connection(alias, copies.SECONDS) as conn:
        conn.execute("SELECT 1")


def of(results: Mapping[str, Result], began: float) -> View:
    """The view of a look's results; `began` is Unix time."""
    shards = range(settings.TALLY.shard_count)
    servers = {
        shard: [(node, _said(node, results[f"server {shard} {number}"])) for number, node in enumerate(nodes.of(shard))]
        for shard in shards
    }
    primaries = {shard: results[f"primary {shard}"] for shard in shards}
    found = {
        shard: copies.of(shard, primary if isinstance(primary, Primary) else None, servers[shard])
        for shard, primary in primaries.items()
    }
    journal = results["journal"] if isinstance(results["journal"], Journal) else None
    working = processes.of(journal.ages) if journal else None
    components = [_answers(name, results[name]) for name in ("journal", "cache", "broker", "control")]
    components += [
        *_journal_copies(journal),
        *_disks(journal),
        *_etcd([said for of_shard in servers.values() for _, said in of_shard]),
    ]
    components += [_beat(working), _spill_worker(working)]
    for shard, one in found.items():
        components += [_answers(f"shard-{shard}", primaries[shard], shard), *_replicas(one), _worker(shard, working)]
        components += [_server(shard, server) for server in one.servers]
    told = [ShardCopies(shard, one.copies, one.wanted) for shard, one in found.items()]
    at = datetime.fromtimestamp(began, UTC).isoformat(timespec="milliseconds")
    redundancy = Redundancy(journal.copies if journal else 0, journal_copies.wanted(), told)
    return View(components, redundancy, at)


def _said(node: nodes.Node, result: Result) -> Said:
    return result if isinstance(result, Said) else Said(copies.name_of(node), None)


def _answers(name: str, result: Result, shard: int | None = None) -> Component:
    if not isinstance(result, BaseException):
        return Component(name, "up", shard=shard)
    if isinstance(result, Late):
        return Component(name, "down", "no answer in time", shard=shard)
    log.debug("component_unseen", component=name, error=str(result).strip())
    return Component(name, "down", f"no answer ({type(result).__name__})", shard=shard)


def _journal_copies(journal: Journal | None) -> list[Component]:
    """Whether the journal has its copies; nothing for one without replicas."""
    if not settings.TALLY.journal_replicas:
        return []
    if journal is None:
        return [Component("journal-copies", "unknown", "the journal's Redis does not answer")]
    detail = journal_copies.trouble(journal.copies, one_copy=journal.one_copy)
    return [Component("journal-copies", "down" if detail else "up", detail)]


def _disks(journal: Journal | None) -> list[Component]:
    """Whether every server's disk has room; nothing if no room is asked for."""
    if not settings.TALLY.disk_reserve_bytes:
        return []
    if journal is None:
        return [Component("disks", "unknown", "the journal's Redis, which has the readings, does not answer")]
    names = {node.address: copies.name_of(node) for shard in settings.TALLY.shards for node in shard.nodes}
    short = [
        f"{names.get(server, server)} has {room.free / _GIB:.1f} of {room.total / _GIB:.1f} GiB left"
        for server, room in sorted(journal.rooms.items())
        if room.short
    ]
    if short:
        return [Component("disks", "down", "; ".join(short))]
    unseen = [name for address, name in names.items() if address not in journal.rooms]
    if len(journal.rooms.keys() - names.keys()) < journal_copies.wanted():
        unseen.append("the journal")
    return [
        Component("disks", "unknown", f"nobody watches: {', '.join(unseen)}") if unseen else Component("disks", "up")
    ]


def _replicas(found: Copies) -> list[Component]:
    """Whether a shard's reads have a replica; nothing for a shard without any."""
    name, shard = f"shard-{found.shard}-replica", found.shard
    if found.wanted == 1:
        return []
    if found.copies > 1:
        return [Component(name, "up", shard=shard)]
    if not found.copies:
        return [Component(name, "unknown", "no primary answers", shard=shard)]
    return [Component(name, "down", "no replica streams", shard=shard)]


def _server(shard: int, server: Copy) -> Component:
    status: Status = "down" if server.trouble else "up"
    return Component(server.node, status, server.trouble, shard, server.role, server.state)


def _etcd(said: list[Said]) -> list[Component]:
    """As the Patronis see it: the newest time at which one of them has reached it. Nothing if none is known."""
    if not any(node.patroni for shard in settings.TALLY.shards for node in shard.nodes):
        return []
    seen = [one.report.dcs_last_seen for one in said if one.report]
    if not seen:
        return [Component("etcd", "unknown", "no Patroni answers")]
    age = time.time() - max(seen)
    if age < _ETCD_SECONDS:
        return [Component("etcd", "up")]
    return [Component("etcd", "down", f"no Patroni has reached it for {age:.0f} s")]


def _beat(working: Processes | None) -> Component:
    if working is None:
        return Component("beat", "unknown", "the journal's Redis, which has the heartbeats, does not answer")
    if working.last_tick is None:
        return Component("beat", "down", "it is not known to have sent a task")
    limit = max(_BEAT_SECONDS, 3 * settings.TALLY.relay_interval_seconds)
    at = _ago(working.last_tick)
    if working.last_tick < limit:
        return Component("beat", "up", last_tick=at)
    return Component("beat", "down", f"it has sent no task for {working.last_tick:.0f} s", last_tick=at)


def _spill_worker(working: Processes | None) -> Component:
    return _consumed("spill-worker", _SPILL_QUEUES, working)


def _worker(shard: int, working: Processes | None) -> Component:
    found = _consumed(f"shard-{shard}-worker", (queue_of(shard),), working)
    ago = working.last_shift.get(shard) if working else None
    return msgspec.structs.replace(found, shard=shard, last_shift=None if ago is None else _ago(ago))


def _consumed(name: str, queues: tuple[str, ...], working: Processes | None) -> Component:
    """Whether some worker consumes each of these queues."""
    if working is None:
        return Component(name, "unknown", "the journal's Redis, which has the heartbeats, does not answer")
    if all(working.consuming[queue] for queue in queues):
        return Component(name, "up")
    if all(working.running[queue] for queue in queues):
        return Component(name, "down", "a worker runs, but gets no messages from the broker")
    return Component(name, "down", "no worker runs")


def _ago(seconds: float) -> str:
    return (datetime.now(UTC) - timedelta(seconds=seconds)).isoformat(timespec="seconds")
