"""Readiness probes for processes of the cluster. Each returns True or False and never raises.

Asyncio streams are enough for one request each; this is not a general HTTP client.
"""

from __future__ import annotations

import asyncio
import base64
import json
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from .layout import PATRONI_USER

TIMEOUT_SECONDS = 2.0
Door = int | Path  # a port of 127.0.0.1, or a Unix socket


class Probe(Protocol):
    """Whether a process does its work."""

    async def check(self) -> bool: ...


@dataclass(frozen=True)
class Listens:
    """Something accepts connections."""

    door: Door

    async def check(self) -> bool:
        return await _exchange(self.door, b"", 0) is not None


@dataclass(frozen=True)
class Answers:
    """GET is answered, whatever the status, unless `status` names the one that counts. `login`: user and password."""

    door: Door
    path: str = "/"
    status: int | None = None
    login: tuple[str, str] = ("", "")

    async def check(self) -> bool:
        status, _ = await get(self.door, self.path, *self.login)
        return status is not None and self.status in (None, status)


@dataclass(frozen=True)
class Pongs:
    """Redis has loaded its data and answers PING."""

    port: int
    password: str

    async def check(self) -> bool:
        answer = await _exchange(self.port, f"AUTH {self.password}\r\nPING\r\nQUIT\r\n".encode(), -1)
        return answer is not None and b"+PONG" in answer


@dataclass(frozen=True)
class Touched:
    """A file was written in the last seconds."""

    path: Path
    seconds: float = 5.0

    async def check(self) -> bool:
        try:
            return time.time() - self.path.stat().st_mtime < self.seconds
        except OSError:
            return False


async def get(door: Door, path: str, user: str = "", password: str = "") -> tuple[int | None, bytes]:
    """Status and body of one GET; (None, b"") where nobody answers."""
    login = f"Authorization: Basic {base64.b64encode(f'{user}:{password}'.encode()).decode()}\r\n" if user else ""
    host = f"127.0.0.1:{door}" if isinstance(door, int) else "localhost"
    request = f"GET {path} HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n{login}\r\n"
    answer = await _exchange(door, request.encode(), -1)
    head, _, body = (answer or b"").partition(b"\r\n\r\n")
    words = head.split(maxsplit=2)
    return (int(words[1]), body) if len(words) > 1 and words[1].isdigit() else (None, b"")


async def patroni(port: int, password: str) -> dict[str, Any]:
    """What Patroni says of its node (`state`, `role`, `replication_state`, …); empty where it does not answer."""
    _, body = await get(port, "/patroni", PATRONI_USER, password)
    try:
        answer = json.loads(body)
    except ValueError:
        return {}
    return answer if isinstance(answer, dict) else {}


async def _exchange(door: Door, request: bytes, wanted: int) -> bytes | None:
    writer = None
    try:
        async with asyncio.timeout(TIMEOUT_SECONDS):
            if isinstance(door, int):
                reader, writer = await asyncio.open_connection("127.0.0.1", door)
            else:
                reader, writer = await asyncio.open_unix_connection(door)
            writer.write(request)
            await writer.drain()
            return await reader.read(wanted)
    except (OSError, TimeoutError):
        return None
    finally:
        if writer is not None:
            writer.close()
