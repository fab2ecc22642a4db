"""Checks of rows that belong together: each room registers its own (in `AppConfig.ready`), and a round runs them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import psycopg
import structlog
from prometheus_client import Gauge
from redis.exceptions import RedisError

from sharding import topology
from sharding.databases import ShardUnavailable

WRONG = Gauge(
    "tally_inconsistent_rows", "Rows that contradict each other, as the last round found them", ["shard", "check"]
)
MOST_NAMED = 100
log = structlog.get_logger(__name__)


@dataclass
class Checked:
    """What a check found in a shard: how many rows it has looked at, how many were wrong, and up to 100 of those, each a
    sentence. `detail`: why it is incomplete."""

    checked: int = 0
    wrong: int = 0
    some: list[str] = field(default_factory=list)
    detail: str = ""

    def found(self, sentences: list[str]) -> None:
        """Add wrong rows."""
        self.wrong += len(sentences)
        self.some += sentences[: MOST_NAMED - len(self.some)]


# Checks a shard and tells by name what each check found. Raises `psycopg.Error`, `RedisError`, `NoTopology`, `ShardUnavailable`.
Check = Callable[[int], dict[str, Checked]]
_checks: list[Check] = []


def register(check: Check) -> None:
    """Have every round run a check."""
    if check not in _checks:
        _checks.append(check)


def run(shard: int) -> dict[str, Checked]:
    """Run all checks of a shard and publish what they find. What cannot be checked is told in `detail`."""
    found: dict[str, Checked] = {}
    for check in _checks:
        try:
            found |= check(shard)
        except (psycopg.Error, RedisError, topology.NoTopology, ShardUnavailable) as error:
            found[check.__name__] = Checked(detail=str(error).strip())
    for name, one in found.items():
        _publish(shard, name, one)
    return found


def _publish(shard: int, name: str, one: Checked) -> None:
    if one.wrong or not one.detail:
        WRONG.labels(shard, name).set(one.wrong)
    if one.wrong:
        log.error("rows_inconsistent", shard=shard, check=name, rows=one.wrong, some=one.some[:10])
    if one.detail:
        log.warning("rows_unchecked", shard=shard, check=name, detail=one.detail)
