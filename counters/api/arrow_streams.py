"""Bulk bodies that are Arrow IPC streams: how they are read and checked, whatever their columns.

Needs pyarrow (the extra `arrow`). pyarrow reads any input and validates only on request. So the sizes that a stream
declares are checked before pyarrow reads it (`arrow_messages`), its schema before its batches, and each batch before
it is used.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager
from types import MappingProxyType
from typing import Any, NamedTuple

import pyarrow as pa
import pyarrow.compute as pc
from django.conf import settings

from counters.api import arrow_messages, media
from counters.api.problems import Problem, invalid
from counters.keys import are_keys

TEXTS = (pa.string(), pa.large_string())
_OPTIONS = pa.ipc.IpcReadOptions(use_threads=False, ensure_alignment=pa.ipc.Alignment.DataTypeSpecific)
_MOST_REACHED = 4  # times the maximum bytes of a body
_MOST_SAID = 200  # characters of a foreign message or name


def count(body: bytes) -> int:
    """The number of rows that a stream declares. Raises `Problem` 400, and 413 if it would need too much memory."""
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


Columns = Mapping[str, Callable[[Any], str]]  # what a column's type should be, by name; "" if it is that
NO_COLUMNS: Columns = MappingProxyType({})


@contextmanager
def batches(body: bytes, required: Columns, optional: Columns = NO_COLUMNS) -> Iterator[Iterator[tuple[Any, int]]]:
    """The record batches of a stream that `count` has accepted, without empty ones, each with the number of its first
    row. Each may have its own dictionaries; only one is in memory at a time.

    Raises `Problem` 400, also for what pyarrow refuses while the block runs.
    """
    try:
        with pa.ipc.open_stream(pa.py_buffer(body), options=_OPTIONS) as stream:
            _check_schema(stream.schema, required, optional)
            yield _filled(stream)
    except (pa.ArrowException, OSError, UnicodeDecodeError) as error:
        raise _no_stream(str(error)) from error


def _filled(stream: Any) -> Iterator[tuple[Any, int]]:
    first = 0
    for batch in stream:
        if batch.num_rows:
            batch.validate()
            yield batch, first
        first += batch.num_rows


def _no_stream(reason: str) -> Problem:
    return invalid("body", f"not an Arrow IPC stream: {reason[:_MOST_SAID]}")


def _check_schema(schema: Any, required: Columns, optional: Columns) -> None:
    for name in required:
        if name not in schema.names:
            raise invalid("body", f"missing required column `{name}`")
    known = {**required, **optional}
    if strange := next((name for name in schema.names if name not in known), None):
        raise invalid("body", f"unknown column `{strange[:_MOST_SAID]}`")
    if len(set(schema.names)) < len(schema.names):
        raise invalid("body", "a column stands twice")
    for name in schema.names:
        kind = schema.field(name).type
        if wanted := known[name](kind):
            raise invalid(name, f"Expected a column of {wanted}, got `{str(kind)[:_MOST_SAID]}`")


def text(kind: Any) -> str:
    """For `Columns`: a column of texts."""
    inner = kind.value_type if pa.types.is_dictionary(kind) else kind
    return "" if inner in (*TEXTS, pa.string_view()) else "strings, plain or dictionary-encoded"


def integer(kind: Any) -> str:
    """For `Columns`: a column of integers."""
    return "" if pa.types.is_integer(kind) else "integers"


class Texts(NamedTuple):
    """A column of texts: its name, and how many bytes they may have, by which rule."""

    column: str
    most: int
    rule: str

    def validated(self, texts: Any, first: int, *, nullable: bool = False) -> Any:
        """Texts of a batch, or a dictionary of texts: valid, and none null unless `nullable`. Raises `Problem` 400.

        Views become strings. They are taken out of a dictionary first: it may have any number of them, all of the same
        megabytes, but the rows are few.
        """
        if pa.types.is_dictionary(texts.type) and pa.types.is_string_view(texts.type.value_type):
            texts = _taken(texts.dictionary, texts.indices)
        if pa.types.is_string_view(texts.type):
            if not nullable:
                refuse_null(self.column, texts, first)
            self._refuse_long_views(texts, first)
        texts.validate(full=True)
        if not nullable:
            refuse_null(self.column, texts, first)
        return texts.cast(pa.string()) if pa.types.is_string_view(texts.type) else texts

    def plain(self, texts: Any, first: int) -> Any:
        """What `validated` returned, each text for itself, of type string. Raises `Problem` 400 for one that is too long,
        before those of a dictionary are repeated."""
        self.check(of_rows(texts, lambda some: pc.less_equal(pc.binary_length(some), self.most)), first)
        found = texts.dictionary.take(texts.indices) if pa.types.is_dictionary(texts.type) else texts
        return found.cast(pa.string())

    def check(self, good: Any, first: int) -> None:
        """Raises `Problem` 400 for the first row that is not good; a null is."""
        if pc.any(pc.invert(good)).as_py():
            raise invalid(at(self.column, first, pc.invert(good)), self.rule)

    def _refuse_long_views(self, views: Any, first: int) -> None:
        """All views may refer to the same megabytes, so their lengths must be checked before their content is read."""
        words = pa.Array.from_buffers(pa.int32(), 4 * (views.offset + len(views)), [None, views.buffers()[1]])
        lengths = pc.list_element(pa.FixedSizeListArray.from_arrays(words, 4), 0).slice(views.offset)
        fits = pc.and_(pc.greater_equal(lengths, 0), pc.less_equal(lengths, self.most))
        self.check(pc.or_(fits, pc.is_null(views)), first)  # what stands in the place of a null has no meaning


class Names(NamedTuple):
    """A column of names: texts of a pattern, out of the characters of keys, and not reserved."""

    texts: Texts
    pattern: str
    reserved: Any

    @classmethod
    def of(cls, texts: Texts, pattern: str, reserved: Collection[str] = ()) -> Names:
        return cls(texts, pattern, pa.array(sorted(reserved), pa.string()))

    def are_in(self, texts: Any) -> bool:
        """Whether all texts of an array of type string are such names."""
        lengths = pc.min_max(pc.binary_length(texts))
        places = memoryview(texts.buffers()[1]).cast("i")[texts.offset : texts.offset + len(texts) + 1]
        content = bytes(memoryview(texts.buffers()[2] or b"")[places[0] : places[-1]])
        known = are_keys(content, lengths["min"].as_py(), lengths["max"].as_py(), self.texts.most)
        return known and not pc.any(pc.is_in(texts, value_set=self.reserved)).as_py()

    def check(self, texts: Any, first: int) -> None:
        """Raises `Problem` 400 for the first row whose text is no such name."""
        self.texts.check(of_rows(texts, self._good), first)

    def _good(self, texts: Any) -> Any:
        texts = texts.cast(pa.string())
        return pc.and_not(
            pc.match_substring_regex(texts, rf"\A(?:{self.pattern})\z"), pc.is_in(texts, value_set=self.reserved)
        )


def _taken(views: Any, indices: Any) -> Any:
    """The views at these places, without a look at their content. pyarrow can take values of a fixed size only: a view
    has 16 bytes."""
    valid, words, *texts = views.buffers()
    found = pa.Array.from_buffers(pa.binary(16), len(views), [valid, words], offset=views.offset).take(indices)
    return pa.Array.from_buffers(pa.string_view(), len(found), [*found.buffers(), *texts])


def refuse_null(column: str, values: Any, first: int) -> None:
    """Raises `Problem` 400 for the first null."""
    has_dictionary = pa.types.is_dictionary(values.type)
    if values.null_count or (has_dictionary and values.dictionary.null_count):
        nulls = pc.is_null(values)
        if pc.any(nulls).as_py():
            raise invalid(at(column, first, nulls), "a value, got null")


def of_rows(texts: Any, look: Callable[[Any], Any]) -> Any:
    """What `look` says of each row's text; it is asked once for each text of a dictionary."""
    return look(texts.dictionary).take(texts.indices) if pa.types.is_dictionary(texts.type) else look(texts)


def at(column: str, first: int, bad: Any) -> str:
    """The place of the first bad row."""
    return f"{column}[{first + pc.index(bad, True).as_py()}]"
