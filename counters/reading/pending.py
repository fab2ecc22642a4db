"""`?pending=true`: what accepted writes will add to a counter once they are applied.

A process keeps the tail of a lane's journals while somebody asks for it: each batch is fetched and decoded once. A tail is
good for 50 ms. It is fetched again when half of that is over and it is still asked for, so only the first reader of a lane
waits. One round trip fetches all tails that are due. What is completed leaves the tail with its journal.

The value that was read names its version, and a lane's fresh queue is applied in order: so what is pending are the
operations behind that version, and all that is in the lane's spill queues. It is an estimate. A batch that is applied stays
in the journal until the replicas have it, and for a spilled one that makes no difference here. Whether an event changes
anything is only decided when it is applied: of the events of a pair, the newest counts as if it did. An operation with
`If-Match` counts as nothing.
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import structlog
from redis.exceptions import RedisError

from counters import batch
from counters.batch import BadBatch, Batch, Events, Increments, Operation
from counters.intake.journal import Journal
from counters.reading.reads import Counter
from runtime import breakers, redis, request_id
from runtime.redis import LoopConnection
from sharding import topology
from sharding.lanes import FRESH, QUEUES, STALE, Lane

MOST_BYTES = 8 * 1024 * 1024  # of a lane's journals: of a lane that has more, nobody is told what is pending
_GOOD_SECONDS, _DUE_SECONDS = 0.05, 0.025  # ages of a tail up to which it is told, and from which it is fetched again
_FETCHES = 3  # that a reader waits for; on a process that is too slow for good tails, an older one is told
_KEPT_SECONDS = 30.0  # without a reader
_ON_LOOP_BYTES = 64 * 1024  # so much is decoded on the loop, more in a thread
_NEVER = 2**63  # after every position
log = structlog.get_logger(__name__)


class Effect(NamedTuple):
    """What an event adds to a counter, if it changes anything. Of those of a `pair`, the one of the highest rank counts."""

    key: str
    pair: str
    rank: tuple[Any, ...]
    delta: int


Look = Callable[[Events, int], Iterable[Effect]]
_looks: dict[str, Look] = {}  # by kind of events; filled when Django is set up


def register(kind: str, look: Look) -> None:
    """Have a room say what its events of a kind may add. `look` gets events and the version of their write."""
    _looks[kind] = look


class _Part(NamedTuple):
    """An operation on one counter. `value`: what it adds, or, with `replaces`, the new value."""

    version: int
    value: int
    replaces: bool = False
    event: Effect | None = None


class _Queue:
    """The tail of one journal."""

    def __init__(self, lane: Lane) -> None:
        self.lane = lane
        self.newest = 0
        self._entries: deque[tuple[int, list[str]]] = deque()  # position and keys, in order
        self._parts: dict[str, deque[_Part]] = {}  # by key, in order

    def take(self, oldest: int, count: int, new: Sequence[tuple[int, bytes | None]]) -> bool:
        """Take new entries, and forget those before the oldest. `count`: how many the journal has. Returns whether this is
        all of them: one may have come or gone out of turn."""
        while self._entries and self._entries[0][0] < oldest:
            self._forget(*self._entries.popleft())
        for position, data in new:
            self._add(position, data)
            self.newest = position
        return len(self._entries) == count

    def parts(self, key: str) -> Iterable[_Part]:
        return self._parts.get(key, ())

    def _add(self, position: int, data: bytes | None) -> None:
        keys: list[str] = []
        for key, part in _parts(position, data, deferred=self.lane.queue == STALE):
            self._parts.setdefault(key, deque()).append(part)
            keys.append(key)
        self._entries.append((position, keys))

    def _forget(self, _position: int, keys: list[str]) -> None:
        for key in keys:
            parts = self._parts[key]
            parts.popleft()
            if not parts:
                del self._parts[key]


def _parts(position: int, data: bytes | None, *, deferred: bool) -> Iterator[tuple[str, _Part]]:
    """The operations of a batch, by key; none if it is gone, or if nobody can read it."""
    try:
        found: Batch | None = batch.decode(data) if data is not None else None
    except BadBatch:
        return
    if found is None:
        return
    for index, operation in (found.unconditional if deferred else found).segments:
        yield from _of_operation(position + index, operation)


def _of_operation(version: int, operation: Operation) -> Iterator[tuple[str, _Part]]:
    if isinstance(operation, Increments):
        for key, delta in zip(operation.keys, operation.deltas, strict=True):
            yield key, _Part(version, delta)
    elif isinstance(operation, Events):
        look = _looks.get(operation.kind)
        for effect in look(operation, version) if look else ():
            yield effect.key, _Part(version, effect.delta, event=effect)
    elif operation.if_version is None:
        yield operation.key, _Part(version, operation.operand, replaces=operation.kind != "increment")


class _Tail:
    """The tails of all queues of one lane. `known`: they are complete. `changes`: a thread makes them so."""

    def __init__(self, lane: Lane) -> None:
        self.lane = lane
        self.asked_at = self.fetched_at = 0.0  # monotonic seconds
        self.changes = False
        self.forget()

    def is_good(self, now: float) -> bool:
        """Whether its readers need not wait."""
        return now - self.fetched_at < _GOOD_SECONDS and not self.changes

    def is_due(self, now: float) -> bool:
        """Whether it is to be fetched, if somebody asks for it."""
        return now - self.fetched_at >= _DUE_SECONDS

    def forget(self) -> None:
        """Know nothing."""
        self.known = False
        self.queues = [_Queue(self.lane.of(queue)) for queue in QUEUES]
        self._told: dict[tuple[str, int, int], int] = {}

    def take(self, reply: Sequence[Any]) -> bool:
        """Take a reply of the script. Returns False if it must be run again."""
        if len(reply) == 1:  # too much waits
            self.forget()
            return True
        self._told.clear()
        whole = []
        for queue, (oldest, count, *new) in zip(self.queues, reply[1:], strict=True):
            entries = [(int(score), data) for score, data in zip(new[1::3], new[2::3], strict=True)]
            whole.append(queue.take(int(oldest or _NEVER), count, entries))
        self.known = all(whole)
        if not self.known:
            self.forget()
        return self.known

    def pending(self, counter: Counter) -> int | None:
        """What is pending for a counter of this lane, as it was read."""
        if not self.known:
            return None
        asked = counter.key, counter.version, counter.value
        if asked not in self._told:  # a hot counter has many parts, and many readers
            self._told[asked] = self._sum(counter)
        return self._told[asked]

    def _sum(self, counter: Counter) -> int:
        value = counter.value
        newest: dict[str, Effect] = {}
        for queue in self.queues:
            for part in queue.parts(counter.key):
                if queue.lane.queue == FRESH and part.version <= counter.version:
                    continue
                if part.event is None:
                    value = part.value if part.replaces else value + part.value
                elif part.event.pair not in newest or newest[part.event.pair].rank < part.event.rank:
                    newest[part.event.pair] = part.event
        return value - counter.value + sum(effect.delta for effect in newest.values())


class Pending:
    """Belongs to the event loop that it was created on. The topology must be loaded."""

    def __init__(self, journal: LoopConnection) -> None:
        self._journal = journal
        self._text = redis.script(Path(batch.__file__).parent / "intake", "tail")
        self._tails: dict[Lane, _Tail] = {}
        self._fetch: asyncio.Task[None] | None = None

    async def of(self, counters: Sequence[Counter]) -> list[int | None]:
        """What is pending for each counter, as it was read. None: too much waits in its lane, or the journal does not
        answer."""
        lane_of = topology.current().lane_of
        lanes = [lane_of(counter.key) for counter in counters]
        tails = self._asked(lanes)
        for _ in range(_FETCHES):
            if all(tail.is_good(time.monotonic()) for tail in tails):
                break
            await asyncio.shield(self._fetching())  # the request may be cancelled
            tails = self._asked(lanes)
        if any(tail.is_due(time.monotonic()) for tail in tails):
            self._fetching()
        known = zip(tails, counters, strict=True)
        return [None if tail.changes else tail.pending(counter) for tail, counter in known]

    async def close(self) -> None:
        if self._fetch:
            await self._fetch
        await self._journal.close()

    def _asked(self, lanes: Sequence[Lane]) -> list[_Tail]:
        now = time.monotonic()
        tails = [self._tails.setdefault(lane, _Tail(lane)) for lane in lanes]
        for tail in tails:
            tail.asked_at = now
        return tails

    def _fetching(self) -> asyncio.Task[None]:
        """The fetch under way, or a new one."""
        if self._fetch is None or self._fetch.done():
            loop = asyncio.get_running_loop()
            self._fetch = loop.create_task(self._fetch_due(), context=request_id.nobody())
        return self._fetch

    async def _fetch_due(self) -> None:
        """Bring the tails up to date that are due and that somebody has asked for since they were fetched."""
        now = time.monotonic()
        self._tails = {lane: tail for lane, tail in self._tails.items() if now - tail.asked_at < _KEPT_SECONDS}
        due = [tail for tail in self._tails.values() if tail.is_due(now) and tail.asked_at >= tail.fetched_at]
        try:
            with breakers.journal().calling():
                if again := await self._take(due):
                    await self._take(again)
        except RedisError as error:
            log.debug("pending_unknown", error=str(error))
            _forget(due)
        except Exception:  # otherwise the readers would ask for ever
            log.exception("pending_unknown")
            _forget(due)
        for tail in due:
            tail.fetched_at = time.monotonic()

    async def _take(self, tails: Sequence[_Tail]) -> list[_Tail]:
        """Returns those that must be fetched again."""
        calls = [
            (
                [name for queue in tail.queues for name in _names(queue.lane)],
                [MOST_BYTES, tail.lane.number, *(queue.newest for queue in tail.queues)],
            )
            for tail in tails
        ]
        replies = await self._journal.evaluate_each(self._text, calls)
        return [tail for tail, reply in zip(tails, replies, strict=True) if not await _taken(tail, reply)]


def _forget(tails: Iterable[_Tail]) -> None:
    for tail in tails:
        tail.forget()


async def _taken(tail: _Tail, reply: Any) -> bool:
    """As `_Tail.take`, in a thread if the reply is long."""
    if sum(len(data) for queue in reply[1:] for data in queue[4::3] if data) <= _ON_LOOP_BYTES:
        return tail.take(reply)
    tail.changes = True
    try:
        return await asyncio.to_thread(tail.take, reply)
    finally:
        tail.changes = False


def _names(lane: Lane) -> tuple[str, str, str]:
    journal = Journal(lane)
    return journal.positions_key, journal.batches_key, journal.backlog_key
