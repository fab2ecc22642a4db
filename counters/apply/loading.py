"""The loader: reads a lane's journal, decodes and folds, also ahead of time while the shift rests.

A `Window` is a run of the journal without gaps: every entry that stood between `after` and `end` when it was read. It
is read before the lane's lock is taken, so by the time it is applied another shift may have applied a part of it, or
all. It is right all the same:

- Nothing is put into a run later: the clock of the journal only rises. (A batch that was set aside and is retried by
  hand is late, and planned as such, see `plan`.)
- Whatever has left the journal was committed: completion alone removes it. So a run that has nothing means that nothing
  is left to do.
- What is applied of a lane is always the beginning of its journal. A shift applies a run only where it continues what
  the shard had applied when the shift began, and what the shift has committed itself (`Window.after` is its cursor),
  under the lock, and without what the ledger has. If another shift went further than this run, the ledger has all of
  it; if not so far, what is left is the next in order.
- What is folded ahead is used only if the ledger has none of the run and nothing in it depends on rows; else it is
  planned anew.
- Reading changes nothing, so a run may be thrown away: after a failover, or to take batches singly, the shift asks for
  another beginning.
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

_CHUNK = 64  # batches that are read at once
_MOST_BYTES = 64 * 1024 * 1024  # of batches in a window
_LOOK_SECONDS = 0.1  # between looks at the journal during a rest


@dataclass(slots=True)
class Window:
    """Batches beyond the position `after` up to `end`, in order; `size` is in bytes.

    `undecodable` are to be set aside, each with the reason. `reads` are the keys whose rows some operation needs,
    whatever the shard has. `awaited`: somebody waits for a result.
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
        """What all of it does, if that depends on no row."""
        return None if self.reads else self._planning.plan

    @property
    def entries(self) -> int:
        """How many entries it has, good and bad."""
        return len(self.batches) + len(self.undecodable)

    def add(self, id: bytes, position: int, data: bytes | None) -> None:
        """The next entry; `data` is None if another shift has just completed it."""
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
        """What the journal has beyond a position, `most` batches at most: whatever was appended before this call is
        seen.

        Raises `RedisError`.
        """
        self._wake_ups.forget()  # they tell of what is read now
        if self._next.after != after or self._next.entries > most:
            self._next = Window(after, after)
        while self._fill(most):
            pass
        taken, self._next = self._next, Window(self._next.end, self._next.end)
        return taken

    def rest(self, seconds: float, most: int) -> None:
        """Let the next window grow, and read it ahead; no longer than until it has something that somebody waits for.

        Raises `RedisError`.
        """
        until = time.monotonic() + seconds
        while (left := until - time.monotonic()) > 0 and not self._next.awaited:
            if self._wake_ups.wait(min(left, _LOOK_SECONDS)):
                return
            while self._fill(most):
                pass

    def _fill(self, most: int) -> bool:
        """Read one chunk of the next window; whether there is likely more for it."""
        room = min(_CHUNK, most - self._next.entries)
        if room <= 0 or self._next.size >= _MOST_BYTES:
            return False
        found = self._journal.read(self._next.end, room)
        for id, position, data in found:
            self._next.add(id, position, data)
        return len(found) == room
