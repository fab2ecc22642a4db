"""Bodies of the bulk call: increments in one of several formats (`bodies`), decoded, folded and checked. No I/O, no
request object.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Set
from dataclasses import dataclass
from functools import partial
from importlib import import_module
from typing import TYPE_CHECKING

from msgspec import UNSET, Struct, UnsetType

from counters import keys
from counters.api import bodies
from counters.api.bodies import Form
from counters.api.problems import invalid
from counters.api.requests import Int64, KeyedIncrement
from counters.operations import fold, in_range
from runtime.hidden import hidden

if TYPE_CHECKING:
    from counters.intake.columns import Columns


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
    if bodies.HAS_PYARROW:
        with hidden("numpy"):
            import_module("counters.api.arrow")


def decode(media_type: str, body: bytes, least: int = 0) -> Bulk:
    """The increments in a body, and the counts of keys with `least` of them or more (0: of none). Raises as
    `bodies.Form.decode`."""
    form = Form(
        "increments",
        KeyedIncrement,
        _Body,
        ("keys", "deltas"),
        of_rows=partial(_rows, least),
        of_columns=partial(_columns, least),
        of_arrow=partial(_arrow, least),
    )
    return form.decode(media_type, body)


def _rows(least: int, rows: list[KeyedIncrement]) -> Bulk:
    names = [one.key for one in rows]
    folded, counts = _fold(names, [one.delta for one in rows], least)
    bad = keys.first_invalid(folded)
    if bad is not None:
        place = next(index for index, one in enumerate(rows) if one.key == bad)
        raise invalid(f"increments[{place}].key", keys.KEY_RULE)
    _check_sums(folded, "increments")
    return Bulk(len(rows), folded, counts, lambda: names)


def _columns(least: int, names: list[str], deltas: list[int]) -> Bulk:
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


def _arrow(least: int, body: bytes) -> Bulk:
    from counters.api import arrow, arrow_streams  # noqa: PLC0415 - see `prepare`

    count = arrow_streams.count(body)
    bodies.check_count("increments", count, "key")
    folded, counts = arrow.fold(body, least)
    if isinstance(folded, dict):
        _check_sums(folded, "delta")
    return Bulk(count, folded, counts, lambda: arrow.keys(body))


def _check_sums(folded: dict[str, int], field: str) -> None:
    if not (in_range(max(folded.values())) and in_range(min(folded.values()))):
        key = next(key for key, delta in folded.items() if not in_range(delta))
        raise invalid(field, f"the deltas of key {key} add up to more than 64 bits")
