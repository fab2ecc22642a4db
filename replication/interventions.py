"""The record of what was done to a shard's servers, by whom and why: in the log always, and in the control database.

The row is written before the deed, so that it is there even if this process dies on the way; the outcome is added
afterwards. Shard 0's own failover may keep the control database down just then: that must not keep anybody from
steering, and the log has it all the same.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import structlog
from django.db import Error as DatabaseError
from django.db import connection

from replication.models import Intervention

log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class Order:
    """Who wants it, and why."""

    by: str
    reason: str


@dataclass(slots=True)
class Record:
    """What is being recorded; the block that acts puts the `outcome` there."""

    outcome: str = ""


@contextmanager
def recorded(shard: int, action: str, order: Order, node: str = "") -> Iterator[Record]:
    """Record what the block does; an exception is its outcome if there is no other."""
    fields = {"shard": shard, "action": action, "node": node, "by": order.by, "reason": order.reason}
    key = _begin(fields)
    record = Record()
    try:
        yield record
    except Exception as error:
        record.outcome = record.outcome or f"not done: {error}"
        raise
    finally:
        log.info("intervention", **fields, outcome=record.outcome)
        if key is not None:
            _end(key, record.outcome)


def _begin(fields: dict[str, object]) -> int | None:
    try:
        return Intervention.objects.create(**fields).pk
    except DatabaseError as error:
        log.warning("intervention_unrecorded", **fields, error=str(error).strip())
        return None


def _end(key: int, outcome: str) -> None:
    for last in (False, True):
        try:
            Intervention.objects.filter(pk=key).update(outcome=outcome)
        except DatabaseError as error:
            connection.close()  # it may be one to the former primary
            if last:
                log.warning("intervention_unrecorded", id=key, outcome=outcome, error=str(error).strip())
        else:
            return
