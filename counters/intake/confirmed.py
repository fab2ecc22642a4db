"""What all copies of the journal have: a shift applies nothing else.

A failover of the journal loses writes that its replicas had not confirmed, in all lanes at once. Had a shift applied
such a write in one of them, it would be counted in part, and its idempotency record would answer a repeat as accepted.

A confirmation covers everything that the server has at that moment, so one is enough for many windows: it is kept as a
position of the journal's clock. It holds for one history only, Redis' replication id. A server that was cut off may
still have entries that nobody confirms, and the clock of its successor is soon past them.
"""

from __future__ import annotations

from threading import Lock
from typing import Any

from django.conf import settings

from counters.intake import journal
from counters.intake.journal import JournalUnavailable, TooFewCopies
from runtime import redis


class Confirmed:
    """Up to where the journal's replicas have everything on disk. One for all shifts of a process: who waits while another
    one asks often finds the answer for both."""

    def __init__(self) -> None:
        self._history, self._through = b"", 0
        self._waits = True  # with one copy alone, waiting for confirmations would take seconds
        self._lock = Lock()

    def check(self, history: bytes, position: int) -> None:
        """Return once all replicas have what a server of this history had up to a position, or while writes are accepted
        with one copy. Raises `TooFewCopies`, `JournalUnavailable` (the history has ended), `RedisError`."""
        if not settings.TALLY.journal_replicas or self._covers(history, position):
            return
        with self._lock:
            if not self._covers(history, position):
                self._ask()
        if not self._covers(history, position):
            raise JournalUnavailable("the journal has another primary now; its entries are read again")

    def _covers(self, history: bytes, position: int) -> bool:
        known, through = self._history, self._through
        return known == history and position <= through

    def _ask(self) -> None:
        (state, history, clock), *replies = self._asked()
        if state == b"confirm" and not replies:
            self._waits = True
            (state, history, clock), *replies = self._asked()
        self._waits = state != b"alone"
        if state == b"uncovered" or (state == b"confirm" and not redis.is_confirmed(replies)):
            # Its server may be the primary no more: the Sentinels know.
            redis.journal().connection_pool.disconnect(inuse_connections=False)
            raise TooFewCopies("too few replicas of the journal have the entries on disk; they are not applied yet")
        self._history, self._through = history, int(clock)

    def _asked(self) -> list[Any]:
        """The replies to the script and to the confirmation, which must go the same connection."""
        with redis.journal().pipeline(transaction=False) as pipe:
            keys = [journal.CLOCK, journal.ONE_COPY]
            journal.registered("confirm")(keys, [settings.TALLY.journal_replicas], client=pipe)
            for command in redis.confirmation() if self._waits else ():
                pipe.execute_command(*command)
            replies: list[Any] = pipe.execute()
        return replies
