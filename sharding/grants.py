"""Gives the roles of the processes their rights (`sharding.roles`) in a database."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import psycopg
from psycopg import sql

from sharding import roles
from sharding.roles import Right

OWN_TABLES = """
SELECT relname FROM pg_class
WHERE relnamespace = 'public'::regnamespace AND relkind IN ('r', 'p', 'v') AND relowner = current_user::regrole ORDER BY 1"""


def grant(conn: psycopg.Connection[Any], *, control: bool) -> None:
    """Give each role its rights, and take away all others, in one transaction: no process sees anything between.

    The connection is the owner's. Safe to run again; the roles must exist. Raises `psycopg.Error`.
    """
    with conn.transaction():
        tables = [name for (name,) in conn.execute(OWN_TABLES).fetchall()]
        both = _names(roles.ROLES)
        database = sql.Identifier(conn.info.dbname)
        statements = [
            sql.SQL("REVOKE CREATE, TEMPORARY ON DATABASE {} FROM PUBLIC, {}").format(database, both),
            sql.SQL("GRANT CONNECT ON DATABASE {} TO {}").format(database, both),
            sql.SQL("REVOKE CREATE ON SCHEMA public FROM PUBLIC, {}").format(both),
            sql.SQL("GRANT USAGE ON SCHEMA public TO {}").format(both),
            sql.SQL("REVOKE ALL ON {} FROM PUBLIC, {}").format(_names(tables), both),
            *map(_statement, roles.on_control(tables) if control else roles.on_shard(tables)),
            *([] if control else _partitions()),
        ]
        for statement in statements:
            conn.execute(statement)


def _partitions() -> Iterable[sql.Composed]:
    """Rights to the functions that make and drop partitions, and to the partitions that these make."""
    for function in map(sql.SQL, roles.DAYS):
        yield sql.SQL("REVOKE ALL ON FUNCTION {} FROM PUBLIC, {}").format(function, sql.Identifier(roles.API))
        yield sql.SQL("GRANT EXECUTE ON FUNCTION {} TO {}").format(function, sql.Identifier(roles.WORKER))
    default = sql.SQL("ALTER DEFAULT PRIVILEGES IN SCHEMA public GRANT {} ON TABLES TO {}")
    yield default.format(sql.SQL("SELECT"), sql.Identifier(roles.API))
    yield default.format(sql.SQL(", ").join(map(sql.SQL, roles.ROWS)), sql.Identifier(roles.WORKER))


def _statement(right: Right) -> sql.Composed:
    privileges = sql.SQL(", ").join(map(sql.SQL, right.privileges))
    return sql.SQL("GRANT {} ON {} TO {}").format(privileges, _names(right.tables), sql.Identifier(right.role))


def _names(names: Iterable[str]) -> sql.Composed:
    return sql.SQL(", ").join(map(sql.Identifier, names))
