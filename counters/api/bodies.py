"""Bodies of calls that take many rows, in one of several formats. No I/O, no request object.

There are two shapes, rows and columns. JSON and msgpack have both, NDJSON has rows. An Arrow IPC stream has columns;
pyarrow, if installed, reads it (`counters.api.arrow_streams`).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence, Sized
from dataclasses import dataclass
from importlib.util import find_spec
from typing import Any, Generic, TypeVar

from django.conf import settings
from msgspec import UNSET, Struct

from counters import service
from counters.api import media
from counters.api.media import ARROW, JSON, MSGPACK, NDJSON
from counters.api.problems import Problem, invalid

Row = TypeVar("Row", bound=Struct)
T = TypeVar("T")
B = TypeVar("B")

HAS_PYARROW = find_spec("pyarrow") is not None
MEDIA_TYPES = [JSON, NDJSON, MSGPACK, *([ARROW] if HAS_PYARROW else [])]


@dataclass(frozen=True, slots=True)
class Form(Generic[Row, T]):
    """What the bodies of one call look like.

    `rows` is the field with the rows, and what they are called. `body` has this field and one for each column, all of
    them optional; a body has either the rows or the `columns`, and then maybe some that are `optional`. `of_rows` and
    `of_arrow` (a stream) make what the call needs; so does `of_columns`, whose arguments are all columns, as long as the
    first one, or None.
    """

    rows: str
    row: type[Row]
    body: type[Struct]
    columns: Sequence[str]
    of_rows: Callable[[list[Row]], T]
    of_columns: Callable[..., T]
    of_arrow: Callable[[bytes], T]
    optional: Sequence[str] = ()

    def decode(self, media_type: str, body: bytes) -> T:
        """What a body has. Raises `Problem` 400 with the field and the rule, 413 for too many rows, 415."""
        if media_type == JSON:
            return self._either(media.decode(body, self.body))
        if media_type == MSGPACK:
            return self._either(media.decode_msgpack(body, self.body))
        if media_type == NDJSON:
            return self._rows(media.decode_lines(body, self.row, self.rows))
        if media_type == ARROW:
            if HAS_PYARROW:
                return self.of_arrow(body)
            detail = f"Content-Type {ARROW!r} needs pyarrow: install tally's `arrow` extra."
            raise Problem(415, "unsupported-media-type", f"{detail} Taken without it: {', '.join(MEDIA_TYPES)}.")
        raise media.unsupported(media_type, MEDIA_TYPES)

    def _either(self, body: Struct) -> T:
        rows: Any = getattr(body, self.rows)
        found: dict[str, Any] = {name: getattr(body, name) for name in (*self.columns, *self.optional)}
        given = {name: column for name, column in found.items() if column is not UNSET}
        if rows is not UNSET:
            if given:
                raise invalid("body", f"either `{self.rows}` or {self._listed}")
            return self._rows(rows)
        if not given:
            raise invalid("body", f"Object missing required field `{self.rows}`, or {self._listed}")
        if missing := next((name for name in self.columns if name not in given), None):
            raise invalid("body", f"Object missing required field `{missing}`")
        check_count(self.rows, given[self.columns[0]], self.columns[0])
        _check_lengths(self.columns[0], given)
        return self.of_columns(*(given.get(name) for name in found))

    def _rows(self, rows: list[Row]) -> T:
        check_count(self.rows, rows, self.rows)
        return self.of_rows(rows)

    @property
    def _listed(self) -> str:
        *most, last = [f"`{name}`" for name in self.columns]
        return f"{', '.join(most)} and {last}"


def in_turn(make: Callable[[], B]) -> B:
    """What a thread makes of a body, in its turn (`counters.intake.turns`)."""
    with service.current().intake.turns.taken():
        return make()


def check_count(rows: str, found: Sized | int, field: str) -> None:
    """Raises `Problem` 413 for too many rows, 400 for none."""
    count = found if isinstance(found, int) else len(found)
    if count > settings.TALLY.max_increments:
        raise media.too_large(f"A request may have {settings.TALLY.max_increments:,} {rows} at most.")
    if not count:
        raise invalid(field, "at least one")


def _check_lengths(first: str, columns: Mapping[str, Sized]) -> None:
    count = len(columns[first])
    for name, column in columns.items():
        if len(column) != count:
            raise invalid(name, f"as many as {first}: {count:,}, got {len(column):,}")
