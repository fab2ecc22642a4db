"""A container's health check: `python -m cluster.alive URL [SECRET]`. Status 0 if the process there does its work.

`http://HOST:PORT/PATH` answers 200, `redis://HOST:PORT` PONG, `rediss://HOST:PORT` with TLS of any certificate, as it is the
container's own; `tcp://HOST:PORT` accepts a connection. SECRET is the file with
the password; Patroni's user is in the URL. Nothing but the standard library, as every container runs it every few seconds.
"""

from __future__ import annotations

import base64
import socket
import ssl
import sys
from pathlib import Path
from urllib.parse import urlsplit

SECONDS = 3.0


def is_alive(url: str, password: str = "") -> bool:
    """Raises `OSError` if nobody answers in time."""
    where = urlsplit(url)
    is_redis = where.scheme in ("redis", "rediss")
    with _connected(where.hostname or "", where.port or 0, tls=where.scheme == "rediss") as door:
        if where.scheme == "tcp":
            return True
        if is_redis:
            door.sendall(f"AUTH {password}\r\nPING\r\nQUIT\r\n".encode())
        else:
            login = base64.b64encode(f"{where.username}:{password}".encode()).decode()
            header = f"Authorization: Basic {login}\r\n" if where.username else ""
            request = f"GET {where.path or '/'} HTTP/1.1\r\nHost: localhost\r\n{header}Connection: close\r\n\r\n"
            door.sendall(request.encode())
        answer = b""
        while part := door.recv(4096):
            answer += part
            if not is_redis:
                break
    return b"+PONG" in answer if is_redis else answer.split(b" ", 2)[1:2] == [b"200"]


def _connected(host: str, port: int, *, tls: bool) -> socket.socket:
    door = socket.create_connection((host, port), SECONDS)
    if not tls:
        return door
    context = ssl.create_default_context()
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    return context.wrap_socket(door)


def main(url: str, secret: str = "") -> int:
    try:
        return 0 if is_alive(url, Path(secret).read_text().strip() if secret else "") else 1
    except OSError as error:
        print(f"{url}: {error}", file=sys.stderr)
        return 1


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
