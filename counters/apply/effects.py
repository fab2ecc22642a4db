"""Effects: what other rooms do when their events are applied. Here is the seam; counters know no other room.

A room registers a handler for its kind of events (in `AppConfig.ready`). A transaction hands it the new events of a
window, after the ledger, under the lane's lock. The handler reads its rows and returns what the events add to counters,
and the statements that write its rows. So rows and counts are committed together (I2).

Until the statements are run, nothing is changed: a transaction that finds events of another lane forwards those and asks
the handler again (I6).
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple, Protocol

import msgspec
import psycopg

from counters.apply.plan import Counted, Placed
from counters.batch import Events, Increments, Operation


class Versioned(NamedTuple):
    """Events of one write, and its version."""

    version: int
    events: Events


class Statement(NamedTuple):
    """SQL and its arguments."""

    sql: str
    arguments: Mapping[str, Any]


@dataclass(slots=True)
class Effects:
    """`operations[i]` is what the i-th events add: increments, or, if a client waits for it, the event's own effect.

    `statements` write the rows of the room. `slots` are those of all keys of the events.
    """

    operations: list[Increments | Counted] = field(default_factory=list)
    statements: list[Statement] = field(default_factory=list)
    slots: Sequence[int] = ()


class Handler(Protocol):
    """Applies the events of one kind."""

    def apply(self, conn: psycopg.Connection[Any], found: Sequence[Versioned]) -> Effects:
        """What these events do, in the journal's order; it only reads. Each key belongs to one lane, which is locked.

        Raises `ValueError` for events that no version can apply: their batch is set aside.
        """

    def pinned(self, one: Versioned) -> Events:
        """The same events for a place in the journal with a higher version."""

    def committed(self, shard: int, found: Sequence[Versioned], now: int) -> None:
        """Told after the commit. `now`: the journal's time in microseconds."""


class UnknownKind(ValueError):
    """No room of this version applies events of this kind."""


_handlers: dict[str, Handler] = {}


def register(kind: str, handler: Handler) -> None:
    """Have events of a kind applied by a handler."""
    _handlers[kind] = handler


def _handler(kind: str) -> Handler:
    try:
        return _handlers[kind]
    except KeyError:
        raise UnknownKind(f"no room of this version applies events of the kind {kind!r}") from None


@dataclass(slots=True)
class Resolved:
    """Batches with the effects of their events in place of these. `events`, by kind, are those that were replaced."""

    batches: list[Placed]
    statements: list[Statement] = field(default_factory=list)
    slots: list[int] = field(default_factory=list)
    events: Mapping[str, Sequence[Versioned]] = field(default_factory=dict)


def resolve(conn: psycopg.Connection[Any], batches: list[Placed]) -> Resolved:
    """Ask the handlers for the effects of all events. Raises `psycopg.Error`, `ValueError`."""
    found: dict[str, list[Versioned]] = defaultdict(list)
    for position, batch in batches:
        for index, operation in batch.segments:
            if isinstance(operation, Events):
                found[operation.kind].append(Versioned(position + index, operation))
    if not found:
        return Resolved(batches)
    done = {kind: _handler(kind).apply(conn, events) for kind, events in found.items()}
    replacements = {kind: iter(effects.operations) for kind, effects in done.items()}

    def replaced(operation: Operation) -> Operation:
        return next(replacements[operation.kind]) if isinstance(operation, Events) else operation

    return Resolved(
        [
            Placed(
                position,
                msgspec.structs.replace(batch, segments=[(index, replaced(one)) for index, one in batch.segments]),
            )
            for position, batch in batches
        ],
        [statement for effects in done.values() for statement in effects.statements],
        [slot for effects in done.values() for slot in effects.slots],
        found,
    )


def pinned(operation: Operation, version: int) -> Operation:
    """The same operation for a place in the journal with a higher version. Raises `ValueError`."""
    if isinstance(operation, Events):
        return _handler(operation.kind).pinned(Versioned(version, operation))
    return operation


def committed(shard: int, events: Mapping[str, Sequence[Versioned]], now: int) -> None:
    """Tell the handlers what was committed; see `Handler.committed`."""
    for kind, found in events.items():
        _handler(kind).committed(shard, found, now)
