"""The outcome: the result of one operation of a write. Pure.

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
UNCHANGED = "unchanged"


class Outcome(msgspec.Struct, array_like=True, frozen=True):
    """An outcome in write number `index` of a batch. `reason` is a key of `REASONS` if the operation was rejected, and
    `UNCHANGED` if it was an event that changed nothing, otherwise None.

    `among` is the number of operations of the write in its lane, including this one.
    """

    batch: bytes
    index: int
    key: str
    status: Literal["applied", "rejected"]
    value: int | None
    version: int | None
    reason: str | None = None
    among: int = 1

    @property
    def changed(self) -> bool:
        """Whether the operation was applied and had an effect."""
        return self.status == "applied" and self.reason != UNCHANGED
