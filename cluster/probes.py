"""Readiness probes for processes of the cluster. Each returns True or False and never raises.

Asyncio streams are enough for one request each; this is not a general HTTP client.
"""

from __future__ import annotations

import asyncio
import base64
import json
from dataclasses import dataclass
from typing import Any, Protocol

TIMEOUT_SECONDS = 2.0


class Probe(Protocol):
    """Whether a process does its work."""

    async def check(self) -> bool: ...


@dataclass(frozen=True)
class Listens:
    """Something accepts connections on the port."""

    port: int

    async def check(self) -> bool:
        return await _exchange(self.port, b"", 0) is not None


@dataclass(frozen=True)
class Answers:
    """GET is answered, whatever the status, unless `status` names the one that counts."""

    port: int
    path: str = "/"
    status: int | None = None

    async def check(self) -> bool:
        status, _ = await get(self.port, self.path)
        return status is not None and self.status in (None, status)


@dataclass(frozen=True)
class Pongs:
    """Redis has loaded its data and answers PING."""

    port: int
    password: str

    async def check(self) -> bool:
        answer = await _exchange(self.port, f"AUTH {self.password}\r\nPING\r\nQUIT\r\n".encode(), -1)
        return answer is not None and b"+PONG" in answer


async def get(port: int, path: str, user: str = "", password: str = "") -> tuple[int | None, bytes]:
    """Status and body of one GET on 127.0.0.1; (None, b"") where nobody answers."""
    login = f"Authorization: Basic {base64.b64encode(f'{user}:{password}'.encode()).decode()}\r\n" if user else ""
    request = f"GET {path} HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\nConnection: close\r\n{login}\r\n"
    answer = await _exchange(port, request.encode(), -1)
    head, _, body = (answer or b"").partition(b"\r\n\r\n")
    words = head.split(maxsplit=2)
    return (int(words[1]), body) if len(words) > 1 and words[1].isdigit() else (None, b"")


async def patroni(port: int) -> dict[str, Any]:
    """What Patroni says of its node (`state`, `role`, `replication_state`, …); empty where it does not answer."""
    _, body = await get(port, "/patroni")
    try:
        answer = json.loads(body)
    except ValueError:
        return {}
    return answer if isinstance(answer, dict) else {}


async def _exchange(port: int, request: bytes, wanted: int) -> bytes | None:
    writer = None
    try:
        async with asyncio.timeout(TIMEOUT_SECONDS):
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            writer.write(request)
            await writer.drain()
            return await reader.read(wanted)
    except (OSError, TimeoutError):
        return None
    finally:
        if writer is not None:
            writer.close()
