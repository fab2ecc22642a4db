"""Names of the databases, the router between them, and the ways to connect to them.

One Django alias for each thing a process can want: `default` (control), `shard-N` (whoever is primary now),
`shard-N-replica` (any replica, the primary if none is there). libpq finds the node (`target_session_attrs`), so a
failover needs no restart and no proxy.

Counters are reached with `connection(alias)`: psycopg from Django's pool, held for the one query, not Django's wrapper,
which would hold it until the request ends and so let ten waiting requests take the whole pool.
"""

from __future__ import annotations

import select
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import psycopg
from django.conf import settings
from django.db import connections

CONTROL = "default"
ANY_REPLICA = "prefer-standby"  # of libpq's `target_session_attrs`: a replica, or the primary if there is none


class ShardUnavailable(Exception):
    """No node of this shard could do what was asked, for now."""

    def __init__(self, shard: int, reason: str) -> None:
        super().__init__(f"shard {shard} is unavailable: {reason}")
        self.shard = shard


def primary(shard: int) -> str:
    """Alias of a shard's primary."""
    return f"shard-{shard}"


def replica(shard: int) -> str | None:
    """Alias of a shard's replicas; none where it has none."""
    alias = f"shard-{shard}-replica"
    return alias if alias in settings.DATABASES else None


def shard_of(alias: str) -> int:
    """The shard that an alias belongs to; the control database lives on shard 0."""
    return 0 if alias == CONTROL else int(alias.split("-")[1])


class LeftOut:
    """Servers that new connections to replicas avoid for a while, by (host, port): see `replication.lag`."""

    def __init__(self) -> None:
        self._until: dict[tuple[str, str], float] = {}

    def add(self, conn: psycopg.Connection[Any], seconds: float) -> None:
        """Leave the server of a connection out for so long."""
        self._until[conn.info.host, str(conn.info.port)] = time.monotonic() + seconds

    def has(self, conn: psycopg.Connection[Any]) -> bool:
        """Whether the server of a connection is left out now."""
        return self._is_out(conn.info.host, str(conn.info.port))

    def has_all(self, alias: str) -> bool:
        """Whether every replica of an alias is left out now."""
        found = connections[alias].settings_dict
        return not self._with_a_replica(found["HOST"], found["PORT"])

    def others(self, hosts: str, ports: str) -> dict[str, str]:
        """`host` and `port` of a connection without what is left out; all of them if every replica is."""
        fit = self._with_a_replica(hosts, ports)
        return {"host": ",".join(host for host, _ in fit), "port": ",".join(port for _, port in fit)} if fit else {}

    def _with_a_replica(self, hosts: str, ports: str) -> list[tuple[str, str]]:
        """The servers that are not left out, if a replica is among them; one of all the servers is the primary."""
        fit = [one for one in zip(hosts.split(","), ports.split(","), strict=True) if not self._is_out(*one)]
        return fit if len(fit) > 1 else []

    def _is_out(self, host: str, port: str) -> bool:
        return self._until.get((host, port), 0.0) > time.monotonic()


left_out = LeftOut()


class BoundedConnection(psycopg.Connection[Any]):
    """A connection on which nothing takes longer than `timeout` seconds.

    PostgreSQL's own time-outs and TCP's work while its process, or the other host's kernel, works. A server that stands
    still (stopped, paged out, behind a dead link) answers none of them, and a thread would wait for ever.
    """

    timeout: float | None = 10.0

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.opened = time.monotonic()

    @classmethod
    def connect(cls, conninfo: str = "", **params: Any) -> BoundedConnection:
        """As psycopg's; a replica is looked for among those that are not left out."""
        if params.get("target_session_attrs") == ANY_REPLICA:
            params |= left_out.others(params["host"], params["port"])
        return super().connect(conninfo, **params)

    def wait(self, gen: Any, interval: float = 0.1, timeout: float | None = None) -> Any:
        try:
            return super().wait(gen, interval, self.timeout if timeout is None else timeout)
        except psycopg.errors._WaitTimeout as error:
            self.close()
            raise psycopg.OperationalError(f"no answer within {self.timeout} s") from error


class ControlConnection(BoundedConnection):
    """A connection to the control database. Its queries are small and people wait for them: it gives up soon."""

    timeout: float | None = 2.5


@contextmanager
def connection(alias: str, seconds: float | None = None) -> Iterator[BoundedConnection]:
    """A pooled psycopg connection in autocommit, for as long as the block lasts. Raises `psycopg.OperationalError`.

    To get it takes `seconds` at most, and so does each answer; `database_timeout_seconds` if they are not given.
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


def is_stale(conn: psycopg.Connection[Any]) -> bool:
    """Whether the server has hung up: an idle connection with something to read. Costs no round trip."""
    look = select.poll()  # `select` knows no descriptors above 1023
    look.register(conn.fileno(), select.POLLIN)
    return bool(look.poll(0))


def connect(alias: str, *, timeout: float | None = None, **options: Any) -> psycopg.Connection[Any]:
    """A connection of one's own, with the alias's parameters, on which nothing takes longer than `timeout` seconds."""
    params = {**connections[alias].get_connection_params(), "cursor_factory": psycopg.Cursor, **options}
    conn = BoundedConnection.connect(**params)
    conn.timeout = timeout
    return conn


class Router:
    """Django's own tables live in the control database; `hints={"shard": True}` marks what belongs into every shard."""

    def db_for_read(self, _model: Any, **_: Any) -> str | None:
        return CONTROL

    db_for_write = db_for_read

    def allow_migrate(self, db: str, _app_label: str, **hints: Any) -> bool:
        if db.endswith("-replica"):
            return False
        return (db != CONTROL) == bool(hints.get("shard", False))
