"""The Celery tasks of likes."""

from __future__ import annotations

from contextlib import suppress

import psycopg
import structlog
from celery import shared_task
from celery.worker import state
from django.db import OperationalError
from redis.exceptions import RedisError

from counters import service
from likes import locks, removals
from likes.models import Removal
from sharding.databases import ShardUnavailable
from sharding.topology import NoTopology

log = structlog.get_logger(__name__)


@shared_task(name=removals.TASK, ignore_result=True)
def remove_users() -> None:
    """Do every removal that is asked for, one after the other. One process at a time: a second one returns at once."""
    if not removals.exist():
        return
    with suppress(locks.Taken), locks.removing():
        try:
            with locks.no_replay(), service.in_background():
                for removal in removals.unfinished():
                    _run(removal)
        except locks.Taken:
            for removal in removals.unfinished():
                removals.wait(removal, "events are being replayed (manage.py likes replay)")


def _run(removal: Removal) -> None:
    try:
        removals.run(removal, stopping=lambda: state.should_stop is not None)
    except (removals.Unfinished, psycopg.Error, RedisError, NoTopology, ShardUnavailable, OperationalError) as error:
        removals.wait(removal, str(error).strip())
