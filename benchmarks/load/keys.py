"""Which keys, and how often. Pure."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from itertools import accumulate

import msgspec
import pyarrow as pa

# Formats of a bulk body: its media type, and its shape if that is columns.
JSON, NDJSON, MSGPACK = "application/json", "application/x-ndjson", "application/msgpack"
JSON_COLUMNS, MSGPACK_COLUMNS, ARROW = f"{JSON}, columns", f"{MSGPACK}, columns", "application/vnd.apache.arrow.stream"


def zipf(names: Sequence[str], count: int, rng: random.Random, s: float = 1.0) -> list[str]:
    """So many draws; name number r (from 1) has a share in proportion to r^-s."""
    weights = list(accumulate(rank**-s for rank in range(1, len(names) + 1)))
    return rng.choices(names, cum_weights=weights, k=count)


def _json(keys: Iterable[str]) -> bytes:
    return msgspec.json.encode({"increments": [{"key": key, "delta": 1} for key in keys]})


def _ndjson(keys: Iterable[str]) -> bytes:
    return msgspec.json.Encoder().encode_lines([{"key": key, "delta": 1} for key in keys])


def _msgpack(keys: Iterable[str]) -> bytes:
    return msgspec.msgpack.encode({"increments": [{"key": key, "delta": 1} for key in keys]})


def _columns(keys: Iterable[str]) -> dict[str, list[str] | list[int]]:
    names = list(keys)
    return {"keys": names, "deltas": [1] * len(names)}


def _arrow(keys: Iterable[str]) -> bytes:
    """Keys dictionary-encoded, as a pipeline has them that reads Parquet or groups by key."""
    names = pa.array(list(keys)).dictionary_encode()
    records = pa.record_batch({"key": names, "delta": pa.array([1] * len(names), pa.int64())})
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, records.schema) as writer:
        writer.write_batch(records)
    data: bytes = sink.getvalue().to_pybytes()
    return data


ENCODERS: dict[str, Callable[[Iterable[str]], bytes]] = {
    JSON: _json,
    NDJSON: _ndjson,
    MSGPACK: _msgpack,
    JSON_COLUMNS: lambda keys: msgspec.json.encode(_columns(keys)),
    MSGPACK_COLUMNS: lambda keys: msgspec.msgpack.encode(_columns(keys)),
    ARROW: _arrow,
}


def body(format: str, keys: Iterable[str]) -> bytes:
    """A bulk body that adds one to each key, as often as it comes."""
    return ENCODERS[format](keys)


def media_type(format: str) -> str:
    """What a body in a format is sent as."""
    return format.partition(",")[0]


def counted(answered: Sequence[int], drawn: Sequence[Sequence[str]]) -> Counter[str]:
    """What each key must count, if request i, which has the keys `drawn[i]`, was answered `answered[i]` times."""
    total: Counter[str] = Counter()
    for times, keys in zip(answered, drawn, strict=True):
        if times:
            for key, count in Counter(keys).items():
                total[key] += count * times
    return total
