"""Bulk bodies that are Arrow IPC streams: columns `key` and `delta`, grouped by pyarrow, without a Python object for
each increment."""

from __future__ import annotations

from collections import defaultdict
from typing import Any

import pyarrow as pa
import pyarrow.acero  # loaded here; otherwise `group_by` would load it with the first body
import pyarrow.compute as pc

from counters.api import arrow_streams as streams
from counters.api.problems import invalid
from counters.intake.columns import Columns
from counters.keys import KEY_PATTERN, KEY_RULE, MAX_LENGTH, RESERVED
from counters.operations import MAX_VALUE

_COLUMNS = {"key": streams.text, "delta": streams.integer}
_KEYS = streams.Names.of(streams.Texts("key", MAX_LENGTH, KEY_RULE), KEY_PATTERN, RESERVED)


def fold(body: bytes, least: int = 0) -> tuple[Columns | dict[str, int], dict[str, int]]:
    """Fold a stream that `streams.count` has accepted; and the counts of keys with `least` rows or more in a record batch
    (0: of none). Sums in a returned dictionary may exceed 64 bits. Raises `Problem` 400."""
    counts: defaultdict[str, int] = defaultdict(int)
    with streams.batches(body, _COLUMNS) as batches:
        parts = [_fold(batch, first, least, counts) for batch, first in batches]
    if len(parts) == 1:
        return parts[0], counts
    sums: defaultdict[str, int] = defaultdict(int)
    for part in parts:
        for key, delta in part.items():
            sums[key] += delta
    return dict(sums), counts


def keys(body: bytes) -> list[str]:
    """The key of each increment of a stream that `fold` has accepted."""
    with streams.batches(body, _COLUMNS) as batches:
        return [key for batch, _ in batches for key in batch.column("key").to_pylist()]


def _fold(batch: Any, first: int, least: int, counts: dict[str, int]) -> Columns | dict[str, int]:
    """Fold one batch, and add the counts of its keys that have `least` rows or more. `first` is the number of its first
    row in the stream."""
    keys = _KEYS.texts.validated(batch.column("key"), first)
    deltas, peak, are_ones = _int64(batch.column("delta"), first)
    folded = _grouped(keys, deltas)
    if not _KEYS.are_in(folded.keys):
        _KEYS.check(keys, first)
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


def _int64(deltas: Any, first: int) -> tuple[Any, int, bool]:
    """Deltas of a batch as int64, their maximum absolute value, and whether all are 1. Raises `Problem` 400."""
    streams.refuse_null("delta", deltas, first)
    least, most = (one.as_py() for one in pc.min_max(deltas).values())
    if most > MAX_VALUE:
        too_large = pc.greater(deltas, pa.scalar(MAX_VALUE, pa.uint64()))
        raise invalid(streams.at("delta", first, too_large), f"Expected `int` <= {MAX_VALUE}")
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
    return Columns(
        keys.cast(pa.string()) if keys.type in streams.TEXTS else keys, found.column("delta_sum").combine_chunks()
    )
