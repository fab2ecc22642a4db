"""What an API process holds for likes, on its event loop beside `counters.service`: the quick look, and reads of states.

The ASGI entry opens it (`likes.api.calls`). Threads reach it by `current()`.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence, Set
from typing import NamedTuple, TypeVar

import structlog
from redis.exceptions import RedisError

from counters.api import bodies
from counters.intake.idempotency import Claim
from counters.intake.journal import Journal
from counters.intake.writes import Accepted, Write
from counters.limits.limiter import Charge
from counters.service import NotOpen, Service
from likes import reading, recent, writes
from likes.events import Event, Received
from likes.known import Known
from likes.names import count_key, item_of_count, liker_key
from likes.reading import Pair, Row
from likes.recent import NOTHING, Entry, OwnState, Recent
from runtime import redis
from runtime.resources import owned
from sharding import topology
from sharding.lanes import EXCESS, FRESH, QUEUES, Queue
from sharding.queries import Queries

T = TypeVar("T")
_MOST_PAIRS = 1000  # of a query
_ON_LOOP = 200  # events
log = structlog.get_logger(__name__)


class Taken(NamedTuple):
    """What became of events. `written`: those that were not known already, beside `repeats`; `accepted` is None if there are
    none."""

    written: Sequence[Event]
    repeats: int
    accepted: Accepted | None


class _Asked(NamedTuple):
    pair: Pair
    row: asyncio.Future[Row]


class Likes:
    """Must be created and closed on the event loop of the service. It is what `current` returns from then on."""

    def __init__(self, service: Service) -> None:
        self.service = service
        self.recent = Recent(redis.cache_connection())
        self._known = Known()
        self._queries: Queries[_Asked] = Queries(self._answer, most=_MOST_PAIRS)
        _serving().likes = self

    async def close(self) -> None:
        _serving().likes = None
        await self.recent.close()

    async def known(self) -> Known:
        """What this process knows of the events that it accepted lately: nothing, if the cache does not answer."""
        mark = await self.recent.mark()
        if mark != self._known.mark:
            self._known = Known(mark)
        return self._known

    async def take(
        self,
        received: Received,
        charge: Charge | None,
        queue: Queue = FRESH,
        *,
        claim: Claim | None = None,
        known: Known | None = None,
    ) -> Taken:
        """Put events into the journal, but for those that are known already. Every event is charged. `known` remembers those
        that have prints.

        With a `claim` all of them are written, so that the write can be found by it, unless an earlier request with it has
        written them: that is charged nothing. Raises as `Service.submitted`.
        """
        if earlier := await self.service.earlier(claim):
            return Taken(received.events, 0, earlier)
        if charge is not None:
            await self.service.limits.take(*charge)
        recent.REPEATS.inc(received.repeats)
        taken = await self._taken(received, queue, claim)
        if known is not None:
            known.add(await self._made(received.events, lambda: _sure(received, taken)))
        return taken

    async def _taken(self, received: Received, queue: Queue, claim: Claim | None) -> Taken:
        events = received.events
        if not events:
            return Taken((), received.repeats, None)
        keys = await self._made(events, lambda: [recent.key_of(event.item, event.user) for event in events])
        found = [] if claim else await self.recent.get(keys)

        known: dict[str, Entry] = {}

        def build() -> tuple[Sequence[Event], Write | None]:
            entries = list(map(Entry.decoded, found))
            known.update((key, entry) for key, entry in zip(keys, entries, strict=False) if entry)
            left = recent.unknown(events, entries) if known else events
            return left, writes.write(left, claim, queue, least=self.service.intake.least_counted) if left else None

        written, write = await self._made(events, build)
        repeats = received.number - len(written)
        if write is None:
            return Taken((), repeats, None)
        accepted = await self.service.intake.submit(write)
        await self.keep(written, accepted, known)
        return Taken(written, repeats, accepted)

    async def keep(self, events: Sequence[Event], accepted: Accepted, known: Mapping[str, Entry] = NOTHING) -> None:
        """Have the quick look know the events of an accepted write, but for those that are older than what is `known`."""
        if accepted.repeated:
            return
        spilled = {item_of_count(key) for key in accepted.shed.excess}
        if all(lane.queue == EXCESS for lane in accepted.id.lanes):
            spilled |= {event.item for event in events}

        def entries() -> list[tuple[str, bytes]]:
            found = recent.newest(left(events, accepted), accepted.version, spilled, known)
            return [(key, entry.encoded()) for key, entry in found.items()]

        await self.recent.put(await self._made(events, entries))

    async def _made(self, events: Sequence[Event], make: Callable[[], T]) -> T:
        """What is made of events: on the loop if they are few, otherwise in a thread, in its turn."""
        return make() if len(events) <= _ON_LOOP else await asyncio.to_thread(bodies.in_turn, make)

    async def states(self, pairs: Sequence[Pair]) -> list[OwnState]:
        """The states of pairs, in their order. Raises `ShardUnavailable`."""
        loop = asyncio.get_running_loop()
        asked = {pair: _Asked(pair, loop.create_future()) for pair in pairs}
        for shard, some in reading.by_shard(list(asked)).items():
            for pair in some:
                self._queries.put(shard, asked[pair])
        entries = await self._entries(pairs)
        return await self._merged({pair: await asked[pair].row for pair in asked}, pairs, entries)

    async def states_with(self, rows: Mapping[Pair, Row], pairs: Sequence[Pair]) -> list[OwnState]:
        """The states of pairs whose rows are known, in their order."""
        return await self._merged(rows, pairs, await self._entries(pairs))

    async def _entries(self, pairs: Sequence[Pair]) -> list[Entry | None]:
        """What the quick look knows of pairs, in their order."""
        return list(map(Entry.decoded, await self.recent.get([recent.key_of(*pair) for pair in pairs])))

    async def _merged(
        self, rows: Mapping[Pair, Row], pairs: Sequence[Pair], entries: Sequence[Entry | None]
    ) -> list[OwnState]:
        known = list(zip(pairs, entries, strict=True))
        missing = {pair: entry for pair, entry in known if entry and entry.is_missing_in(rows[pair])}
        waiting = await asyncio.to_thread(_waiting, missing) if missing else frozenset[Pair]()
        return [
            OwnState.of(rows[pair], entry._replace(spilled=True) if entry and pair in waiting else entry)
            for pair, entry in known
        ]

    async def _answer(self, shard: int, asked: list[_Asked]) -> None:
        try:
            rows = await asyncio.to_thread(reading.states_of, shard, list({one.pair for one in asked}))
        except Exception as error:
            for one in asked:
                if not one.row.done():
                    one.row.set_exception(error)
                    one.row.exception()  # retrieved, although its reader may have gone
            return
        for one in asked:
            if not one.row.done():
                one.row.set_result(rows[one.pair])


def _waiting(entries: Mapping[Pair, Entry]) -> Set[Pair]:
    """Those in whose lanes something waits that is as old as their entry; none while the journal does not answer."""
    found = set()
    try:
        for pair, entry in entries.items():
            lane = topology.current().lane_of(count_key(pair.item))
            if any(Journal(lane.of(queue)).entries(through=entry.version, limit=1) for queue in QUEUES):
                found.add(pair)
    except RedisError as error:
        log.debug("deferred_likes_unknown", error=str(error))
    return found


def left(events: Sequence[Event], accepted: Accepted) -> Sequence[Event]:
    """The events of a write that no limit has refused."""
    refused = {key for keys in accepted.shed.refused.values() for key in keys}
    if not refused:
        return events
    return [one for one in events if count_key(one.item) not in refused and liker_key(one.user) not in refused]


def _sure(received: Received, taken: Taken) -> Sequence[bytes]:
    """The prints of events whose repeats will change nothing. None of a write that limits took something out of."""
    accepted = taken.accepted
    if accepted is None:
        return received.prints
    if accepted.shed.refused:
        return ()
    pairs = zip(received.events, received.prints, strict=True)
    return [one for event, one in pairs if event.id or event.at <= accepted.version]


class _Serving:
    """What is open, if anything is."""

    likes: Likes | None = None


@owned
def _serving() -> _Serving:
    return _Serving()


def current() -> Likes:
    """What this process holds for likes. Raises `NotOpen`."""
    found = _serving().likes
    if found is None:
        raise NotOpen("this process has opened no likes.service.Likes")
    return found
