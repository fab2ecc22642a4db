"""The outcome: what one operation of a write came to. Pure.

The worker computes it (`apply.plan`), stores it with the counters, and publishes it (`intake.outcomes`).
"""

from __future__ import annotations

from typing import Literal

import msgspec

REASONS = {
    "overflow": "the counter would leave the range of a signed 64-bit integer",
    "late": "operations that stand after it in the journal were applied before it could be",
    "version": "the counter's version is not the one in If-Match",
}


class Outcome(msgspec.Struct, array_like=True, frozen=True):
    """Of write number `index` of a batch. `reason` is a slug of `REASONS`, set if the operation was rejected.

    `among` is how many operations the write has in its lane, this one included.
    """

    batch: bytes
    index: int
    key: str
    status: Literal["applied", "rejected"]
    value: int | None
    version: int | None
    reason: str | None = None
    among: int = 1
