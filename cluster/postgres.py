"""PostgreSQL as seen from outside: whose postmaster runs in a data directory, and the role and databases of Tally.

It starts and promotes nothing: that is Patroni's. It ends a postmaster only where no Patroni is left to do it.
"""

from __future__ import annotations

import signal
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, LiteralString

import psutil

from . import probes, processes
from .configs import CONTROL_DATABASE, DATABASE, ROLE
from .layout import PATRONI_USER

if TYPE_CHECKING:
    import psycopg
    from psycopg import sql

STOP_SECONDS = 20.0  # for a fast shutdown, then for an immediate one


# Patroni's words while it makes a data directory: no postmaster runs, however long that takes on a busy machine.
MAKING = {"initializing new cluster", "creating replica"}


class Node:
    """One PostgreSQL server, observed: its row in the status, and whether it is the primary."""

    def __init__(  # noqa: PLR0913
        self, shard: int, node: int, home: Path, *, port: int, patroni_port: int, patroni_password: str
    ) -> None:
        self.name = f"postgres-{shard}-{node}"
        self.shard, self.node = shard, node
        self.data = home / "data"
        self._pid_file, self._standby_file = self.data / "postmaster.pid", self.data / "standby.signal"
        self.port, self.patroni_port = port, patroni_port
        self._patroni_password = patroni_password
        self.pid: int | None = None
        self.create_time: float | None = None
        self.state = "stopped"
        self.said: str | None = None  # Patroni's own word for the state
        self.primary = False
        self.streaming = False
        self.restarts = 0
        self._last_pid: int | None = None
        self._was_running = False
        self._before: tuple[object, ...] = (None, "stopped", False, False)  # its row when Patroni was asked last
        self._process: psutil.Process | None = None
        self._written = (0, 0)  # inode and time of the postmaster.pid that named it

    def look(self) -> bool:
        """Look which postmaster runs. Whether Patroni is to be asked, as something is amiss or new."""
        before = self.pid
        self._process = self._postmaster()
        self._take_pid(self._process)
        return not self.serving or self.pid != before or self.primary == self._is_standby

    async def ask(self) -> bool:
        """Ask Patroni. Whether anything of its row changed since it was asked last."""
        answer = await probes.patroni(self.patroni_port, self._patroni_password)
        runs = self._process is not None
        if answer:
            self.said = answer.get("state")
            self.primary = answer.get("role") == "primary" and runs
        self.streaming = runs and answer.get("replication_state") == "streaming"
        self.state = self._state(answered=bool(answer))
        self._was_running = self._was_running or self.state == "running"
        before, self._before = self._before, (self.pid, self.state, self.primary, self.streaming)
        return before != self._before

    def tell_patroni(self, method: str, path: str, body: Mapping[str, Any], seconds: float) -> tuple[int, str]:
        """Call its Patroni's REST API. Status and text of the answer; 0 and the reason if none comes within `seconds`."""
        import urllib3

        login = urllib3.make_headers(basic_auth=f"{PATRONI_USER}:{self._patroni_password}")
        url = f"http://127.0.0.1:{self.patroni_port}{path}"
        try:
            answer = urllib3.request(method, url, json=body, headers=login, timeout=seconds, retries=False)
        except urllib3.exceptions.HTTPError as error:
            return 0, str(error)
        return answer.status, answer.data.decode(errors="replace").strip()

    def _postmaster(self) -> psutil.Process | None:
        """As `postmaster`; its file is read only when PostgreSQL has written it anew."""
        try:
            found = self._pid_file.stat()
        except OSError:
            return None
        written = found.st_ino, found.st_mtime_ns
        if self._process is None or written != self._written:
            self._written = written
            return postmaster(self.data)
        return None if processes.is_gone(self._process) else self._process

    @property
    def _is_standby(self) -> bool:
        """Whether its PostgreSQL was started as a replica, and was not promoted since."""
        return self._standby_file.exists()

    def _take_pid(self, process: psutil.Process | None) -> None:
        self.pid = process.pid if process else None
        self.create_time = process.create_time() if process else None
        if self.pid is not None and self.pid != self._last_pid:
            self.restarts += int(self._last_pid is not None and self._was_running)
            self._last_pid = self.pid

    def _state(self, *, answered: bool) -> str:
        if self.pid is None:
            return "backoff" if answered and self._was_running else "starting" if answered else "stopped"
        if not answered:
            return self.state if self.state == "running" else "starting"
        return "running" if self.said == "running" else "starting"

    @property
    def failing(self) -> bool:
        """Whether its PostgreSQL does not start, as far as Patroni has told."""
        return self.said == "start failed" or (self.said not in {None, *MAKING} and self.pid is None)

    @property
    def serving(self) -> bool:
        """Whether it does its part: takes writes, or follows who does."""
        return self.state == "running" and (self.primary or self.streaming)


def postmaster(data: Path) -> psutil.Process | None:
    """The running postmaster of a data directory, never a stranger who got the pid of a stale postmaster.pid."""
    try:
        lines = (data / "postmaster.pid").read_text().splitlines()
        process = psutil.Process(int(lines[0]))
        known = abs(process.create_time() - int(lines[2])) <= 5
    except (OSError, ValueError, IndexError, psutil.Error):
        return None
    return process if known and not processes.is_gone(process) else None


def stop_orphan(data: Path) -> bool:
    """End the postmaster of a data directory whose Patroni is gone: fast, then immediate, then SIGKILL."""
    process = postmaster(data)
    if process is None:
        return False
    servers = family(process)
    for number in (signal.SIGINT, signal.SIGQUIT, signal.SIGKILL):
        processes.send([process], number)
        if not processes.wait([process], STOP_SECONDS):
            break
    processes.send(processes.wait(servers, 3), signal.SIGKILL)
    return True


def family(postmaster: psutil.Process) -> list[psutil.Process]:
    """A postmaster and its children."""
    try:
        return [postmaster, *postmaster.children(recursive=True)]
    except psutil.Error:
        return [postmaster]


async def provide(port: int, superuser_password: str, passwords: Mapping[str, str], *, control: bool) -> None:
    """Roles (name → password) and databases of Tally on a primary, where they are not there yet; `control` with Django's
    own database. The roles of the processes get their password each time: a version before that had none forgot it."""
    import psycopg
    from psycopg import sql

    databases = [DATABASE, CONTROL_DATABASE] if control else [DATABASE]
    login: Callable[[str], str] = lambda name: psycopg.conninfo.make_conninfo(  # noqa: E731
        host="127.0.0.1", port=port, user="postgres", password=superuser_password, dbname=name, connect_timeout=5
    )
    async with await psycopg.AsyncConnection.connect(login("postgres"), autocommit=True) as connection:
        for name, password in passwords.items():
            if not await _exists(connection, "SELECT 1 FROM pg_roles WHERE rolname = %s", name):
                await _create_role(connection, name, password)
            elif name != ROLE:
                await connection.execute("SET synchronous_commit = local")  # no replica may follow yet
                await connection.execute(_with_password(connection, "ALTER ROLE {} PASSWORD {}", name, password))
        for name in databases:
            if not await _exists(connection, "SELECT 1 FROM pg_database WHERE datname = %s", name):
                statement = sql.SQL("CREATE DATABASE {} OWNER {}").format(sql.Identifier(name), sql.Identifier(ROLE))
                await connection.execute(statement)
    async with await psycopg.AsyncConnection.connect(login(DATABASE), autocommit=True) as connection:
        await connection.execute("SET client_min_messages = warning")
        await connection.execute("CREATE EXTENSION IF NOT EXISTS pg_stat_statements")


async def _exists(connection: psycopg.AsyncConnection, query: str, name: str) -> bool:
    return await (await connection.execute(query, (name,))).fetchone() is not None


async def _create_role(connection: psycopg.AsyncConnection, name: str, password: str) -> None:
    from psycopg import sql

    create = "CREATE ROLE {} LOGIN NOSUPERUSER NOCREATEDB NOCREATEROLE PASSWORD {}"
    async with connection.transaction():
        await connection.execute(_with_password(connection, create, name, password))
        await connection.execute(sql.SQL("GRANT pg_monitor TO {}").format(sql.Identifier(name)))


def _with_password(
    connection: psycopg.AsyncConnection, statement: LiteralString, name: str, password: str
) -> sql.Composed:
    """The password goes out as its SCRAM verifier, so that no log shows it."""
    from psycopg import sql

    verifier = connection.pgconn.encrypt_password(password.encode(), name.encode(), b"scram-sha-256").decode()
    return sql.SQL(statement).format(sql.Identifier(name), sql.Literal(verifier))
