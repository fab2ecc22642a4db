"""How long a replica waits before it applies a commit, to demonstrate or measure lag. Pure.

The delay is PostgreSQL's `recovery_min_apply_delay`, in the `recovery_conf` of the node's own Patroni configuration.
There it survives restarts, rejoins and reinitialisation, and Patroni puts it in force. A tag of the same value makes
Patroni report it.
"""

from __future__ import annotations

import random
import re
from dataclasses import dataclass
from typing import Any

PARAMETER = "recovery_min_apply_delay"
TAG = "apply_delay"
RULE = 'a time like "200ms" or "1.5s", or a range like "50ms..500ms", of an hour at most'
_MOST = 3_600_000
_TIME = re.compile(r"([0-9]{1,7}(?:\.[0-9]{1,3})?)(ms|s)")


@dataclass(frozen=True, slots=True)
class ApplyDelay:
    """A range of milliseconds; a fixed time has equal ends."""

    least: int
    most: int

    @classmethod
    def parse(cls, text: str) -> ApplyDelay:
        """Parse a delay that follows `RULE`. Raises `ValueError`."""
        first, dots, last = text.partition("..")
        least = _milliseconds(first)
        most = _milliseconds(last) if dots else least
        if not least <= most <= _MOST:
            raise ValueError(RULE)
        return cls(least, most)

    def __str__(self) -> str:
        return f"{self.least}ms" if self.least == self.most else f"{self.least}ms..{self.most}ms"

    def choose(self) -> int:
        """Return a random number of milliseconds in the range."""
        return random.randint(self.least, self.most)  # noqa: S311 - no secret


def _milliseconds(text: str) -> int:
    match = _TIME.fullmatch(text)
    if match is None:
        raise ValueError(RULE)
    return round(float(match[1]) * (1 if match[2] == "ms" else 1000))


def put(config: dict[str, Any], milliseconds: int) -> dict[str, Any]:
    """Return a copy of a node's Patroni configuration with this delay; 0 removes it."""
    postgresql = {name: value for name, value in config["postgresql"].items() if name != "recovery_conf"}
    recovery = {
        name: value for name, value in config["postgresql"].get("recovery_conf", {}).items() if name != PARAMETER
    }
    tags = {name: value for name, value in config.get("tags", {}).items() if name != TAG}
    if milliseconds:
        recovery[PARAMETER] = f"{milliseconds}ms"
        tags[TAG] = milliseconds
    if recovery:
        postgresql["recovery_conf"] = recovery
    return {**config, "postgresql": postgresql, "tags": tags}


def of(config: dict[str, Any]) -> int:
    """The delay in a node's Patroni configuration, in milliseconds."""
    return int(config.get("tags", {}).get(TAG, 0))
