"""Turns: a process decodes one large body at a time, and rests between two while small writes are late.

With more at once, their threads and the event loop mostly wait for the interpreter lock. And a process that always decodes
leaves the loop, the journal and the workers too little: a small write then waits at each step of its way
(docs/performance.md, "Overload").
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from threading import Lock
from time import monotonic, sleep

from prometheus_client import Counter

LOOK_SECONDS = 0.5  # that a mean is taken of
FEWEST = 8  # of small writes that a mean is taken of; what is missing counts as 0 s
RESTED = Counter("tally_bodies_rested_seconds_total", "Time that bodies have rested because small writes were late")


class Turns:
    """`late`: if small writes take so many seconds to the journal, bodies rest as long as they took; if half of that, half
    as long; never longer than they took. 0: bodies never rest."""

    def __init__(self, late: float) -> None:
        self.rest = 0.0  # after a body, as a part of what it took
        self._late = late or float("inf")
        self._sum, self._count = 0.0, 0  # of what small writes took since the last look
        self._looked = monotonic()
        self._next = 0.0  # when the next body may begin
        self._turn = Lock()

    def note(self, seconds: float) -> None:
        """A small write took so long to the journal."""
        self._sum += seconds
        self._count += 1

    @contextmanager
    def taken(self) -> Iterator[None]:
        """Hold the turn while the block runs, in a thread."""
        with self._turn:
            pause = self._next - monotonic()
            if pause > 0:
                sleep(pause)
                RESTED.inc(pause)
            began = monotonic()
            try:
                yield
            finally:
                ended = monotonic()
                if ended - self._looked >= LOOK_SECONDS:
                    self._look(ended)
                self._next = ended + self.rest * (ended - began)

    def _look(self, now: float) -> None:
        self.rest = min(1.0, self._sum / max(self._count, FEWEST) / self._late)
        self._sum, self._count, self._looked = 0.0, 0, now
