"""Increments from a file: lines of CSV or NDJSON in, chunks of folded increments out. Pure.

Chunk n is the n-th run of `size` non-blank lines (without a CSV's header), including bad ones. So the same file yields
the same chunks in every run, and a chunk's number and bytes identify it.
"""

from __future__ import annotations

import csv
import re
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from hashlib import blake2b
from typing import Literal

import msgspec

from counters.keys import KEY_RULE, is_key
from counters.operations import in_range

Format = Literal["csv", "ndjson"]
DELTA_RULE = "a whole number of 64 bits"

_delta = re.compile(r"[+-]?[0-9]{1,19}", re.ASCII)
_BOM = b"\xef\xbb\xbf"


class BadLine(ValueError):
    """A line is not an increment: `number` counts from 1, `rule` says what it should be."""

    def __init__(self, number: int, rule: str) -> None:
        super().__init__(f"line {number}: {rule}")
        self.number, self.rule = number, rule


@dataclass(slots=True)
class Chunk:
    """Increments of one write. `first_line` and `last_line` count from 1, `end` is the offset of its end in the file,
    in bytes."""

    number: int
    first_line: int
    last_line: int = 0
    end: int = 0
    folded: dict[str, int] = field(default_factory=dict)
    increments: int = 0
    skipped: int = 0
    digest: bytes = b""


class _Line(msgspec.Struct, forbid_unknown_fields=True, gc=False):
    key: str
    delta: int


_decode = msgspec.json.Decoder(_Line).decode


def _ndjson(line: bytes) -> tuple[str, int]:
    try:
        one = _decode(line)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise ValueError(f'not an object like {{"key": "page:home", "delta": 1}}: {error}') from error
    return one.key, one.delta


def _columns(line: bytes) -> list[str]:
    try:
        text = line.decode().rstrip("\r\n")
    except UnicodeDecodeError as error:
        raise ValueError("the text must be UTF-8") from error
    if '"' not in text:
        return text.split(",")
    try:
        return next(csv.reader([text], strict=True))
    except csv.Error as error:
        raise ValueError(f"not a line of CSV: {error}") from error


def _csv(line: bytes) -> tuple[str, int]:
    columns = _columns(line)
    if len(columns) != 2:
        raise ValueError(f"there must be two columns, key and delta, not {len(columns)}")
    delta = columns[1].strip()
    if not _delta.fullmatch(delta):
        raise ValueError(f"the delta must be {DELTA_RULE}, not {delta[:50]!r}")
    return columns[0].strip(), int(delta)


_PARSERS: dict[Format, Callable[[bytes], tuple[str, int]]] = {"csv": _csv, "ndjson": _ndjson}


def _is_header(line: bytes) -> bool:
    return [column.strip().lower() for column in line.decode("utf-8", "replace").replace('"', "").split(",")] == [
        "key",
        "delta",
    ]


def _lines(lines: Iterable[bytes], form: Format) -> Iterator[tuple[int, int, bytes]]:
    """Yield (line number, offset of its end in bytes, line), without blank lines and the header."""
    end, header = 0, form == "csv"
    for number, raw in enumerate(lines, 1):
        end += len(raw)
        line = raw.removeprefix(_BOM) if number == 1 else raw
        if not line.strip():
            continue
        if not (header and _is_header(line)):
            yield number, end, line
        header = False


def chunks(
    lines: Iterable[bytes], form: Format, *, prefix: str = "", size: int = 10_000, skip_bad: bool = False
) -> Iterator[Chunk]:
    """Yield chunks of `size` lines, with `prefix` before each key. Raises `BadLine`, or with `skip_bad` counts bad
    lines."""
    chunk, seen, hashed = None, 0, blake2b(digest_size=16)
    number = 0
    for line_number, end, line in _lines(lines, form):
        if chunk is None:
            chunk, seen, hashed = Chunk(number, line_number), 0, blake2b(digest_size=16)
        try:
            _add(chunk, line, form, prefix)
        except ValueError as error:
            if not skip_bad:
                raise BadLine(line_number, str(error)) from error
            chunk.skipped += 1
        hashed.update(line)
        seen += 1
        chunk.last_line, chunk.end = line_number, end
        if seen == size:
            chunk.digest = hashed.digest()
            yield chunk
            chunk, number = None, number + 1
    if chunk is not None:
        chunk.digest = hashed.digest()
        yield chunk


def _add(chunk: Chunk, line: bytes, form: Format, prefix: str) -> None:
    bare, delta = _PARSERS[form](line)
    key = prefix + bare
    if not bare or not is_key(key):
        raise ValueError(f"a key has {KEY_RULE}{' (with its prefix)' if prefix else ''}, not {key[:50]!r}")
    if not in_range(delta):
        raise ValueError(f"the delta must be {DELTA_RULE}, not {delta}")
    total = chunk.folded.get(key, 0) + delta
    if not in_range(total):
        raise ValueError(f"with this line the deltas of key {key} in one chunk add up to more than 64 bits")
    chunk.folded[key] = total
    chunk.increments += 1
