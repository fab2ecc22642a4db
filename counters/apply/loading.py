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
"""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from uuid import UUID

from counters import batch
from counters.apply.plan import Placed, Plan, Planning, keys_to_read
from counters.intake.journal import Entry, Journal
from counters.intake.lease import WakeUps
from sharding.lanes import Lane

_CHUNK = 64  # batches read at once
_MOST_BYTES = 64 * 1024 * 1024  # of batches in a window
_LOOK_SECONDS = 0.1  # between looks at the journal during a rest


@dataclass(slots=True)
class Window:
    """Batches after the position `after`, up to `end`, in order; `size` is in bytes.

    `undecodable` are to be set aside, each with the reason. `reads` are the keys whose rows are needed whatever the
    shard has. `awaited`: a client waits for a result.
    """

    after: int
    end: int
    batches: list[Placed] = field(default_factory=list)
    undecodable: list[tuple[Entry, str]] = field(default_factory=list)
    size: int = 0
    reads: set[str] = field(default_factory=set)
    awaited: bool = False
    _planning: Planning = field(default_factory=lambda: Planning({}, frozenset()))

    @property
    def plan(self) -> Plan | None:
        """The plan of all batches, or None if it depends on rows."""
        return None if self.reads else self._planning.plan

    @property
    def entries(self) -> int:
        """Number of entries, decodable or not."""
        return len(self.batches) + len(self.undecodable)

    def add(self, id: bytes, position: int, data: bytes | None) -> None:
        """Add the next entry; `data` is None if another shift has just completed it."""
        if data is not None:
            try:
                self._take(Placed(position, batch.decode(data)))
                self.size += len(data)
            except batch.BadBatch as error:
                self.undecodable.append((Entry(UUID(bytes=id), position), str(error)))
        self.end = position

    def _take(self, placed: Placed) -> None:
        self.batches.append(placed)
        self.awaited = self.awaited or placed.batch.reply_to is not None
        self.reads |= keys_to_read([placed], 0)
        if not self.reads:
            self._planning.take(placed)


class Loader:
    """Reads one lane's journal for its shift. Not thread-safe."""

    def __init__(self, lane: Lane, wake_ups: WakeUps) -> None:
        self._journal = Journal(lane)
        self._wake_ups = wake_ups
        self._next = Window(0, 0)

    def take(self, after: int, most: int) -> Window:
        """Return at most `most` batches after a position. Batches appended before this call are seen.

        Raises `RedisError`.
        """
        self._wake_ups.forget()  # they announce what is read now
        if self._next.after != after or self._next.entries > most:
            self._next = Window(after, after)
        while self._fill(most):
            pass
        taken, self._next = self._next, Window(self._next.end, self._next.end)
        return taken

    def rest(self, seconds: float, most: int) -> None:
        """Let the next window grow and read it ahead, at most until a client waits for one of its results.

        Raises `RedisError`.
        """
        until = time.monotonic() + seconds
        while (left := until - time.monotonic()) > 0 and not self._next.awaited:
            if self._wake_ups.wait(min(left, _LOOK_SECONDS)):
                return
            while self._fill(most):
                pass

    def _fill(self, most: int) -> bool:
        """Read one chunk of the next window. Returns whether more is likely."""
        room = min(_CHUNK, most - self._next.entries)
        if room <= 0 or self._next.size >= _MOST_BYTES:
            return False
        found = self._journal.read(self._next.end, room)
        for id, position, data in found:
            self._next.add(id, position, data)
        return len(found) == room
