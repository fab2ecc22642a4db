"""The loader: reads, decodes and folds a lane's journal, also ahead of time while the shift rests.

A `Window` is a run of the journal without gaps: every entry that was between `after` and `end` when it was read. It is
read before the lane's lock is taken, so another shift may apply part or all of it first. It stays correct:

- No entry is inserted into a run later: the journal's clock only increases. (A set-aside batch that is retried by hand
  is late, and planned as such, see `plan`.)
- Entries that have left the journal were committed: only completion removes them. So an empty run means that nothing is
  left to do.
- The applied batches of a lane are always a prefix of its journal. A shift applies a run under the lock, without the
  batches that the ledger has, and only if the run continues what the shard had applied when the shift began and what
  the shift has committed itself (`Window.after` is its cursor). If another shift went beyond this run, the ledger has
  all of it; otherwise the rest of the run is next in order.
- A fold made ahead is used only if the ledger has none of the run and nothing in it depends on rows; otherwise the run
  is planned again.
- Reading changes nothing, so a run may be discarded: after a failover, or to take batches one by one, the shift reads
  from another position.
- A run is handed out when all copies of the journal have it (`intake.confirmed`).
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence, Set
from dataclasses import dataclass, field
from uuid import UUID

from counters import batch
from counters.apply.plan import Placed, Plan, Planning, keys_to_read
from counters.batch import Batch, Step
from counters.intake.confirmed import Confirmed
from counters.intake.journal import Entry, Journal, JournalUnavailable
from counters.intake.lease import WakeUps
from sharding.lanes import STALE, Lane

# Batches, and bytes of them, that are read at once: the journal takes no writes meanwhile.
_CHUNK, _CHUNK_BYTES = 64, 1024 * 1024
_MOST_BYTES = 64 * 1024 * 1024  # of batches in a window
# With so many events a window takes no further batch: each writes rows of its own, while increments of many batches fold
# into few, and what comes to the lane meanwhile would wait for all of them.
_MOST_EVENTS = 4000
_LOOK_SECONDS = 0.1  # between looks at the journal during a rest


@dataclass(slots=True)
class Window:
    """Batches after the position `after`, up to `end`, in order; `size` is in bytes.

    `undecodable` are to be set aside, each with the reason. `reads` are the keys whose rows are needed whatever the
    shard has. `awaited`: a client waits for a result. `events`: how many the batches have. `deferred` has the writes that
    are left to the stale queue (one bit each) by batch; the batches are without them.
    """

    after: int
    end: int
    batches: list[Placed] = field(default_factory=list)
    undecodable: list[tuple[Entry, str]] = field(default_factory=list)
    size: int = 0
    reads: set[str] = field(default_factory=set)
    awaited: bool = False
    events: int = 0
    deferred: dict[bytes, int] = field(default_factory=dict)
    _planning: Planning = field(default_factory=lambda: Planning({}, frozenset()))

    @property
    def plan(self) -> Plan | None:
        """The plan of all batches, or None if it depends on rows or on the effects of events."""
        return None if self.reads or not self._planning.complete else self._planning.plan

    @property
    def entries(self) -> int:
        """Number of entries, decodable or not."""
        return len(self.batches) + len(self.undecodable)

    @property
    def is_full(self) -> bool:
        """Whether it takes no more, even of few batches."""
        return self.size >= _MOST_BYTES or self.events >= _MOST_EVENTS

    def deferring(self, before: int, decided: Set[bytes] = frozenset()) -> Window:
        """The same window without what is unconditional in batches before a position: that is deferred.

        Not those of counters that a later `If-Match` of this window is about. It may have been answered by a primary that
        was lost with its last commits, which had applied them. But what has been `decided` to be deferred is deferred: an
        `If-Match` may have been answered without it.
        """
        after = Window(self.after, self.end, undecodable=self.undecodable, size=self.size)
        for placed, keys in zip(self.batches, _matched_later(self.batches), strict=True):
            left = placed.batch.unconditional
            is_free = not keys or placed.batch.id in decided or keys.isdisjoint(left.keys)
            if placed.position < before and is_free and (writes := writes_of(left)):
                after.deferred[placed.batch.id] = writes
                after._take(Placed(placed.position, placed.batch.conditional))
            else:
                after._take(placed)
        return after

    def until(self, before: int) -> Window:
        """The part of the window before a position."""
        if self.end < before:
            return self
        part = Window(self.after, self.after, undecodable=[one for one in self.undecodable if one[0].position < before])
        for placed in self.batches:
            if placed.position < before:
                part._take(placed)
        ends = [one.position for one in part.batches] + [entry.position for entry, _ in part.undecodable]
        part.end, part.size = max([self.after, *ends]), self.size
        return part

    def add(self, id: bytes, position: int, data: bytes | None, *, unconditional: bool = False) -> None:
        """Add the next entry, or what is unconditional in it; `data` is None if another shift has just completed it."""
        if data is not None:
            try:
                decoded = batch.decode(data)
                self._take(Placed(position, decoded.unconditional if unconditional else decoded))
                self.size += len(data)
            except batch.BadBatch as error:
                self.undecodable.append((Entry(UUID(bytes=id), position), str(error)))
        self.end = position

    def _take(self, placed: Placed) -> None:
        self.batches.append(placed)
        self.awaited = self.awaited or placed.batch.reply_to is not None
        self.events += placed.batch.events
        self.reads |= keys_to_read([placed], 0)
        if not self.reads and self._planning.complete:
            self._planning.take(placed)


def _matched_later(batches: Sequence[Placed]) -> list[Set[str]]:
    """For each batch, the keys of operations with `If-Match` in it or behind it."""
    found: list[Set[str]] = []
    keys: Set[str] = frozenset()
    for _, one in reversed(batches):
        own = {step.key for _, step in one.segments if isinstance(step, Step) and step.if_version is not None}
        keys = keys | own if own else keys
        found.append(keys)
    return found[::-1]


def writes_of(one: Batch) -> int:
    """The writes of its flush that a batch has, one bit each."""
    bits = 0
    for index, _ in one.segments:
        bits |= 1 << index
    return bits


class Loader:
    """Reads one lane's journal for its shift. Not thread-safe.

    Of the batches in a stale queue it takes what was deferred: the rest was applied before they came there.
    """

    def __init__(self, lane: Lane, wake_ups: WakeUps, confirmed: Confirmed) -> None:
        self._journal, self._deferred = Journal(lane), lane.queue == STALE
        self._wake_ups, self._confirmed = wake_ups, confirmed
        self._next, self._history = Window(0, 0), b""

    def take(self, after: int, most: int) -> Window:
        """Return at most `most` batches after a position. Batches appended before this call are seen.

        Raises `RedisError`, `JournalUnavailable`: not all copies of the journal have them.
        """
        self._wake_ups.forget()  # they announce what is read now
        if self._next.after != after or self._next.entries > most:
            self._next = Window(after, after)
        while self._fill(most):
            pass
        taken, self._next = self._next, Window(self._next.end, self._next.end)
        if taken.entries:
            self._confirmed.check(self._history, taken.end)
        return taken

    def take_late(self, late: Sequence[Entry]) -> Iterator[Window]:
        """These entries, each in a window of its own. Raises as `take`."""
        for entry in late:
            history, found = self._journal.read(entry.position - 1, 1, 1)
            window = Window(0, 0)
            for id, position, data in found:
                if id == entry.id.bytes:  # else another shift has just completed it
                    self._confirmed.check(history, position)
                    window.add(id, position, data)
            yield window

    def rest(self, seconds: float, most: int) -> None:
        """Let the next window grow and read it ahead, at most until a client waits for one of its results or it is full.

        Raises `RedisError`, `JournalUnavailable`.
        """
        until = time.monotonic() + seconds
        while (left := until - time.monotonic()) > 0 and not (self._next.awaited or self._next.is_full):
            if self._wake_ups.wait(min(left, _LOOK_SECONDS)):
                return
            while self._fill(most):
                pass

    def _fill(self, most: int) -> bool:
        """Read one chunk of the next window. Returns whether more is likely."""
        room = min(_CHUNK, most - self._next.entries)
        if room <= 0 or self._next.is_full:
            return False
        history, found = self._journal.read(self._next.end, room, _CHUNK_BYTES)
        if self._next.entries and history != self._history:
            raise JournalUnavailable("the journal has another primary now; its entries are read again")
        self._history = history
        for id, position, data in found:
            self._next.add(id, position, data, unconditional=self._deferred)
        return len(found) == room or sum(len(data or b"") for _, _, data in found) >= _CHUNK_BYTES
