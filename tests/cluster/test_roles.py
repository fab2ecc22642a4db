"""What PostgreSQL refuses the roles of the processes, asked as these roles."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from datetime import date
from typing import Any

import httpx
import psycopg
import pytest
from psycopg.errors import InsufficientPrivilege, InvalidParameterValue

from cluster import configs
from sharding import databases, grants, roles
from tests.support.cluster import Cluster
from tests.support.shards import key_on, rows

SHARD = "shard-0"
CHANGES_OF_TABLES = ("ALTER TABLE {} ADD COLUMN more int", "DROP TABLE {}", "TRUNCATE {}", "CREATE INDEX ON {} ((1))")
ACCOUNTS = (
    *("auth_user", "auth_group", "auth_user_groups", "auth_user_user_permissions", "auth_permission"),
    *("otp_totp_totpdevice", "otp_static_staticdevice", "otp_static_statictoken"),
    *("counters_apikey", "counters_limits", "django_session", "django_admin_log", "django_migrations"),
)
LOG_INS = """
SELECT DISTINCT usename, application_name FROM pg_stat_activity
WHERE backend_type = 'client backend' AND datname LIKE 'tally%%'"""

LogIn = Callable[[str, str], psycopg.Connection[Any]]


@pytest.fixture(scope="module")
def log_in(cluster: Cluster) -> Iterator[LogIn]:
    """A connection to the primary of a Django alias as a role."""
    secrets = json.loads((cluster.dir / "secrets.json").read_text())
    with ExitStack() as stack:
        opened: dict[tuple[str, str], psycopg.Connection[Any]] = {}

        def open_(role: str, alias: str) -> psycopg.Connection[Any]:
            if (role, alias) not in opened:
                conn = databases.connect(alias, timeout=10, user=role, password=secrets[role], autocommit=True)
                opened[role, alias] = stack.enter_context(conn)
            return opened[role, alias]

        yield open_


def refused(conn: psycopg.Connection[Any], statement: str) -> bool:
    """Whether the server refuses a statement for want of a right; undone if it does not."""
    try:
        with conn.transaction(force_rollback=True):
            conn.execute(statement)
    except InsufficientPrivilege:
        return True
    return False


def test_each_process_has_the_role_of_its_kind(cluster: Cluster, client: httpx.Client) -> None:
    for shard in (0, 1):
        client.post(f"/v1/counters/{key_on(shard, 'role')}/increments?wait=10", json={"delta": 1}).raise_for_status()
    wanted = {row["name"]: roles.API for row in cluster.processes("api")}
    wanted |= {row["name"]: roles.WORKER for kind in ("worker", "spill-worker") for row in cluster.processes(kind)}
    found = {(user, name) for shard in (0, 1) for user, name in rows(shard, LOG_INS) if name in wanted}
    assert {name for _, name in found} >= {"api-1", "worker-0-1"}
    assert {(user, name) for user, name in found if wanted[name] != user} == set()


@pytest.mark.parametrize("role", roles.ROLES)
@pytest.mark.parametrize(("alias", "table"), [("default", "auth_user"), (SHARD, "counter"), (SHARD, "ledger")])
def test_no_process_may_change_tables(log_in: LogIn, role: str, alias: str, table: str) -> None:
    conn = log_in(role, alias)
    statements = [statement.format(table) for statement in CHANGES_OF_TABLES]
    statements += ["CREATE TABLE own (a int)", "CREATE TEMPORARY TABLE own (a int)", "CREATE SCHEMA own"]
    statements += [f"SET ROLE {configs.ROLE}", "DELETE FROM django_migrations"]
    assert [statement for statement in statements if not refused(conn, statement)] == []


def test_an_api_process_only_reads_shards(log_in: LogIn) -> None:
    conn = log_in(roles.API, SHARD)
    tables = [
        name for (name,) in conn.execute("SELECT relname FROM pg_class WHERE relname ~ '^(counter|outcome|.*like)'")
    ]
    for table in ("counter", "ledger", "outcome", "idempotency", "apply_state", "shard_state", "user_likes"):
        assert not refused(conn, f"SELECT FROM {table} LIMIT 1"), table
        assert refused(conn, f"DELETE FROM {table}"), table
        assert refused(conn, f"UPDATE {table} SET {column(conn, table)} = NULL"), table
    assert {"counter", "user_likes", "like_events"} <= {*tables}


def column(conn: psycopg.Connection[Any], table: str) -> str:
    found = conn.execute(
        "SELECT attname FROM pg_attribute WHERE attrelid = %s::regclass AND attnum > 0 AND NOT attisdropped", (table,)
    )
    name: str = found.fetchall()[0][0]
    return name


def test_a_worker_may_not_see_accounts(log_in: LogIn) -> None:
    conn = log_in(roles.WORKER, "default")
    assert [table for table in ACCOUNTS if not refused(conn, f"SELECT FROM {table}")] == []
    assert [table for table in ACCOUNTS if not refused(conn, f"DELETE FROM {table}")] == []


def test_a_worker_may_see_nothing_but_what_is_listed(log_in: LogIn) -> None:
    """A new table of the control database is closed to workers until somebody lists it."""
    query = "SELECT relname FROM pg_class WHERE relkind IN ('r', 'v') AND relnamespace = 'public'::regnamespace AND "
    conn = log_in(roles.WORKER, "default")
    seen = conn.execute(query + "has_table_privilege(oid, 'SELECT, INSERT, UPDATE, DELETE, TRUNCATE')").fetchall()
    assert {name for (name,) in seen} == {*roles.WORKERS_TABLES}


@pytest.mark.parametrize("role", roles.ROLES)
def test_an_intervention_stays_as_it_was_ordered(log_in: LogIn, role: str) -> None:
    conn, table = log_in(role, "default"), "replication_intervention"
    assert not refused(conn, f"UPDATE {table} SET outcome = 'done'")
    assert not refused(
        conn, f"INSERT INTO {table} (at, action, node, reason, by, outcome) VALUES (now(), '', '', '', '', '')"
    )
    assert refused(conn, f"UPDATE {table} SET by = 'somebody else'")
    assert refused(conn, f"DELETE FROM {table}")


def test_a_worker_makes_and_drops_days_and_no_other_tables(log_in: LogIn) -> None:
    worker, day = log_in(roles.WORKER, SHARD), date(1999, 12, 31)
    make, drop = "SELECT create_day(%s, %s, %s, %s)", "SELECT drop_day(%s, %s)"
    with worker.transaction(force_rollback=True):
        worker.execute(make, ("idempotency", day, "1999-12-31", "2000-01-01"))
        owner, readers = worker.execute(
            "SELECT pg_get_userbyid(relowner), has_table_privilege(%s, oid, 'SELECT') FROM pg_class"
            " WHERE oid = 'idempotency_19991231'::regclass",
            (roles.API,),
        ).fetchall()[0]
        assert (owner, readers) == (configs.ROLE, True)
        worker.execute("DELETE FROM idempotency_19991231")
        worker.execute(drop, ("idempotency", day))
        assert worker.execute("SELECT to_regclass('idempotency_19991231')").fetchall() == [(None,)]
    for statement, arguments in (
        (make, ("counter", day, "1", "2")),
        (make, ("django_migrations", day, "1", "2")),
        (drop, ("ledger_default); DROP TABLE counter; --", day)),
        (drop, ("idempotency", day)),
    ):
        with pytest.raises((InvalidParameterValue, psycopg.errors.UndefinedTable)):
            worker.execute(statement, arguments)
    assert refused(log_in(roles.API, SHARD), "SELECT drop_day('ledger', '1999-12-31')")


def test_rights_that_somebody_added_are_taken_away(log_in: LogIn) -> None:
    with databases.connect("default", timeout=10, autocommit=True) as owner:
        owner.execute("GRANT SELECT ON auth_user TO tally_worker, PUBLIC")
        assert not refused(log_in(roles.WORKER, "default"), "SELECT FROM auth_user")
        grants.grant(owner, control=True)
    assert refused(log_in(roles.WORKER, "default"), "SELECT FROM auth_user")
