"""`manage.py after_restore`: make journal and cache agree with shards of which one, or the journal, was restored."""

from __future__ import annotations

from typing import Any

import psycopg
from django.core.management.base import BaseCommand, CommandError
from redis.exceptions import RedisError

from counters.apply import restored
from counters.intake.journal import TooFewCopies
from sharding.topology import NoTopology


class Command(BaseCommand):
    help = (
        "Run once after a shard or the journal was restored, before API processes and workers start: positions are set "
        "past all that the shards have, the cache is emptied. Safe to run again."
    )
    requires_system_checks = ()

    def handle(self, *_args: Any, **_options: Any) -> None:
        try:
            done = restored.settle()
        except (NoTopology, psycopg.Error) as error:
            raise CommandError(f"{str(error).strip()}: every shard's primary must be up. Then run it again.") from error
        except TooFewCopies as error:
            raise CommandError(f"{error}: bring the replica back, then run it again. See docs/journal.md.") from error
        except RedisError as error:
            raise CommandError(
                f"the journal or the cache does not answer ({error}): start it, then run it again."
            ) from error
        self.stdout.write(
            f"positions go on after {done.clock}; {done.cached} entries of the cache deleted; "
            f"{done.set_aside} batches older than the ledger set aside"
        )
