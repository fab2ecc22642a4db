"""Thousands of clients, each on an open connection of its own, one request each, at the same moment or spread evenly;
how long each took.

A client in the measurement's own process must cost little: it writes bytes that are ready and counts bytes that come.
"""

from __future__ import annotations

import asyncio
import gc
import re
import time
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from itertools import cycle

TIMEOUT_SECONDS = 60.0
_LENGTH = re.compile(rb"\r\ncontent-length: *(\d+)", re.IGNORECASE)


@dataclass
class Answer:
    """Seconds from sending the request to the end of the answer; `at` is when that was, from the start of all."""

    seconds: float
    at: float
    status: int
    body: bytes


class _Client(asyncio.Protocol):
    def __init__(self, answered: asyncio.Future[Answer]) -> None:
        self._answered, self._got = answered, b""
        self._sent = self._began = 0.0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = transport

    def send(self, request: bytes, began: float) -> None:
        """Ask."""
        self._began, self._sent = began, time.perf_counter()
        self.transport.write(request)  # type: ignore[attr-defined]

    def data_received(self, data: bytes) -> None:
        self._got += data
        head, found, body = self._got.partition(b"\r\n\r\n")
        length = _LENGTH.search(head) if found else None
        if length and len(body) >= int(length[1]) and not self._answered.done():
            now = time.perf_counter()
            self._answered.set_result(Answer(now - self._sent, now - self._began, int(head[9:12]), body))

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


def send(hosts: Sequence[str], requests: Sequence[bytes], spread: float = 0.0) -> list[Answer]:
    """Open a connection for each request, to each host in turn, send all within `spread` seconds, and return the
    answers in their order.

    Raises `OSError`, `TimeoutError`.
    """
    return asyncio.run(_send(hosts, requests, spread))


async def _send(hosts: Sequence[str], requests: Sequence[bytes], spread: float) -> list[Answer]:
    loop = asyncio.get_running_loop()
    answers: list[asyncio.Future[Answer]] = [loop.create_future() for _ in requests]
    clients = []
    for answer, host in zip(answers, cycle(hosts), strict=False):
        name, _, port = host.partition(":")
        clients.append((await loop.create_connection(partial(_Client, answer), name, int(port)))[1])
    gc.disable()
    try:
        began = time.perf_counter()
        for number, (client, data) in enumerate(zip(clients, requests, strict=True)):
            if spread and (early := began + spread * number / len(requests) - time.perf_counter()) > 0:
                await asyncio.sleep(early)
            client.send(data, began)
        return list(await asyncio.wait_for(asyncio.gather(*answers), TIMEOUT_SECONDS))
    finally:
        gc.enable()
        for client in clients:
            client.transport.close()
