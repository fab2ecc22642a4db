"""A burst: thousands of requests at the same moment, each on an open connection of its own, and how long each took to be answered.

A client in the measurement's own process must cost little: it writes bytes that are ready and counts bytes that come.
"""

from __future__ import annotations

import asyncio
import gc
import re
import time
from collections.abc import Sequence
from dataclasses import dataclass

TIMEOUT_SECONDS = 60.0
_LENGTH = re.compile(rb"\r\ncontent-length: *(\d+)", re.IGNORECASE)


@dataclass
class Answer:
    """Seconds from the burst's start to the end of the answer."""

    seconds: float
    status: int
    body: bytes


class _Client(asyncio.Protocol):
    def __init__(self, answered: asyncio.Future[Answer]) -> None:
        self._answered, self._got = answered, b""
        self.started = 0.0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = transport

    def send(self, request: bytes, started: float) -> None:
        """Ask."""
        self.started = started
        self.transport.write(request)  # type: ignore[attr-defined]

    def data_received(self, data: bytes) -> None:
        self._got += data
        head, found, body = self._got.partition(b"\r\n\r\n")
        length = _LENGTH.search(head) if found else None
        if length and len(body) >= int(length[1]) and not self._answered.done():
            self._answered.set_result(Answer(time.perf_counter() - self.started, int(head[9:12]), body))

    def connection_lost(self, exc: Exception | None) -> None:
        if not self._answered.done():
            self._answered.set_exception(ConnectionError(f"hung up before the answer: {exc or 'no error'}"))


def request(host: str, path: str, key: str, body: bytes) -> bytes:
    """A POST of JSON, ready to be sent."""
    head = (
        f"POST {path} HTTP/1.1\r\nHost: {host}\r\nAuthorization: Api-Key {key}\r\n"
        f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
    )
    return head.encode() + body


def send(host: str, requests: Sequence[bytes]) -> list[Answer]:
    """Open a connection for each request, send all at once, and return the answers in their order. Raises `OSError`, `TimeoutError`."""
    return asyncio.run(_send(host, requests))


async def _send(host: str, requests: Sequence[bytes]) -> list[Answer]:
    loop = asyncio.get_running_loop()
    name, _, port = host.partition(":")
    answers: list[asyncio.Future[Answer]] = [loop.create_future() for _ in requests]
    clients = [(await loop.create_connection(lambda answer=answer: _Client(answer), name, int(port)))[1] for answer in answers]  # type: ignore[misc]
    gc.disable()
    try:
        started = time.perf_counter()
        for client, data in zip(clients, requests, strict=True):
            client.send(data, started)
        return list(await asyncio.wait_for(asyncio.gather(*answers), TIMEOUT_SECONDS))
    finally:
        gc.enable()
        for client in clients:
            client.transport.close()
