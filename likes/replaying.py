"""Replay: events of the log are written again, in the journal's order.

Merging them changes nothing where they are known (`likes.state`), so a replay may stop anywhere, begin anywhere and be
repeated. It brings back what the tables lack. What it brings back is logged anew, behind the end of the replay. No user is
removed meanwhile (`locks`): the replay could have read the user's events before the log forgot them.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field
from heapq import merge
from itertools import islice
from operator import itemgetter
from pathlib import Path
from typing import Any, NamedTuple

from counters import service
from counters.intake.admission import Limited
from counters.intake.journal import JournalUnavailable
from counters.reading import write_status
from counters.write_id import WriteId
from likes import writes
from likes.events import Event
from likes.names import count_key, liker_key
from runtime import polling
from sharding import databases
from sharding.databases import ShardUnavailable

PATIENCE_SECONDS = 60.0
IN_FLIGHT = 8  # chunks that are accepted and not known to be applied
_STEP = 60_000_000  # microseconds of the log that a shard sorts at once
_READ = 2000  # rows that a shard sends at once
_LOGGED = (Path(__file__).parent / "sql" / "logged.sql").read_text()


class Stopped(Exception):
    """A replay cannot go on; the text says why."""


class Chunk(NamedTuple):
    """Events of the log, and the position of the last."""

    events: list[Event]
    position: int


def chunks(shards: Iterable[int], first: int, behind: int, size: int) -> Iterator[Chunk]:
    """The events logged from one position to another, in order, `size` at once; it holds no more than that. Raises
    `psycopg.Error`."""
    rows = _logged(shards, first, behind)
    while some := list(islice(rows, size)):
        events = [Event(item, user, liked, at, event) for _, item, user, liked, at, event in some]
        yield Chunk(events, some[-1][0])


def _logged(shards: Iterable[int], first: int, behind: int) -> Iterator[tuple[Any, ...]]:
    with ExitStack() as stack:
        connections = [stack.enter_context(databases.connect(databases.primary(shard))) for shard in shards]
        for start in range(first, behind, _STEP):
            with ExitStack() as reading:
                found = []
                for connection in connections:
                    reading.enter_context(connection.transaction())
                    cursor = reading.enter_context(connection.cursor("replay", binary=True))
                    cursor.itersize = _READ
                    found.append(cursor.execute(_LOGGED, {"first": start, "behind": min(start + _STEP, behind)}))
                yield from merge(*found, key=itemgetter(0))


@dataclass(slots=True)
class Replay:
    """Writes chunks of events again. `applied`: the position up to which all are known to be applied."""

    applied: int
    events: int = 0
    _unapplied: deque[tuple[int, list[WriteId]]] = field(default_factory=deque)

    def take(self, chunk: Chunk) -> None:
        """Write a chunk. Raises `Stopped`."""
        ids, left = [], chunk.events
        while left:
            id, left = self._written(left)
            ids.append(id)
        self.events += len(chunk.events)
        self._unapplied.append((chunk.position, ids))
        self._wait_for(IN_FLIGHT)

    def finish(self) -> None:
        """Wait until all are applied. Raises `Stopped`."""
        self._wait_for(0)

    def _written(self, events: list[Event]) -> tuple[WriteId, list[Event]]:
        """The write of these events, and those that a limit has refused."""
        failure: Exception | None = None
        for _ in polling.attempts(PATIENCE_SECONDS, pause=0.25, grow=2, most=5.0):
            try:
                accepted = service.current().submit(writes.write(events, least=0))
            except (Limited, JournalUnavailable, ShardUnavailable) as error:  # there will be room
                failure = error
                continue
            refused = {key for keys in accepted.shed.refused.values() for key in keys}
            return accepted.id, [
                one for one in events if not refused.isdisjoint((count_key(one.item), liker_key(one.user)))
            ]
        raise Stopped(f"nothing could be written for a minute: {failure}")

    def _wait_for(self, most: int) -> None:
        while len(self._unapplied) > most:
            position, ids = self._unapplied[0]
            for id in ids:
                _wait(id)
            self.applied = position
            self._unapplied.popleft()


def _wait(id: WriteId) -> None:
    reason = "its shards have not applied it"
    for _ in polling.attempts(PATIENCE_SECONDS, pause=0.005, grow=2, most=0.5):
        try:
            found = write_status.find(id)
            if found and found.status in {"applied", "rejected"}:
                return
        except (ShardUnavailable, JournalUnavailable) as error:
            reason = str(error)
    raise Stopped(f"the write {id} is accepted and safe, but not applied within a minute: {reason}")
