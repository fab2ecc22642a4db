"""Patroni as Tally runs it: `python -m cluster.guarded_patroni PATRONI_YML [ETCD_SOCKET]`.

Every user of the machine can connect to a port of 127.0.0.1, so two things are closed here that Patroni leaves open:

- The local cluster's etcd is reached through a Unix socket in its directory. Passwords in etcd would not be enough: with its
  authentication on, etcd 3.5 still lets anybody raise an alarm, compact, and grant leases (tried on the wheel's 3.5.1).
- The REST API asks for its password on every call, not only on those that change something. /metrics takes the token
  of the scrapers instead (`TALLY_METRICS_TOKEN`).

In production etcd asks for client certificates instead (docs/security.md).

Patroni starts PostgreSQL through a child that imports this module first, and then the module of the function that it is to
call. So that function is here, and everything else is imported where it is used: loading Patroni takes the processor longer
than starting PostgreSQL.
"""

from __future__ import annotations

import os
import subprocess
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import socket
    from collections.abc import Mapping, Sequence
    from multiprocessing.connection import Connection


def start_postmaster(conn: Connection, command: Sequence[str], env: Mapping[str, str]) -> None:
    """Patroni's `pg_ctl_start`: start PostgreSQL in a session of its own, and send its pid, or None if that fails."""
    os.setsid()
    try:
        conn.send(subprocess.Popen(command, close_fds=True, env=env).pid)
    except OSError as error:
        print(f"failed to execute {command}: {error}", flush=True)  # to its log
        conn.send(None)
    conn.close()


def start_postgres_quickly() -> None:
    """Let the child that starts PostgreSQL load no more than this module."""
    from patroni.postgresql import postmaster

    postmaster.pg_ctl_start = start_postmaster


def reach_etcd_through(path: str) -> None:
    """Let Patroni connect to this socket where its configuration says `ETCD_HOST`."""
    import socket

    from patroni.dcs.etcd import DnsCachingResolver
    from patroni.dcs.etcd3 import Etcd3

    from .layout import ETCD_HOST

    resolve, set_options = DnsCachingResolver._do_resolve, Etcd3.set_socket_options

    def resolved(host: str, port: int) -> list[Any]:
        return [(socket.AF_UNIX, socket.SOCK_STREAM, 0, "", path)] if host == ETCD_HOST else resolve(host, port)

    def set_options_of_tcp(dcs: Etcd3, sock: socket.socket, options: Any) -> None:
        if sock.family != socket.AF_UNIX:
            set_options(dcs, sock, options)

    DnsCachingResolver._do_resolve = staticmethod(resolved)
    Etcd3.set_socket_options = set_options_of_tcp


def guard_api(token: str) -> None:
    """Let the REST API refuse every request without its password, and /metrics every one without the token."""
    from patroni.api import RestApiHandler

    from runtime import scrapers

    parse = RestApiHandler.parse_request

    def parse_and_check(self: RestApiHandler) -> bool:
        if not parse(self):
            return False
        header = self.headers.get("Authorization")
        if self.path == "/metrics" and scrapers.may_read(header or "", token):
            return True
        if reason := self.server.check_auth_header(header):
            self.write_response(401, reason, headers={"WWW-Authenticate": 'Basic realm="Patroni"'})
            return False
        return True

    RestApiHandler.parse_request = parse_and_check


if __name__ == "__main__":
    import sys

    from runtime import garbage

    garbage.postpone()
    import yaml

    # Patroni reads the list of PostgreSQL's parameters when it is imported. Without libyaml that takes a tenth of a second.
    yaml.SafeLoader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)  # type: ignore[misc]
    from patroni.__main__ import main

    start_postgres_quickly()
    if len(sys.argv) > 2:
        reach_etcd_through(sys.argv.pop())
    guard_api(os.environ["TALLY_METRICS_TOKEN"])
    garbage.begin()
    main()
