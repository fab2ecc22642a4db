"""Key → slot: the one function that must never change, because it decides where every counter is stored.

CRC-32 (ISO-HDLC, as in zlib and PostgreSQL's `crc32()`), low ten bits. Chosen over stronger hashes because it is built
into both SQL and Python, costs the least per key, and spreads real keys evenly enough (tests/unit/test_slots.py: χ²).
"""

from __future__ import annotations

from collections.abc import Iterable
from zlib import crc32

SLOTS = 1024


def slot_of(key: str) -> int:
    """The slot (0 to 1023) of a key."""
    return crc32(key.encode()) & (SLOTS - 1)


def slots_of(keys: Iterable[str]) -> list[int]:
    """The slots of many keys, in their order. Not cached: a look-up in a large dictionary costs five times the hash."""
    return [crc32(key.encode()) & (SLOTS - 1) for key in keys]


def slots_of_utf8(keys: Iterable[bytes]) -> list[int]:
    """`slots_of` for keys already encoded in UTF-8."""
    return [crc32(key) & (SLOTS - 1) for key in keys]
