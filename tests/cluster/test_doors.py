"""Closed doors: another user of the machine reads nothing of a cluster and changes nothing, whatever it connects to.

The looks are those of an unprivileged user: as root in a child that gives root up, otherwise as this user, for whom
ports and arguments are as open as for any other. What an owner may read (files, environments) is then left out.
"""

from __future__ import annotations

import json
import os
import pickle
import socket
import stat
import struct
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import psutil
import pytest

from cluster import leftovers
from cluster.layout import Directory
from tests.support.cluster import Cluster

NOBODY = 65534
PUBLIC = {"nginx", "api"}  # roles that serve everybody
PATHS = (
    *("/", "/metrics", "//metrics", "/metrics/", "/health", "/healthcheck", "/liveness", "/patroni", "/cluster"),
    *("/config", "/history", "/version", "/debug/vars", "/members", "/api/workers", "/static/", "/flower-users"),
    *("/.problem/401", "/v1/counters/a", "/v1/shards", "/admin/login/", "/v1/schema"),
)
CALLS = ("/v3/kv/range", "/v3/maintenance/alarm", "/v3/auth/enable", "/switchover", "/restart", "/v1/increments")
T = TypeVar("T")


def as_nobody(look: Callable[[], T]) -> T:
    """What `look` returns to an unprivileged user."""
    if os.geteuid() != 0:
        return look()
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            os.setgroups([])
            os.setgid(NOBODY)
            os.setuid(NOBODY)
            found: Any = look()
        except BaseException as error:
            found = error
        with os.fdopen(writing, "wb") as pipe:
            pickle.dump(found, pipe)
        os._exit(0)
    os.close(writing)
    with os.fdopen(reading, "rb") as pipe:
        said: T = pickle.load(pipe)
    os.waitpid(child, 0)
    if isinstance(said, BaseException):
        raise said
    return said


@pytest.fixture(scope="module")
def secrets(cluster: Cluster) -> list[bytes]:
    return secrets_of(cluster)


@pytest.fixture(scope="module")
def processes(cluster: Cluster) -> list[psutil.Process]:
    return processes_of(cluster)


def secrets_of(cluster: Cluster) -> list[bytes]:
    """All that nobody else may see."""
    kept = json.loads((cluster.dir / "secrets.json").read_text())
    return [value.encode() for value in [*kept.values(), cluster.key]]


def processes_of(cluster: Cluster) -> list[psutil.Process]:
    """Every process of the cluster, with its supervisor. A server of PostgreSQL writes over its environment."""
    known = [psutil.Process(row["pid"]) for row in cluster.status()["processes"]]
    children = [
        child for process in known for found in if_alive(partial(process.children, recursive=True)) for child in found
    ]
    return list({*known, *children, *leftovers.marked(Directory(cluster.dir))})


def if_alive(question: Callable[[], T]) -> list[T]:
    """The answer about a process; none if it has ended, as PostgreSQL's workers do all the time."""
    try:
        return [question()]
    except psutil.NoSuchProcess:
        return []


def exchange(door: int | str, request: bytes, *, close: bool = False) -> bytes:
    """What a port of 127.0.0.1 or a Unix socket answers, up to 1 MB; b"" if it takes no connection or says nothing.

    `close`: close our half at once, so that a server does not wait for more.
    """
    family = socket.AF_INET if isinstance(door, int) else socket.AF_UNIX
    answer = b""
    with socket.socket(family, socket.SOCK_STREAM) as connection:
        connection.settimeout(5)
        try:
            connection.connect(("127.0.0.1", door) if isinstance(door, int) else door)
            connection.sendall(request)
            if close:
                connection.shutdown(socket.SHUT_WR)
            while len(answer) < 1_000_000 and (data := connection.recv(65536)):
                answer += data
        except OSError:
            return answer
    return answer


def http(method: str, path: str, *headers: str, body: bytes = b"") -> bytes:
    lines = [f"{method} {path} HTTP/1.1", "Host: 127.0.0.1", "Connection: close", f"Content-Length: {len(body)}"]
    return "\r\n".join([*lines, *headers, "", ""]).encode() + body


def status(answer: bytes) -> int | None:
    """Of an HTTP answer."""
    words = answer.split(maxsplit=2)
    return int(words[1]) if answer.startswith(b"HTTP/") and len(words) > 1 else None


def requests() -> Iterator[tuple[str, bytes]]:
    """What a stranger may try over HTTP, by name."""
    for path in PATHS:
        yield f"GET {path}", http("GET", path)
        yield f"GET {path}, guessing", http("GET", path, "Authorization: Bearer guess", "X-Real-IP: 10.0.0.1")
    for path in CALLS:
        yield f"POST {path}", http("POST", path, "Content-Type: application/json", body=b"{}")


def startup(user: str, database: str) -> bytes:
    """PostgreSQL's first message of a client."""
    body = struct.pack(">i", 196608) + f"user\0{user}\0database\0{database}\0\0".encode()
    return struct.pack(">i", len(body) + 4) + body


def what_ports_tell(roles: dict[int, str], secrets: list[bytes]) -> list[str]:
    """Every answer of a port that is more than it may be."""
    told = []
    for port, role in roles.items():
        if role == "postgres":
            tries = [(user, startup(user, user)) for user in ("postgres", "tally", "replicator")]
        elif role.startswith("redis"):
            tries = [(text, f"{text}\r\nQUIT\r\n".encode()) for text in ("PING", "INFO", "CONFIG GET *", "KEYS *")]
        elif role == "sentinel":
            texts = ("PING", "INFO", "SENTINEL MASTERS", "SENTINEL SET journal quorum 1", "SENTINEL CONFIG GET *")
            tries = [(text, f"{text}\r\nQUIT\r\n".encode()) for text in texts]
        else:
            tries = list(requests())
        for name, request in tries:
            answer = exchange(port, request, close=role in ("postgres", "sentinel"))
            if any(secret in answer for secret in secrets):
                told.append(f"{role} on {port}, {name}: a secret")
            elif not _is_refused(role, name, answer):
                told.append(f"{role} on {port}, {name}: {answer[:200]!r}")
    return told


def _is_refused(role: str, name: str, answer: bytes) -> bool:
    """Or is public."""
    if role == "postgres":  # SASL is asked for, or the role may not connect
        return answer[:1] == b"E" or (answer[:1] == b"R" and struct.unpack(">i", answer[5:9]) == (10,))
    if role.startswith("redis") or role == "sentinel":
        return answer.startswith(b"-NOAUTH")
    if role in PUBLIC and "metrics" not in name and not name.startswith("POST"):
        return status(answer) is not None
    return status(answer) in {400, 401, 403, 404, 405}


def test_every_port_refuses_strangers(cluster: Cluster, processes: list[psutil.Process], secrets: list[bytes]) -> None:
    rows = cluster.status()["processes"]
    roles = {row[kind]: row["role"] for row in rows for kind in ("port", "metrics_port") if row[kind]}
    listening = {
        connection.laddr
        for process in processes
        for connections in if_alive(partial(process.net_connections, "tcp"))
        for connection in connections
        if connection.status == psutil.CONN_LISTEN
    }
    assert {ip for ip, _ in listening} == {"127.0.0.1"}
    assert {port for _, port in listening} == set(roles), "each is one of the table"
    assert as_nobody(lambda: what_ports_tell(roles, secrets)) == []


def test_strangers_do_not_fill_a_log(cluster: Cluster) -> None:
    """A hundred of each mistake leave hardly a line, in the log of an API process or of nginx."""
    mistakes = (
        b"GET / HTTP/1.1\r\nHost: elsewhere.example\r\nConnection: close\r\n\r\n",
        b"GET / HTTP/1.1\r\nConnection: close\r\n\r\n",
        b"GET /\x00 HTTP/1.1\r\n\r\n",
        http("POST", "/admin/login/", "Content-Type: application/x-www-form-urlencoded", body=b"username=a"),
        http("PUT", "/v1/counters/a", "Authorization: Api-Key a.b", body=b"{}"),
        http("GET", "/static/"),
        http("GET", "/static/nothing.css"),
        http("GET", "/static/../../etc/passwd"),
    )
    doors = {row["name"]: row["port"] for row in cluster.status()["processes"] if row["name"] in ("nginx", "api-1")}
    logs = [cluster.dir / "logs" / f"{name}.log" for name in doors]
    before = sum(log.stat().st_size for log in logs)
    for port in doors.values():
        for mistake in mistakes * 100:
            assert status(exchange(port, mistake)) in {200, 400, 401, 403, 404}
    assert sum(log.stat().st_size for log in logs) - before < 5_000


def test_no_file_of_a_cluster_is_for_others(cluster: Cluster, secrets: list[bytes]) -> None:
    assert stat.S_IMODE(cluster.dir.stat().st_mode) == 0o700
    held = [path for path in cluster.dir.rglob("*") if "data" not in path.parts and path.is_file()]
    with_secrets = [path for path in held if any(secret in path.read_bytes() for secret in secrets)]
    names = {path.name for path in with_secrets}
    assert names >= {"secrets.json", "env", "api-key", "metrics-token", "nginx.conf", "doors.conf", "redis.conf"}
    assert not [path for path in with_secrets if stat.S_IMODE(path.stat().st_mode) & 0o077]
    assert not [path for path in with_secrets if path.is_relative_to(cluster.dir / "logs")]
    if os.geteuid() == 0:
        everything = [str(path) for path in cluster.dir.rglob("*")]
        assert as_nobody(lambda: [path for path in everything if os.access(path, os.F_OK)]) == []
        sockets = [str(path) for path in (cluster.dir / "sockets").iterdir()]
        assert len(sockets) == 3
        assert as_nobody(lambda: [one for one in sockets if exchange(one, http("GET", "/"))]) == []


def test_no_process_shows_a_secret(processes: list[psutil.Process], secrets: list[bytes]) -> None:
    kinds = ("cmdline", "environ") if os.geteuid() == 0 else ("cmdline",)

    def shown() -> list[str]:
        found = []
        for process in processes:
            for kind in kinds:
                try:
                    text = Path(f"/proc/{process.pid}/{kind}").read_bytes()
                except OSError:  # it may not be read, or the process has ended
                    continue
                if any(secret in text for secret in secrets):
                    found.append(f"{kind} of {process.pid}")
        return found

    if Path("/proc/self/cmdline").exists():
        assert as_nobody(shown) == []
    lines = [" ".join(arguments) for process in processes for arguments in if_alive(process.cmdline)]
    assert not [line for line in lines if any(secret.decode() in line for secret in secrets)]
