"""The loader: reads the journal ahead of the applier, decodes and folds, while PostgreSQL writes what came before.

A `Window` is a run of the journal without gaps: every entry that stood between `after` and `end` when it was read. It is read before the
shard's lock is taken, so by the time it is applied another worker may have applied a part of it, or all. It is right all the same:

- Nothing is put into a run later: the clock of the journal only rises. (A batch that was set aside and is retried by hand is late, and
  planned as such, see `plan`.)
- Whatever has left the journal was committed: completion alone removes it. So a run that has nothing means that nothing is left to do.
- What is applied of a shard is always the beginning of its journal. A worker applies a run only where it continues the runs that it has
  committed itself (`Window.after` is its cursor), under the lock, and without what the ledger has. If another worker went further than
  this run, the ledger has all of it; if not so far, what is left is the next in order.
- What is folded ahead is used only if the ledger has none of the run and nothing in it depends on rows; else it is planned anew.
- Reading changes nothing, so a run may be thrown away: after a failover, or to take batches singly, the applier asks for another
  beginning.
"""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from threading import Event, Lock, Thread

import structlog

from counters.apply.plan import Placed, Plan, Planning, keys_to_read
from counters.intake import batch, journal
from counters.intake.journal import Entry

_CHUNK = 32  # batches that are read at once
_MOST_BYTES = 64 * 1024 * 1024  # of batches in a window
_PAUSE_SECONDS = 0.02  # between looks while the applier is busy
log = structlog.get_logger(__name__)


@dataclass(slots=True)
class Window:
    """Batches beyond the position `after` up to `end`, in order. `unfit` cannot be decoded, and why; `size` is in bytes.

    `reads` are the keys whose rows some operation needs whatever the shard has; `awaited`: somebody waits for a result.
    """

    after: int
    end: int
    batches: list[Placed] = field(default_factory=list)
    unfit: list[tuple[Entry, str]] = field(default_factory=list)
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
        return len(self.batches) + len(self.unfit)

    def add(self, entry: Entry, data: bytes | None) -> None:
        """The next entry; `data` is None if another worker has just completed it."""
        if data is not None:
            try:
                self._take(Placed(entry.position, batch.decode(data)))
                self.size += len(data)
            except batch.BadBatch as error:
                self.unfit.append((entry, str(error)))
        self.end = entry.position

    def _take(self, placed: Placed) -> None:
        self.batches.append(placed)
        self.awaited = self.awaited or placed.batch.reply_to is not None
        self.reads |= keys_to_read([placed], 0)
        if not self.reads:
            self._planning.take(placed)


class Loader:
    """Reads one shard's journal for its applier; a thread of its own reads while the applier is busy."""

    def __init__(self, shard: int) -> None:
        self.shard = shard
        self._lock = Lock()
        self._next = Window(0, 0)
        self._most = 1
        self._ahead = Event()
        self._awaited = Event()
        Thread(target=self._run, name=f"loader-{shard}", daemon=True).start()

    def take(self, after: int, most: int) -> Window:
        """What the journal has beyond a position, about `most` batches at most: whatever was appended before this call is seen.

        Raises `RedisError`.
        """
        self._ahead.clear()
        with self._lock:
            self._most = most
            if self._next.after != after:
                self._next = Window(after, after)
            while self._fill():
                pass
            taken, self._next = self._next, Window(self._next.end, self._next.end)
            self._awaited.clear()
        return taken

    def read_ahead(self) -> None:
        """The applier is busy from now on until it takes the next window."""
        self._ahead.set()

    def rest(self, seconds: float) -> None:
        """Let the next window grow; not longer than until it has something that somebody waits for."""
        self._awaited.wait(seconds)

    def _fill(self) -> bool:
        """Read one chunk of the next window; whether there is likely more for it."""
        room = min(_CHUNK, self._most - self._next.entries)
        if room <= 0 or self._next.size >= _MOST_BYTES:
            return False
        entries = journal.entries(self.shard, after=self._next.end, limit=room)
        try:
            for entry, data in zip(entries, journal.payloads(self.shard, [entry.id for entry in entries]), strict=True):
                self._next.add(entry, data)
        except BaseException:  # half of an entry may be in its sums
            self._next = Window(self._next.after, self._next.after)
            raise
        if self._next.awaited:
            self._awaited.set()
        return len(entries) == room

    def _run(self) -> None:
        while True:
            self._ahead.wait()
            time.sleep(_PAUSE_SECONDS)
            try:
                while self._fill_ahead():
                    pass
            except Exception as error:  # the applier will meet it itself, and knows what to do
                log.debug("read_ahead_failed", shard=self.shard, error=str(error))

    def _fill_ahead(self) -> bool:
        with self._lock:
            return self._ahead.is_set() and self._fill()
