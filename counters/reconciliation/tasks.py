"""The Celery tasks of reconciliation and healing. Tasks that apply writes are in `counters.apply.tasks`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from celery import shared_task
from django.conf import settings

from counters.reconciliation import rounds
from replication import healing
from replication.digests import Busy

_AGAIN_SECONDS = 1.0


@shared_task(name=rounds.TASK, bind=True, ignore_result=True, max_retries=None)
def reconcile(self: Any, shards: Sequence[int] | None = None, asked: float = 0.0) -> None:
    """Run a round over some shards, or all, except those that had one since `asked`. Retries later while another round
    runs. Raises `ValueError` for an unknown shard."""
    known = range(settings.TALLY.shard_count)
    wanted = list(known if shards is None else shards)
    if unknown := set(wanted) - set(known):
        raise ValueError(f"there is no shard {min(unknown)}: TALLY_SHARDS has {len(known)}")
    due = [shard for shard in wanted if not (asked and (done := rounds.last(shard)) and done.started >= asked)]
    try:
        rounds.run(due)
    except Busy as busy:
        raise self.retry(exc=busy, countdown=_AGAIN_SECONDS) from busy


@shared_task(name="counters.heal", ignore_result=True, send_events=False)  # one every two seconds, for ever
def heal() -> None:
    """Look at every replica once, and have one copied again if that is due (`replication.healing`). Shards whose replica
    is back after it differed are compared."""
    if shards := healing.look():
        rounds.request(sorted(shards))
