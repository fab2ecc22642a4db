"""Loaded by schemathesis (SCHEMATHESIS_HOOKS): how to write the bulk call's media types, and what to mend in its good
data."""

from __future__ import annotations

from typing import Any

import msgspec
import pyarrow as pa
import schemathesis

from runtime import garbage

garbage.begin()  # what has been imported is not scanned while schemathesis makes its data


@schemathesis.serializer("application/msgpack")
def as_msgpack(_context: schemathesis.SerializationContext, value: Any) -> bytes:
    """A value in MessagePack, or a byte that begins nothing for one that it cannot say (an integer beyond 64 bits)."""
    try:
        return msgspec.msgpack.encode(value)
    except OverflowError:
        return b"\xc1"


@schemathesis.serializer("application/x-ndjson")
def as_ndjson(_context: schemathesis.SerializationContext, value: Any) -> bytes:
    """An array as lines; anything else as it is, which is one line."""
    return msgspec.json.Encoder().encode_lines(value) if isinstance(value, list) else msgspec.json.encode(value)


@schemathesis.serializer("application/vnd.apache.arrow.stream")
def as_arrow(_context: schemathesis.SerializationContext, value: Any) -> bytes:
    """An object's arrays as columns, or a byte that begins nothing for what Arrow cannot say."""
    sink = pa.BufferOutputStream()
    try:
        kinds = {"timestamp": pa.timestamp("us")}
        columns = pa.record_batch({name: pa.array(column, kinds.get(name)) for name, column in value.items()})
        with pa.ipc.new_stream(sink, columns.schema) as writer:
            writer.write_batch(columns)
    except (AttributeError, TypeError, ValueError, OverflowError, pa.ArrowException):
        return b"\xc1"
    data: bytes = sink.getvalue().to_pybytes()
    return data


@schemathesis.hook
def before_call(_context: schemathesis.HookContext, case: schemathesis.Case[Any], _options: dict[str, Any]) -> None:
    """Mend what is meant to be good data.

    1.0 is an integer to JSON Schema and none to this API, which takes no floats. A schema cannot say that columns have
    the same length. And schemathesis 4.32 reads a header's `"0"` as JSON.
    """
    if case.meta is None:
        return
    good = {location.value for location, info in case.meta.components.items() if info.mode.value == "positive"}
    version = case.headers.get("If-Match") if case.headers else None
    if (
        version is not None
        and version.isdigit()
        and (case.meta.generation.mode.value == "positive" or "header" in good)
    ):
        case.headers["If-Match"] = f'"{version}"'
    if "body" in good:
        case.body = _of_one_length(_without_whole_floats(case.body))


def _without_whole_floats(value: Any) -> Any:
    match value:
        case float() if value.is_integer():
            return int(value)
        case list():
            return [_without_whole_floats(one) for one in value]
        case dict():
            return {name: _without_whole_floats(one) for name, one in value.items()}
    return value


_COLUMNS = ({"keys", "deltas"}, {"key", "delta"}, {"user_ids", "item_ids"}, {"user_id", "item_id"})


def _of_one_length(value: Any) -> Any:
    """Columns as long as the shorter of them."""
    if not isinstance(value, dict) or not any(value.keys() >= columns for columns in _COLUMNS):
        return value
    size = min(map(len, value.values()))
    return {name: column[:size] for name, column in value.items()}
