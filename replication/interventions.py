"""The record of what operators did, by whom and why: always in the log, and in the control database.

The row is written before the action, so it exists even if this process dies; the outcome is added afterwards. Shard 0's
own failover may take the control database down. That must not prevent the action, and the log has the record anyway.
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
    """Who orders an action, and why."""

    by: str
    reason: str


@dataclass(slots=True)
class Record:
    """The record of one action; the block that acts sets `outcome`."""

    outcome: str = ""


@contextmanager
def recorded(shard: int | None, action: str, order: Order, node: str = "") -> Iterator[Record]:
    """Record what the block does to a shard, or to what belongs to none. An exception becomes the outcome if the block has set none."""
    fields: dict[str, object] = {"shard": shard, "action": action, "node": node, "by": order.by, "reason": order.reason}
    key = _begin(fields)
    record = Record()
    try:
        yield record
    except Exception as error:
        record.outcome = record.outcome or f"not done: {error}"
        raise
    finally:
        log.info("intervention", **_logged(fields), outcome=record.outcome)
        if key is not None:
            _end(key, record.outcome)


def _logged(fields: dict[str, object]) -> dict[str, object]:
    """The fields of the event: `node` is the process that logs, in every event, so the server has another name."""
    return {"server" if name == "node" else name: value for name, value in fields.items()}


def _begin(fields: dict[str, object]) -> int | None:
    try:
        return Intervention.objects.create(**fields).pk
    except DatabaseError as error:
        log.warning("intervention_unrecorded", **_logged(fields), error=str(error).strip())
        return None


def _end(key: int, outcome: str) -> None:
    for last in (False, True):
        try:
            Intervention.objects.filter(pk=key).update(outcome=outcome)
        except DatabaseError as error:
            connection.close()  # it may lead to the former primary
            if last:
                log.warning("intervention_unrecorded", id=key, outcome=outcome, error=str(error).strip())
        else:
            return
