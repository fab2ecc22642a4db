"""What events may add to counts, for `?pending=true`."""

from __future__ import annotations

from collections.abc import Iterator

from counters.batch import Events
from counters.reading.pending import Effect
from likes.events import moment
from likes.names import is_count


def effects(events: Events, version: int) -> Iterator[Effect]:
    """One more like, or one less, of each event by item, as if it changed the state of its user and item."""
    for key, other, at, liked, id in zip(events.keys, events.others, *events.columns, strict=True):
        if is_count(key):
            yield Effect(key, other, (moment(at, version), id, liked), 1 if liked else -1)
