"""Which migrations a database needs: the control database those of every app, a shard those of the apps that have tables on
shards."""

from __future__ import annotations

from django.db import connections
from django.db.migrations import Migration
from django.db.migrations.executor import MigrationExecutor

from sharding import databases


def targets(executor: MigrationExecutor) -> list[tuple[str, str]]:
    """The newest migrations, by app and name, of what belongs into the executor's database."""
    leaves: list[tuple[str, str]] = executor.loader.graph.leaf_nodes()
    if executor.connection.alias == databases.CONTROL:
        return leaves
    apps = {app for (app, _), migration in executor.loader.disk_migrations.items() if is_for_shards(migration)}
    return [leaf for leaf in leaves if leaf[0] in apps]


def unapplied(alias: str) -> int:
    """How many migrations of this code a database lacks. Raises `django.db.Error`."""
    try:
        executor = MigrationExecutor(connections[alias])
        return len(executor.migration_plan(targets(executor)))
    finally:
        connections[alias].close()


def is_for_shards(migration: Migration) -> bool:
    """Whether it changes tables on shards."""
    return any(getattr(operation, "hints", {}).get("shard") for operation in migration.operations)
