"""What this process knows of the events that it accepted lately: a look that costs no round trip, before the quick look.

An event is remembered by its *print*, bytes that no other event has. A repeat with the same print changes nothing, as the
accepted event makes it void (`likes.recent.Entry.is_known`). So this is right however old it is, and whatever is forgotten is
only looked up again.

What is remembered belongs to a mark in the cache's Redis (`likes.recent.Recent.mark`). The mark goes with the entries of the
quick look: after a restore, which clears the cache, when a user is removed, and at the latest after
`TALLY_LIKES_RECENT_SECONDS`. With it, everything is forgotten. Pure.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

MOST = 250_000  # prints of each of two generations: about 40 MB, if a print has 80 bytes


class Known:
    """Prints under one mark. For all threads of a process; sets are changed by single operations."""

    def __init__(self, mark: bytes = b"", most: int = MOST) -> None:
        self.mark = mark
        self._most = most
        self._new: set[bytes] = set()
        self._old: set[bytes] = set()

    def places_of_unknown(self, prints: Sequence[bytes]) -> Sequence[int]:
        """Which of these are not remembered."""
        left = set(prints).difference(self._new)
        if left:
            left = left.difference(self._old)
        if not left:
            return ()
        return [place for place, one in enumerate(prints) if one in left]

    def add(self, prints: Iterable[bytes]) -> None:
        """Remember these, and forget the oldest if they become too many."""
        self._new.update(prints)
        if len(self._new) >= self._most:
            self._old, self._new = self._new, set()
