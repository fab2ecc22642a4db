"""Bodies of the bulk call: increments in one of several formats, decoded, folded and checked. No I/O, no request
object.

There are two shapes, rows and columns. JSON and msgpack have both (`requests.Increments`, `requests.IncrementColumns`),
NDJSON has rows. An Arrow IPC stream has columns; pyarrow, if installed, reads it (`counters.api.arrow`).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Set
from dataclasses import dataclass
from importlib import import_module
from importlib.util import find_spec
from typing import TYPE_CHECKING

from django.conf import settings
from msgspec import UNSET, Struct, UnsetType

from counters import keys
from counters.api import media
from counters.api.media import ARROW, JSON, MSGPACK, NDJSON
from counters.api.problems import Problem, invalid
from counters.api.requests import Int64, KeyedIncrement
from counters.operations import fold, in_range
from runtime.hidden import hidden

if TYPE_CHECKING:
    from counters.intake.columns import Columns

_HAS_PYARROW = find_spec("pyarrow") is not None
MEDIA_TYPES = [JSON, NDJSON, MSGPACK, *([ARROW] if _HAS_PYARROW else [])]


@dataclass(frozen=True, slots=True)
class Bulk:
    """`count` increments, folded: one delta per key, each within 64 bits. `len(folded)` is the number of keys.

    `counts` are the increments of each key that has at least as many as `decode` was asked for. `each` lists the key of
    each increment.
    """

    count: int
    folded: dict[str, int] | Columns
    counts: Mapping[str, int]
    each: Callable[[], Iterable[str]]

    def count_of(self, keys: Set[str]) -> int:
        """The number of increments of some keys."""
        return sum(key in keys for key in self.each())


class _Body(Struct, forbid_unknown_fields=True):
    """A body of either shape. A union of two types would need a tag or two decodings."""

    increments: list[KeyedIncrement] | UnsetType = UNSET
    keys: list[str] | UnsetType = UNSET
    deltas: list[Int64] | UnsetType = UNSET


def prepare() -> None:
    """Load pyarrow, if installed, before a request needs it: loading takes a large part of a second. It would load numpy,
    too, which nothing here uses."""
    if _HAS_PYARROW:
        with hidden("numpy"):
            import_module("counters.api.arrow")


def decode(media_type: str, body: bytes, least: int = 0) -> Bulk:
    """The increments in a body, and the counts of keys with `least` of them or more (0: of none). Raises `Problem` 400
    with the field and the rule, 413 for too many increments, 415."""
    if media_type == JSON:
        return _either(media.decode(body, _Body), least)
    if media_type == MSGPACK:
        return _either(media.decode_msgpack(body, _Body), least)
    if media_type == NDJSON:
        return _rows(media.decode_lines(body, KeyedIncrement, "increments"), least)
    if media_type == ARROW:
        return _arrow(body, least)
    raise media.unsupported(media_type, MEDIA_TYPES)


def _either(body: _Body, least: int) -> Bulk:
    if body.increments is not UNSET:
        if body.keys is not UNSET or body.deltas is not UNSET:
            raise invalid("body", "either `increments` or `keys` and `deltas`")
        return _rows(body.increments, least)
    if body.keys is UNSET and body.deltas is UNSET:
        raise invalid("body", "Object missing required field `increments`, or `keys` and `deltas`")
    if body.keys is UNSET or body.deltas is UNSET:
        raise invalid("body", f"Object missing required field `{'keys' if body.keys is UNSET else 'deltas'}`")
    return _columns(body.keys, body.deltas, least)


def _rows(rows: list[KeyedIncrement], least: int) -> Bulk:
    _check_count(len(rows), "increments")
    names = [one.key for one in rows]
    folded, counts = _fold(names, [one.delta for one in rows], least)
    bad = keys.first_invalid(folded)
    if bad is not None:
        place = next(index for index, one in enumerate(rows) if one.key == bad)
        raise invalid(f"increments[{place}].key", keys.KEY_RULE)
    _check_sums(folded, "increments")
    return Bulk(len(rows), folded, counts, lambda: names)


def _columns(names: list[str], deltas: list[int], least: int) -> Bulk:
    _check_count(len(names), "keys")
    if len(deltas) != len(names):
        raise invalid("deltas", f"as many as keys: {len(names):,}, got {len(deltas):,}")
    folded, counts = _fold(names, deltas, least)
    bad = keys.first_invalid(folded)
    if bad is not None:
        raise invalid(f"keys[{names.index(bad)}]", keys.KEY_RULE)
    _check_sums(folded, "deltas")
    return Bulk(len(names), folded, counts, lambda: names)


def _fold(names: list[str], deltas: list[int], least: int) -> tuple[dict[str, int], dict[str, int]]:
    """As `operations.fold`, and the counts of keys with `least` increments or more. If all deltas are 1, the usual case,
    counting takes half as long as adding, and the sums are the counts."""
    if deltas.count(1) == len(deltas):
        counted = Counter(names)
        return counted, _frequent(counted, least)
    sums = fold(names, deltas)
    most = 1 + len(names) - len(sums)  # that one key can have
    return sums, _frequent(Counter(names), least) if least and most >= least else {}


def _frequent(counted: dict[str, int], least: int) -> dict[str, int]:
    if not least or max(counted.values()) < least:
        return {}
    return {key: count for key, count in counted.items() if count >= least}


def _arrow(body: bytes, least: int) -> Bulk:
    if not _HAS_PYARROW:
        detail = f"Content-Type {ARROW!r} needs pyarrow: install tally's `arrow` extra."
        raise Problem(415, "unsupported-media-type", f"{detail} Taken without it: {', '.join(MEDIA_TYPES)}.")
    from counters.api import arrow  # noqa: PLC0415 - see `prepare`

    count = arrow.count(body)
    _check_count(count, "key")
    folded, counts = arrow.fold(body, least)
    if isinstance(folded, dict):
        _check_sums(folded, "delta")
    return Bulk(count, folded, counts, lambda: arrow.keys(body))


def _check_count(count: int, field: str) -> None:
    if count > settings.TALLY.max_increments:
        raise media.too_large(f"A request may have {settings.TALLY.max_increments:,} increments at most.")
    if not count:
        raise invalid(field, "at least one")


def _check_sums(folded: dict[str, int], field: str) -> None:
    if not (in_range(max(folded.values())) and in_range(min(folded.values()))):
        key = next(key for key, delta in folded.items() if not in_range(delta))
        raise invalid(field, f"the deltas of key {key} add up to more than 64 bits")
