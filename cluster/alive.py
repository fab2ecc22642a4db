"""A container's health check: `python -m cluster.alive URL [SECRET]`. Status 0 if the process there does its work.

`http://HOST:PORT/PATH` answers 200, `redis://HOST:PORT` PONG; `tcp://HOST:PORT` accepts a connection. SECRET is the file with
the password; Patroni's user is in the URL. Nothing but the standard library, as every container runs it every few seconds.
"""

from __future__ import annotations

import base64
import socket
import sys
from pathlib import Path
from urllib.parse import urlsplit

SECONDS = 3.0


def is_alive(url: str, password: str = "") -> bool:
    """Raises `OSError` if nobody answers in time."""
    where = urlsplit(url)
    with socket.create_connection((where.hostname or "", where.port or 0), SECONDS) as door:
        if where.scheme == "tcp":
            return True
        if where.scheme == "redis":
            door.sendall(f"AUTH {password}\r\nPING\r\nQUIT\r\n".encode())
        else:
            login = base64.b64encode(f"{where.username}:{password}".encode()).decode()
            header = f"Authorization: Basic {login}\r\n" if where.username else ""
            request = f"GET {where.path or '/'} HTTP/1.1\r\nHost: localhost\r\n{header}Connection: close\r\n\r\n"
            door.sendall(request.encode())
        answer = b""
        while part := door.recv(4096):
            answer += part
            if where.scheme != "redis":
                break
    return b"+PONG" in answer if where.scheme == "redis" else answer.split(b" ", 2)[1:2] == [b"200"]


def main(url: str, secret: str = "") -> int:
    try:
        return 0 if is_alive(url, Path(secret).read_text().strip() if secret else "") else 1
    except OSError as error:
        print(f"{url}: {error}", file=sys.stderr)
        return 1


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
