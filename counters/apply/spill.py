"""A shift of a spill queue: increments that were spilled, applied at a low rate that rises while the shard is idle.

It is a `Shift` with these differences:

- *Nothing overtakes a set.* A spilled batch is applied only when everything that stands before it in the lane's journal
  has been: otherwise a set that was accepted earlier would replace a value that has it already, and void it. So a window
  ends before the first entry of the fresh queue that this server has not applied. Entries are looked for after the window
  was read: the journal's clock only rises, so none comes to stand before it later.
- *A set voids what was accepted before it*, wherever that lies: an increment older than the row's `set_version` is not
  counted, as with batches that were set aside and retried.
- It has no cursor: batches come into a stale queue in any order. What the ledger has is completed, the rest is applied.
- Between two windows it rests, so that it takes at most `TALLY_SPILL_SHARE` of the time while the shard has fresh
  increments.
"""

from __future__ import annotations

import time
from typing import Any

import psycopg
from django.conf import settings

from counters.apply.loading import Window
from counters.apply.pace import MOST_BATCHES
from counters.apply.shift import CURSOR, Shift
from counters.intake import journal
from counters.intake.journal import Journal
from sharding.lanes import FRESH

_LOOK_SECONDS = 0.1  # between looks at what the fresh queue has still to apply
_FOREVER = 2**53  # after every position


class SpillShift(Shift):
    """Applies one spill queue."""

    def _resume(self, conn: psycopg.Connection[Any]) -> None:
        """Complete what earlier shifts have applied, as far as one window goes, and begin with the first of the rest."""
        self._completion.forget()
        left = self._journal.entries(limit=MOST_BATCHES)
        applied = self._adopt(conn, left) if left else set()
        open_entries = (entry.position - 1 for entry in left if entry.id not in applied)
        self._cursor = next(open_entries, left[-1].position if left else 0)

    def _taken(self, conn: psycopg.Connection[Any]) -> Window:
        head = self._journal.entries(after=self._cursor, limit=1)
        if not head or head[0].position >= self._first_fresh(conn):
            return Window(self._cursor, self._cursor)
        window = super()._taken(conn)
        return window.until(self._first_fresh(conn))

    def _first_fresh(self, conn: psycopg.Connection[Any]) -> int:
        """The position of the first entry of the fresh queue that this server has not applied."""
        fresh = self.lane.of(FRESH)
        row = conn.execute(CURSOR, (fresh.number,)).fetchone()
        first = Journal(fresh).entries(after=row[0] if row else 0, limit=1)
        return first[0].position if first else _FOREVER

    def _without_stale(self, window: Window) -> Window:
        return window

    def _rest(self, window: Window, seconds: float) -> None:  # noqa: ARG002 - how much was applied is in the time
        """Rest as long as the share of a spill queue asks for, unless the shard is idle."""
        self._pace.took(seconds)
        until = time.monotonic() + seconds * (1 / settings.TALLY.spill_share - 1)
        while (left := until - time.monotonic()) > 0 and journal.backlog(self.lane.shard).increments:
            if self._stopping.wait(min(left, _LOOK_SECONDS)):
                return
            self._renew()

    def _lingered(self, conn: psycopg.Connection[Any]) -> bool:
        """Wait for the fresh queue or for replicas. Returns whether nothing is left and the lease was released."""
        self._stopping.wait(_LOOK_SECONDS)
        self._completion.complete(conn)
        return not self._has_more() and self._released()

    def _end(self, conn: psycopg.Connection[Any]) -> bool:
        self._farewell(conn)
        return (self._has_more() or not self._released()) and self._handed_over()

    def _has_more(self) -> bool:
        """Whether there is anything that no transaction of this shift has applied."""
        return self._journal.depth() > self._completion.count

    def _released(self) -> bool:
        return self._lease.release(self._holder, _FOREVER)
