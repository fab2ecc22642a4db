"""The batch: what one flush writes to one lane, as bytes. Pure.

A batch is a list of segments, one for each write that touches the lane. The request encodes its segment once, so a
flush costs the same whatever it contains, and a rejected operation can still be traced to its write. The request folds
within its segment, the worker over all segments of a window.

Encoded as msgpack by msgspec. The first element is the format's version, so a worker recognises a batch that it does
not understand.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence, Set
from typing import Annotated, Any, ClassVar, Literal, Self
from uuid import UUID

import msgspec
from msgspec import Meta

from counters.operations import MAX_VALUE, MIN_VALUE

FORMAT = 1

Id = Annotated[bytes, Meta(min_length=16, max_length=16)]
Index = Annotated[int, Meta(ge=0, lt=2**31)]


class Increments(msgspec.Struct, array_like=True, tag="i", frozen=True, gc=False):
    """Folded increments of one write: `deltas[i]` is added to `keys[i]`; keys are unique.

    Elements are not checked: a delta that no counter can take is rejected alone, as an overflow (see `apply.plan`).
    """

    may_wait: ClassVar[bool] = True

    keys: list[str]
    deltas: list[int]

    def __post_init__(self) -> None:
        if len(self.keys) != len(self.deltas):
            raise ValueError("keys and deltas differ in number")

    def restricted_to(self, keys: Set[str]) -> Increments:
        """The part on these keys."""
        pairs = [pair for pair in zip(self.keys, self.deltas, strict=True) if pair[0] in keys]
        return Increments([key for key, _ in pairs], [delta for _, delta in pairs])

    def without_twins_of(self, keys: Set[str]) -> Self:  # noqa: ARG002
        """Itself: only `Events` have twins."""
        return self

    def needs_row(self, position: int, last_set_version: int, last_version: int) -> bool:  # noqa: ARG002
        """Whether the result depends on the existing row.

        The versions are the lane's newest applied ones: of sets, and of all writes.
        """
        return position < last_set_version


class Step(msgspec.Struct, array_like=True, tag="s", frozen=True, gc=False):
    """One operation with a result: `set` and `reset` always, `increment` if a client waits for it. Nothing folds across
    it."""

    may_wait: ClassVar[bool] = False

    key: str
    kind: Literal["increment", "set", "reset"]
    operand: Annotated[int, Meta(ge=MIN_VALUE, le=MAX_VALUE)]
    if_version: int | None = None

    @property
    def keys(self) -> Sequence[str]:
        """Its one key."""
        return (self.key,)

    def restricted_to(self, keys: Set[str]) -> Self:  # noqa: ARG002
        """The step itself: `keys` has its key."""
        return self

    def without_twins_of(self, keys: Set[str]) -> Self:  # noqa: ARG002
        """Like `Increments.without_twins_of`."""
        return self

    def needs_row(self, position: int, last_set_version: int, last_version: int) -> bool:  # noqa: ARG002
        """Like `Increments.needs_row`."""
        return self.kind == "increment" or self.if_version is not None or position <= last_version


class Events(msgspec.Struct, array_like=True, tag="e", frozen=True, gc=False):
    """Events of one write that another room applies (`counters.apply.effects`), in columns: event i is placed by `keys[i]`.
    What they add to counters is decided in the transaction that applies them.

    Each event has a twin, with key and other exchanged, in the same write: one is never accepted without the other.
    `columns` are the room's own, each as long as `keys`. `awaited`: a client waits for the result of the first event.
    """

    kind: str
    keys: list[str]
    others: list[str]
    columns: list[list[Any]]
    awaited: bool = False

    def __post_init__(self) -> None:
        if {len(column) for column in (self.others, *self.columns)} - {len(self.keys)}:
            raise ValueError("columns differ in length")

    def restricted_to(self, keys: Set[str]) -> Events:
        """The events on these keys."""
        return self._at([place for place, key in enumerate(self.keys) if key in keys])

    def without_twins_of(self, keys: Set[str]) -> Events:
        """The events whose twin is not on these keys; itself, if those are all."""
        if keys.isdisjoint(self.others):
            return self
        return self._at([place for place, other in enumerate(self.others) if other not in keys])

    def _at(self, places: list[int]) -> Events:
        keys, others, *columns = (
            [column[place] for place in places] for column in (self.keys, self.others, *self.columns)
        )
        return Events(self.kind, keys, others, columns, self.awaited)

    def needs_row(self, position: int, last_set_version: int, last_version: int) -> bool:  # noqa: ARG002
        """Like `Increments.needs_row`: whoever waits is told the count."""
        return self.awaited

    @property
    def may_wait(self) -> bool:
        """Like `Increments.may_wait`."""
        return not self.awaited


Operation = Increments | Step | Events


class Token(msgspec.Struct, array_like=True, frozen=True, gc=False):
    """An idempotency key in use: `token` identifies caller and key, `record` is what a repeat needs (see
    `intake.idempotency`)."""

    token: bytes
    record: bytes


class Batch(msgspec.Struct, array_like=True, frozen=True):
    """`segments` are pairs (index of the write, its operation); `reply_to` is the channel for awaited results."""

    format: int
    id: Id
    segments: list[tuple[Index, Operation]]
    tokens: list[Token]
    reply_to: str | None = None

    @property
    def uuid(self) -> UUID:
        return UUID(bytes=self.id)

    @property
    def unconditional(self) -> Batch:
        """What no client waits for, and what may be applied in any order: it may be left to the stale queue. Its
        idempotency records stay with the rest."""
        parts = [part for part in self.segments if part[1].may_wait]
        return Batch(self.format, self.id, parts, [])

    @property
    def conditional(self) -> Batch:
        """The rest: operations with a result."""
        parts = [part for part in self.segments if not part[1].may_wait]
        return Batch(self.format, self.id, parts, self.tokens, self.reply_to)

    @property
    def keys(self) -> Iterator[str]:
        """Every key that the batch touches, possibly more than once."""
        return (key for _, operation in self.segments for key in operation.keys)

    @property
    def operations(self) -> int:
        """Number of folded operations: one for each key of a write."""
        return sum([len(operation.keys) for _, operation in self.segments])

    @property
    def events(self) -> int:
        """Number of events."""
        return sum([len(operation.keys) for _, operation in self.segments if isinstance(operation, Events)])


class _Encoded(msgspec.Struct, array_like=True, frozen=True):
    format: int
    id: bytes
    segments: list[tuple[int, msgspec.Raw]]
    tokens: list[Token]
    reply_to: str | None


class BadBatch(ValueError):
    """The bytes are not a batch, or have an unknown format."""


_encoder = msgspec.msgpack.Encoder()
_INCREMENTS = b"\x93" + _encoder.encode("i")  # an array of three: the tag of `Increments`, keys, deltas
_decoder = msgspec.msgpack.Decoder(Batch)
_operation: msgspec.msgpack.Decoder[Operation] = msgspec.msgpack.Decoder(Operation)
_elements = msgspec.msgpack.Decoder(list[msgspec.Raw])
_tokens = msgspec.msgpack.Decoder(list[Token])


def encode_segment(operation: Operation) -> msgspec.Raw:
    """Encode one write's operation on one lane."""
    return msgspec.Raw(_encoder.encode(operation))


def decode_segment(encoded: msgspec.Raw) -> Operation:
    """Decode what `encode_segment` encoded."""
    return _operation.decode(encoded)


def encode_columns(count: int, keys: bytes | memoryview, deltas: list[int]) -> msgspec.Raw:
    """Like `encode_segment`, for increments with encoded keys: `keys` is `count` concatenated msgpack strings."""
    return msgspec.Raw(b"".join((_INCREMENTS, _array_header(count), keys, _encoder.encode(deltas))))


def _array_header(count: int) -> bytes:
    """msgpack's header of an array of `count` elements."""
    return b"\xdd" + count.to_bytes(4, "big")


def encode(id: UUID, segments: list[tuple[int, msgspec.Raw]], tokens: list[Token], reply_to: str | None) -> bytes:
    """Encode a batch from encoded segments."""
    return _encoder.encode(_Encoded(FORMAT, id.bytes, segments, tokens, reply_to))


def tokens_of(data: bytes) -> list[Token]:
    """The idempotency tokens of an encoded batch; none if the bytes are not a batch. Does not decode the segments."""
    try:
        return _tokens.decode(_elements.decode(data)[3])
    except (msgspec.DecodeError, IndexError):
        return []


def decode(data: bytes) -> Batch:
    """Decode a batch. Raises `BadBatch`."""
    try:
        batch = _decoder.decode(data)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise BadBatch(f"not a batch of format {FORMAT}: {error}") from error
    if batch.format != FORMAT:
        raise BadBatch(f"not a batch of format {FORMAT}: it has format {batch.format}")
    return batch
