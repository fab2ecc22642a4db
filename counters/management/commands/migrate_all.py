"""`manage.py migrate_all`: migrate the control database and every shard, then put the topology in force."""

from typing import Any

import psycopg
from django.conf import settings
from django.core.management import call_command
from django.core.management.base import BaseCommand, CommandError
from django.db import connections
from django.db.migrations.executor import MigrationExecutor

from counters.apply import fill, partitions
from runtime.commands import in_words
from sharding import databases, grants, migrating, roles, topology


class Command(BaseCommand):
    help = (
        "Migrate the control database and every shard, give each role its rights, and put the topology in force. "
        "Safe to run again."
    )
    requires_system_checks = ()

    def handle(self, *_args: Any, **options: Any) -> None:
        for kind in (databases.BoundedConnection, databases.ControlConnection):
            kind.timeout = None  # migrations have no time-out
        shards = settings.TALLY.shard_count
        with in_words():
            call_command("migrate", interactive=False, verbosity=max(0, options["verbosity"] - 1))
            for shard in range(shards):
                migrate_shard(shard)
        self._grant([databases.CONTROL, *map(databases.primary, range(shards))])
        try:
            topology.put_in_force(shards, settings.TALLY.lanes)
            refilled = sum(map(fill.put_in_force, range(shards)))
            in_force = topology.reload()
        except (topology.WrongShard, ValueError) as error:
            raise CommandError(str(error)) from error
        except psycopg.Error as error:
            raise CommandError(
                f"the topology could not be put in force: {str(error).strip()}. Run it again."
            ) from error
        if refilled:
            percent = settings.TALLY.counter_fillfactor
            self.stdout.write(f"{refilled} partitions fill new pages to {percent} %; full pages stay as they are")
        self.stdout.write(
            f"migrated control and {shards} shards; topology version {in_force.version}, {in_force.lane_count} lanes a shard"
        )

    def _grant(self, aliases: list[str]) -> None:
        """Give the roles of the processes their rights, where a superuser has made these roles."""
        for alias in aliases:
            try:
                with databases.connect(alias, autocommit=True) as conn:
                    if missing := roles.missing(conn.execute(roles.EXISTING).fetchall()):
                        self.stdout.write(
                            f"{alias}: no role {' or '.join(missing)}, so every process needs the owner's; "
                            "docs/security.md#roles-of-postgresql says how to make them"
                        )
                    else:
                        grants.grant(conn, control=alias == databases.CONTROL)
            except psycopg.Error as error:
                raise CommandError(
                    f"{alias}: the rights were not given: {str(error).strip()}. Run it again."
                ) from error


def migrate_shard(shard: int) -> None:
    """Apply the migrations of the apps that have tables on shards, and make the time partitions that are due (beat makes
    later ones). `migrate` would apply those of every app, which change nothing there and take a second."""
    executor = MigrationExecutor(connections[databases.primary(shard)])
    executor.loader.check_consistent_history(executor.connection)
    executor.migrate(migrating.targets(executor))
    partitions.create_ahead(shard)
