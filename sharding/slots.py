"""Key → slot: the one function that must never change, because it decides where every counter is stored.

CRC-32 (ISO-HDLC, as in zlib and PostgreSQL's `crc32()`), low ten bits. Chosen over stronger hashes because SQL and Python have the
same function built in, it is the cheapest of them per key, and it is even enough over real keys (tests/test_slots.py: χ²).
"""

from __future__ import annotations

from functools import lru_cache
from zlib import crc32

SLOTS = 1024


@lru_cache(1 << 17)  # hot keys are asked for again and again: a third of what the hash costs; 25 MB when it is full
def slot_of(key: str) -> int:
    """The slot (0 to 1023) of a key."""
    return crc32(key.encode()) & (SLOTS - 1)
