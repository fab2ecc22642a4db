"""The sizes that the messages of an Arrow IPC stream declare, read before pyarrow reads the stream. Pure.

A few bytes of an Arrow stream can demand any amount of memory: compressed buffers declare their decompressed size, and
the metadata (a flatbuffer) may refer to one string many times. So `measure` reads the frame and the sizes of each
message. It does not validate them: pyarrow does, once the sizes are known to be harmless.

The format: https://arrow.apache.org/docs/format/IPC.html, with the tables of Message.fbs.
"""

from __future__ import annotations

import struct
from typing import NamedTuple

MAX_MESSAGES = 256
MAX_METADATA_BYTES = 16 * 1024  # of one message; two columns need a few hundred

_CONTINUATION = b"\xff\xff\xff\xff"
_SCHEMA, _DICTIONARY, _RECORDS = 1, 2, 3  # MessageHeader
_NOT_COMPRESSED = -1

_u16, _i32, _u32, _i64 = (struct.Struct(code).unpack_from for code in ("<H", "<i", "<I", "<q"))


class BadStream(ValueError):
    """The bytes are not a stream of messages, or a message is not supported."""


class Size(NamedTuple):
    """`rows`: rows of all record batches. `memory`: bytes of all buffers, decompressed.

    `reached`: bytes that are read in all, if each record batch is read along with all dictionaries before it.
    """

    rows: int = 0
    memory: int = 0
    reached: int = 0


class _Table(NamedTuple):
    """A table of a flatbuffer, at a place in the stream."""

    data: bytes
    place: int

    def at(self, field: int) -> int | None:
        """The place of a field; None if the table does not have it."""
        vtable = self.place - _i32(self.data, self.place)[0]
        if vtable < 0 or 4 + 2 * field >= _u16(self.data, vtable)[0]:
            return None
        offset: int = _u16(self.data, vtable + 4 + 2 * field)[0]
        return self.place + offset if offset else None

    def integer(self, field: int) -> int:
        """A 64-bit field; 0 by default."""
        place = self.at(field)
        return 0 if place is None else int(_i64(self.data, place)[0])

    def pointer(self, field: int) -> int | None:
        """The place of the table or vector that a field points to; None if the field is missing."""
        place = self.at(field)
        return None if place is None else place + int(_u32(self.data, place)[0])

    def table(self, field: int) -> _Table:
        """The table that a field points to. Raises `BadStream` if there is none."""
        place = self.pointer(field)
        if place is None:
            raise BadStream("a message lacks a part")
        return _Table(self.data, place)


def measure(data: bytes) -> Size:
    """The size of a whole stream. Raises `BadStream`."""
    size, dictionaries, place = Size(), 0, 0
    try:
        for number in range(MAX_MESSAGES):
            message, body, place = _next(data, place)
            kind = _SCHEMA if message is None else _kind(message)
            if (message is None or kind != _SCHEMA) == (number == 0):
                raise BadStream("the first message, and no other, must be a schema")
            if message is None:
                return _ended(data, place, size)
            if kind == _SCHEMA:
                continue
            header = message.table(2)
            if kind == _DICTIONARY:
                memory = _memory(header.table(1), body, place)
                dictionaries += memory
                size = size._replace(memory=size.memory + memory)
            else:
                memory = _memory(header, body, place)
                rows = size.rows + max(0, header.integer(0))
                size = Size(rows, size.memory + memory, size.reached + memory + dictionaries)
    except struct.error:
        raise BadStream("a message is truncated") from None
    raise BadStream(f"it has more than {MAX_MESSAGES:,} messages")


def _next(data: bytes, place: int) -> tuple[_Table | None, int, int]:
    """The message at a place (None at the end of the stream), and the places where its body begins and ends. Raises
    `BadStream`, `struct.error`."""
    if place == len(data):
        raise BadStream("its end is missing")  # the format allows that, but a truncated stream would look complete
    if data[place : place + 4] != _CONTINUATION:
        raise BadStream("a message does not begin as those of Arrow 0.15 and later do")
    length = _i32(data, place + 4)[0]
    place += 8
    if length == 0:
        return None, place, place
    if not 0 < length <= MAX_METADATA_BYTES:
        raise BadStream(f"a message has metadata of {length:,} bytes; {MAX_METADATA_BYTES:,} at most")
    body = place + length
    message = _Table(data, place + _u32(data, place)[0])
    end = body + message.integer(3)
    if not body <= end <= len(data):
        raise BadStream("a message is truncated")
    return message, body, end


def _ended(data: bytes, place: int, size: Size) -> Size:
    if place != len(data):
        raise BadStream("trailing bytes after its end")
    return size


def _kind(message: _Table) -> int:
    place = message.at(1)
    kind = 0 if place is None else message.data[place] if place < len(message.data) else 0
    if kind not in (_SCHEMA, _DICTIONARY, _RECORDS):
        raise BadStream("a message is neither a schema nor a dictionary nor a record batch")
    return kind


def _memory(records: _Table, body: int, end: int) -> int:
    """Decompressed bytes of a record batch's buffers; a compressed buffer begins with its decompressed size."""
    vector = records.pointer(2)
    if records.at(3) is None or vector is None:
        return end - body
    total = 0
    for number in range(min(_u32(records.data, vector)[0], MAX_METADATA_BYTES // 16)):
        offset, length = struct.unpack_from("<qq", records.data, vector + 4 + 16 * number)
        if length == 0:
            continue
        if offset < 0 or length < 8 or body + offset + length > end:
            raise BadStream("a buffer lies outside of its message")
        size = _i64(records.data, body + offset)[0]
        total += length - 8 if size == _NOT_COMPRESSED else max(0, size)
    return total
