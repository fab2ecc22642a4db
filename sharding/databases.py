"""Names of the databases, the router between them, and the ways to connect to them.

Each role of a database has a Django alias: `default` (control), `shard-N` (the current primary), `shard-N-replica` (any
replica, or the primary if no replica is up). libpq finds the node (`target_session_attrs`), so a failover needs no
restart and no proxy.

Queries on counters use `connection(alias)`: a psycopg connection from Django's pool, held for one query. Django's
wrapper would hold it until the request ends, so ten waiting requests would take the whole pool.
"""

from __future__ import annotations

import select
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple

import psycopg
from django.conf import settings
from django.db import connections
from django.db.backends.postgresql.base import DatabaseWrapper

from runtime.resources import owned
from sharding import replica_choice as replica_choices
from sharding.replica_choice import Server, Strategy

CONTROL = "default"
ANY_REPLICA = "prefer-standby"  # of libpq's `target_session_attrs`: a replica, or the primary if there is none


class ShardUnavailable(Exception):
    """No node of this shard can serve the request now."""

    def __init__(self, shard: int, reason: str) -> None:
        super().__init__(f"shard {shard} is unavailable: {reason}")
        self.shard = shard


def primary(shard: int) -> str:
    """Alias of a shard's primary."""
    return f"shard-{shard}"


def replica(shard: int) -> str | None:
    """Alias of a shard's replicas; None if it has none."""
    alias = f"shard-{shard}-replica"
    return alias if alias in settings.DATABASES else None


def shard_of(alias: str) -> int:
    """The shard that an alias belongs to; the control database lives on shard 0."""
    return 0 if alias == CONTROL else int(alias.split("-")[1])


class LeftOut:
    """Servers, by (host, port), that new connections to replicas avoid for a while: see `replication.lag`."""

    def __init__(self) -> None:
        self._until: dict[tuple[str, str], float] = {}

    def add(self, conn: psycopg.Connection[Any], seconds: float) -> None:
        """Leave out a connection's server for `seconds`."""
        self._until[conn.info.host, str(conn.info.port)] = time.monotonic() + seconds

    def has(self, conn: psycopg.Connection[Any]) -> bool:
        """Whether a connection's server is left out now."""
        return self._is_out(conn.info.host, str(conn.info.port))

    def has_all(self, alias: str) -> bool:
        """Whether every replica of an alias is left out now."""
        return not self._with_a_replica(_servers_of(alias))

    def others(self, servers: Sequence[Server]) -> list[Server]:
        """Those of the servers of a shard that are not left out; all of them if every replica is."""
        return self._with_a_replica(servers) or list(servers)

    def _with_a_replica(self, servers: Sequence[Server]) -> list[Server]:
        """The servers not left out, or [] if fewer than two remain: one of all servers is the primary."""
        fit = [server for server in servers if not self._is_out(*server)]
        return fit if len(fit) > 1 else []

    def _is_out(self, host: str, port: str) -> bool:
        return self._until.get((host, port), 0.0) > time.monotonic()


@owned
def left_out() -> LeftOut:
    """The servers that this process leaves out."""
    return LeftOut()


@owned
def replica_choice() -> Strategy:
    """How this process chooses a replica for a new connection."""
    return replica_choices.named(settings.TALLY.replica_strategy, time.monotonic)


def keeps(alias: str, conn: psycopg.Connection[Any]) -> bool:
    """Whether a connection to a replica should stay, or another replica is the better choice by now."""
    server = conn.info.host, str(conn.info.port)
    return replica_choice().keeps(server, left_out().others(_servers_of(alias)))


def _servers_of(alias: str) -> list[Server]:
    found = connections[alias].settings_dict
    return _servers(found["HOST"], found["PORT"])


def _servers(hosts: str, ports: str) -> list[Server]:
    return list(zip(hosts.split(","), ports.split(","), strict=True))


class BoundedConnection(psycopg.Connection[Any]):
    """A connection on which nothing takes longer than `timeout` seconds.

    The time-outs of PostgreSQL and TCP need a running server process or a running kernel at the other end. With a
    frozen server (stopped, paged out, behind a dead link) neither takes effect, and a thread would wait forever.
    """

    timeout: float | None = 10.0

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.opened = time.monotonic()

    @classmethod
    def connect(cls, conninfo: str = "", **params: Any) -> BoundedConnection:
        """As psycopg's, but which replica a connection goes to is chosen here, and avoids the servers left out."""
        if params.get("target_session_attrs") != ANY_REPLICA:
            return super().connect(conninfo, **params)
        choice = replica_choice()
        order = choice.order(left_out().others(_servers(params["host"], params["port"])))
        hosts, ports = zip(*order, strict=True)
        conn = super().connect(conninfo, **params | {"host": ",".join(hosts), "port": ",".join(ports)})
        choice.connected(order, (conn.info.host, str(conn.info.port)))
        return conn

    def wait(self, gen: Any, interval: float = 0.1, timeout: float | None = None) -> Any:
        try:
            return super().wait(gen, interval, self.timeout if timeout is None else timeout)
        except psycopg.errors._WaitTimeout as error:
            self.close()
            raise psycopg.OperationalError(f"no answer within {self.timeout} s") from error


class ControlConnection(BoundedConnection):
    """A connection to the control database. Its time-out is short: its queries are small, and people wait for them."""

    timeout: float | None = 2.5


@contextmanager
def connection(alias: str, seconds: float | None = None) -> Iterator[BoundedConnection]:
    """A pooled psycopg connection in autocommit, for the duration of the block. Raises `psycopg.OperationalError`.

    Getting it takes `seconds` at most, and so does each answer. The default is `database_timeout_seconds`.
    """
    pool = connections[alias].pool  # type: ignore[attr-defined]
    pool.open()
    seconds = seconds or settings.TALLY.database_timeout_seconds
    while is_stale(conn := pool.getconn(timeout=seconds)):
        conn.close()
        pool.putconn(conn)
    try:
        conn.timeout = seconds
        yield conn
    finally:
        conn.timeout = type(conn).timeout
        pool.putconn(conn)


class PoolState(NamedTuple):
    """Connections of this process's pool that are in use, those that are idle, and requests that wait for one."""

    used: int
    idle: int
    waiting: int


def pools() -> dict[str, PoolState]:
    """The pools that this process has opened, by alias."""
    found = {}
    for alias, pool in dict(DatabaseWrapper._connection_pools).items():  # type: ignore[attr-defined]
        stats = pool.get_stats()
        size, idle = stats.get("pool_size", 0), stats.get("pool_available", 0)
        found[alias] = PoolState(size - idle, idle, stats.get("requests_waiting", 0))
    return found


def is_stale(conn: psycopg.Connection[Any]) -> bool:
    """Whether the server has closed an idle connection, which then has data to read. Needs no round trip."""
    look = select.poll()  # `select` takes no descriptors above 1023
    look.register(conn.fileno(), select.POLLIN)
    return bool(look.poll(0))


def connect(alias: str, *, timeout: float | None = None, **options: Any) -> psycopg.Connection[Any]:
    """Open an unpooled connection with an alias's parameters; nothing on it takes longer than `timeout` seconds."""
    params = {**connections[alias].get_connection_params(), "cursor_factory": psycopg.Cursor, **options}
    conn = BoundedConnection.connect(**params)
    conn.timeout = timeout
    return conn


class Router:
    """Django's own tables live in the control database; `hints={"shard": True}` marks migrations for every shard."""

    def db_for_read(self, _model: Any, **_: Any) -> str | None:
        return CONTROL

    db_for_write = db_for_read

    def allow_migrate(self, db: str, _app_label: str, **hints: Any) -> bool:
        if db.endswith("-replica"):
            return False
        return (db != CONTROL) == bool(hints.get("shard", False))
