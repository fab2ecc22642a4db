"""Which keys, and how often. Pure."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from itertools import accumulate

import msgspec

JSON, NDJSON, MSGPACK = "application/json", "application/x-ndjson", "application/msgpack"


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


ENCODERS: dict[str, Callable[[Iterable[str]], bytes]] = {JSON: _json, NDJSON: _ndjson, MSGPACK: _msgpack}


def body(media_type: str, keys: Iterable[str]) -> bytes:
    """A bulk body that adds one to each key, as often as it comes."""
    return ENCODERS[media_type](keys)


def counted(answered: Sequence[int], drawn: Sequence[Sequence[str]]) -> Counter[str]:
    """What each key must count, if request i, which has the keys `drawn[i]`, was answered `answered[i]` times."""
    total: Counter[str] = Counter()
    for times, keys in zip(answered, drawn, strict=True):
        if times:
            for key, count in Counter(keys).items():
                total[key] += count * times
    return total
