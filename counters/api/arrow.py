"""Bulk bodies that are Arrow IPC streams: columns `key` and `delta`, grouped by pyarrow, without a Python object for
each increment.

Needs pyarrow (the extra `arrow`). pyarrow reads any input and validates only on request. So the sizes that a stream
declares are checked before pyarrow reads it (`arrow_messages`), its schema before its batches, and each batch before
it is used.
"""

from __future__ import annotations

from collections import defaultdict
from typing import Any

import pyarrow as pa
import pyarrow.acero  # loaded here; otherwise `group_by` would load it with the first body
import pyarrow.compute as pc
from django.conf import settings

from counters.api import arrow_messages, media
from counters.api.problems import Problem, invalid
from counters.intake.columns import Columns
from counters.keys import KEY_PATTERN, KEY_RULE, MAX_LENGTH, RESERVED, are_keys
from counters.operations import MAX_VALUE

_OPTIONS = pa.ipc.IpcReadOptions(use_threads=False, ensure_alignment=pa.ipc.Alignment.DataTypeSpecific)
_TEXTS = (pa.string(), pa.large_string())
_RESERVED = pa.array(sorted(RESERVED), pa.string())
_KEY = rf"\A(?:{KEY_PATTERN})\z"
_MOST_REACHED = 4  # times the maximum bytes of a body
_MOST_SAID = 200  # characters of a foreign message or name


def count(body: bytes) -> int:
    """The number of increments that a stream declares. Raises `Problem` 400, and 413 if it would need too much
    memory."""
    try:
        size = arrow_messages.measure(body)
    except arrow_messages.BadStream as error:
        raise _no_stream(str(error)) from error
    most = settings.TALLY.max_body_bytes
    if size.memory > most:
        raise media.too_large(f"A body may have {most:,} bytes at most, also when its buffers are decompressed.")
    if size.reached > _MOST_REACHED * most:
        raise media.too_large("The stream has too many record batches for so large a dictionary.")
    return size.rows


def fold(body: bytes, least: int = 0) -> tuple[Columns | dict[str, int], dict[str, int]]:
    """Fold a stream that `count` has accepted; and the counts of keys with `least` rows or more in a record batch (0: of
    none). Sums in a returned dictionary may exceed 64 bits. Raises `Problem` 400."""
    counts: defaultdict[str, int] = defaultdict(int)
    try:
        with pa.ipc.open_stream(pa.py_buffer(body), options=_OPTIONS) as stream:
            _check_schema(stream.schema)
            parts = _parts(stream, least, counts)
    except (pa.ArrowException, OSError, UnicodeDecodeError) as error:
        raise _no_stream(str(error)) from error
    if len(parts) == 1:
        return parts[0], counts
    sums: defaultdict[str, int] = defaultdict(int)
    for part in parts:
        for key, delta in part.items():
            sums[key] += delta
    return dict(sums), counts


def keys(body: bytes) -> list[str]:
    """The key of each increment of a stream that `fold` has accepted."""
    with pa.ipc.open_stream(pa.py_buffer(body), options=_OPTIONS) as stream:
        return [key for batch in stream for key in batch.column("key").to_pylist()]


def _no_stream(reason: str) -> Problem:
    return invalid("body", f"not an Arrow IPC stream: {reason[:_MOST_SAID]}")


def _check_schema(schema: Any) -> None:
    for name in ("key", "delta"):
        if name not in schema.names:
            raise invalid("body", f"missing required column `{name}`")
    if len(schema.names) > 2:
        strange = next((name for name in schema.names if name not in ("key", "delta")), None)
        rule = "a column stands twice" if strange is None else f"unknown column `{strange[:_MOST_SAID]}`"
        raise invalid("body", rule)
    kind = schema.field("key").type
    text = kind.value_type if pa.types.is_dictionary(kind) else kind
    if text not in (*_TEXTS, pa.string_view()):
        raise _other_type("key", "strings, plain or dictionary-encoded", kind)
    kind = schema.field("delta").type
    if not pa.types.is_integer(kind):
        raise _other_type("delta", "integers", kind)


def _other_type(column: str, wanted: str, kind: Any) -> Problem:
    return invalid(column, f"Expected a column of {wanted}, got `{str(kind)[:_MOST_SAID]}`")


def _parts(stream: Any, least: int, counts: dict[str, int]) -> list[Columns | dict[str, int]]:
    """Fold each batch that has rows, and add to `counts`. Each may have its own dictionary; only one is in memory at a
    time."""
    parts, first = [], 0
    for batch in stream:
        if batch.num_rows:
            parts.append(_fold(batch, first, least, counts))
        first += batch.num_rows
    return parts


def _fold(batch: Any, first: int, least: int, counts: dict[str, int]) -> Columns | dict[str, int]:
    """Fold one batch, and add the counts of its keys that have `least` rows or more. `first` is the number of its first
    row in the stream."""
    batch.validate()
    keys = _validated(batch.column("key"), first)
    deltas, peak, are_ones = _int64(batch.column("delta"), first)
    folded = _grouped(keys, deltas)
    if not _are_keys(folded.keys):
        raise _bad_key(keys, first)
    if least and 1 + len(deltas) - len(folded) >= least:
        counted = folded if are_ones else _grouped(keys, pa.repeat(pa.scalar(1, pa.int64()), len(deltas)))
        frequent = pc.greater_equal(counted.deltas, least)
        for key, count in Columns(counted.keys.filter(frequent), counted.deltas.filter(frequent)).items():
            counts[key] += count
    if peak * len(deltas) <= MAX_VALUE:
        return folded
    sums: defaultdict[str, int] = defaultdict(int)  # pyarrow's sums may have overflowed 64 bits silently
    for key, delta in zip(keys.to_pylist(), deltas.to_pylist(), strict=True):
        sums[key] += delta
    return dict(sums)


def _validated(keys: Any, first: int) -> Any:
    """Keys of a batch as strings or a dictionary of strings: valid, and none null. Raises `Problem` 400.

    Views become strings. They are taken out of a dictionary first: it may have any number of them, all of the same
    megabytes, but the rows are few.
    """
    if pa.types.is_dictionary(keys.type) and pa.types.is_string_view(keys.type.value_type):
        keys = _taken(keys.dictionary, keys.indices)
    if pa.types.is_string_view(keys.type):
        _refuse_null("key", keys, first)
        _refuse_long(keys, first)
    keys.validate(full=True)
    _refuse_null("key", keys, first)
    return keys.cast(pa.string()) if pa.types.is_string_view(keys.type) else keys


def _taken(views: Any, indices: Any) -> Any:
    """The views at these places, without a look at their content. pyarrow can take values of a fixed size only: a view
    has 16 bytes."""
    valid, words, *texts = views.buffers()
    found = pa.Array.from_buffers(pa.binary(16), len(views), [valid, words], offset=views.offset).take(indices)
    return pa.Array.from_buffers(pa.string_view(), len(found), [*found.buffers(), *texts])


def _refuse_null(column: str, values: Any, first: int) -> None:
    has_dictionary = pa.types.is_dictionary(values.type)
    if values.null_count or (has_dictionary and values.dictionary.null_count):
        nulls = pc.is_null(values)
        if pc.any(nulls).as_py():
            raise invalid(_at(column, first, nulls), "a value, got null")


def _refuse_long(views: Any, first: int) -> None:
    """Raises `Problem` 400 for a view that is too long. All views may refer to the same megabytes, so their lengths
    must be checked before their content is read."""
    words = pa.Array.from_buffers(pa.int32(), 4 * (views.offset + len(views)), [None, views.buffers()[1]])
    lengths = pc.list_element(pa.FixedSizeListArray.from_arrays(words, 4), 0).slice(views.offset)
    fits = pc.and_(pc.greater_equal(lengths, 0), pc.less_equal(lengths, MAX_LENGTH))
    if not pc.all(fits).as_py():
        raise invalid(_at("key", first, pc.invert(fits)), KEY_RULE)


def _int64(deltas: Any, first: int) -> tuple[Any, int, bool]:
    """Deltas of a batch as int64, their maximum absolute value, and whether all are 1. Raises `Problem` 400."""
    _refuse_null("delta", deltas, first)
    least, most = (one.as_py() for one in pc.min_max(deltas).values())
    if most > MAX_VALUE:
        too_large = pc.greater(deltas, pa.scalar(MAX_VALUE, pa.uint64()))
        raise invalid(_at("delta", first, too_large), f"Expected `int` <= {MAX_VALUE}")
    return deltas.cast(pa.int64()), max(-least, most), least == most == 1


def _grouped(keys: Any, deltas: Any) -> Columns:
    """The sum of each key's deltas, grouped by dictionary index if the keys have a dictionary."""
    if not pa.types.is_dictionary(keys.type):
        return _sums(keys, deltas)
    by_index = _sums(keys.indices, deltas)
    texts = keys.dictionary.take(by_index.keys)
    if len(texts.unique()) < len(texts):  # a dictionary may have an entry twice
        return _sums(texts, by_index.deltas)
    return Columns(texts.cast(pa.string()), by_index.deltas)


def _sums(keys: Any, deltas: Any) -> Columns:
    found = pa.table({"key": keys, "delta": deltas}).group_by("key", use_threads=False).aggregate([("delta", "sum")])
    keys = found.column("key").combine_chunks()
    return Columns(keys.cast(pa.string()) if keys.type in _TEXTS else keys, found.column("delta_sum").combine_chunks())


def _are_keys(texts: Any) -> bool:
    lengths = pc.min_max(pc.binary_length(texts))
    places = memoryview(texts.buffers()[1]).cast("i")[texts.offset : texts.offset + len(texts) + 1]
    content = bytes(memoryview(texts.buffers()[2] or b"")[places[0] : places[-1]])
    known = are_keys(content, lengths["min"].as_py(), lengths["max"].as_py())
    return known and not pc.any(pc.is_in(texts, value_set=_RESERVED)).as_py()


def _bad_key(keys: Any, first: int) -> Problem:
    """400 for the first row with an invalid key."""
    is_dictionary = pa.types.is_dictionary(keys.type)
    texts = keys.dictionary if is_dictionary else keys
    texts = texts.cast(pa.string())
    good = pc.and_not(pc.match_substring_regex(texts, _KEY), pc.is_in(texts, value_set=_RESERVED))
    return invalid(_at("key", first, pc.invert(good.take(keys.indices) if is_dictionary else good)), KEY_RULE)


def _at(column: str, first: int, bad: Any) -> str:
    """The place of the first bad row."""
    return f"{column}[{first + pc.index(bad, True).as_py()}]"
