"""Events: a user likes an item, or does no longer. Pure.

Events of one user and item are ordered by their moment, then by their id; the newest decides. So the state of a user and
an item is that of the newest event, whatever the order in which events are applied, and however often.

The moment of an event is its timestamp, but not later than the journal's position of its write: so nothing that a client
states can beat what is accepted afterwards. An event without a timestamp has the position as its moment.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from contextlib import suppress
from typing import NamedTuple

NOW = 2**53 - 1  # the timestamp of an event that states none: after every position
MAX_ID_BYTES = 256


class Event(NamedTuple):
    """`at`: microseconds since 1970, or `NOW`; `id`: 16 bytes of a UUID, UTF-8 of any other id, or empty."""

    item: str
    user: str
    liked: bool
    at: int = NOW
    id: bytes = b""


class Received(NamedTuple):
    """The events of a body. `prints[i]` identifies the i-th (`likes.known`), if that was asked for. `repeats`: how many more
    there were, which are known already."""

    events: Sequence[Event]
    prints: Sequence[bytes] = ()
    repeats: int = 0

    @property
    def number(self) -> int:
        """How many events the body had."""
        return len(self.events) + self.repeats

    def and_more(self, others: Received) -> Received:
        """With those of another part of the body."""
        if not self.number:
            return others
        return Received([*self.events, *others.events], [*self.prints, *others.prints], self.repeats + others.repeats)


def moment(at: int, version: int) -> int:
    """The moment (microseconds since 1970) of an event of a write with this version."""
    return min(at, version)


def folded(events: Iterable[Event]) -> list[Event]:
    """Events of one write without repeats, in any order: of those with the same id the first, of those without an id the
    last that is not older. Those of a user and an item with different ids all stay: each id counts once for itself."""
    found: dict[tuple[str, str, bytes], Event] = {}
    for event in events:
        same = event.item, event.user, event.id
        known = found.get(same)
        if known is None or (event.at < known.at if event.id else event.at >= known.at):
            found[same] = event
    return list(found.values())


def id_of(text: str | None) -> bytes:
    """An event's `id`, of the text that a client gave it: 16 bytes if that is a UUID with its four hyphens."""
    if not text:
        return b""
    if len(text) == 36 and text[8] == text[13] == text[18] == text[23] == "-":
        with suppress(ValueError):
            found = bytes.fromhex(text.replace("-", ""))
            if len(found) == 16:
                return found
    return text.encode()


def ids_of(texts: Sequence[str]) -> list[bytes]:
    """The `id` of each event: at once, if all are UUIDs."""
    if set(map(len, texts)) == {36}:
        whole, count = "".join(texts), len(texts)
        if all(whole[place::36] == "-" * count for place in (8, 13, 18, 23)):
            with suppress(ValueError):
                found = bytes.fromhex(whole.replace("-", ""))
                if len(found) == 16 * count:
                    return [found[start : start + 16] for start in range(0, len(found), 16)]
    return list(map(id_of, texts))
