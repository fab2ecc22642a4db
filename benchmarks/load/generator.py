"""The process: a `wire.Load` on standard input, a `wire.Result` on standard output. One thread, one selector."""

from __future__ import annotations

import contextlib
import os
import selectors
import socket
import sys
import time
from array import array
from collections import Counter, deque

import msgspec

from benchmarks.load.wire import Load, Lost, Result

PATIENCE_SECONDS = 60.0  # for the answers that are still to come when the time is over
BUFFER = 1 << 20
_HEAD_BYTES = 2048  # that the headers of an answer fit in
NICE = -10  # of a flood, which is not to wait for what it floods; for root only
clock = time.monotonic


class Connection:
    """A connection that has one request under way at most."""

    def __init__(self, address: tuple[str, int], lines: int) -> None:
        self.address = address
        self.socket = socket.create_connection(address, timeout=PATIENCE_SECONDS)
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, BUFFER)
        self.request = 0  # its number
        self.began = 0.0
        self._lines = lines
        self._data = b""

    def send(self, number: int, request: bytes, began: float) -> None:
        """Start a request."""
        self.request, self.began, self._data = number, began, b""
        self.socket.sendall(request)

    def receive(self) -> str | None:
        """Read what is there: None while the answer is not whole, else its status. Raises `OSError` for a connection
        that ended."""
        chunk = self.socket.recv(BUFFER)
        if not chunk:
            raise ConnectionError("the server hung up")
        data = self._data = self._data + chunk if self._data else chunk
        if self._lines:
            return _redis_status(data, self._lines)
        return _http_status(data)

    @property
    def body(self) -> bytes:
        """Of the answer that is whole."""
        return self._data.partition(b"\r\n\r\n")[2]

    @property
    def is_last(self) -> bool:
        """Whether the server closes the connection after this answer, as nginx does when it reads its configuration anew."""
        return b"\r\nconnection: close\r\n" in self._data[:_HEAD_BYTES].lower()


def _http_status(data: bytes) -> str | None:
    """The status of a whole answer, by its Content-Length or its last chunk."""
    end = data.find(b"\r\n\r\n")
    if end < 0:
        return None
    head = data[:end].lower()
    if b"transfer-encoding: chunked" in head:
        return data[9:12].decode() if data.endswith(b"\r\n0\r\n\r\n") else None
    length = int(head.partition(b"content-length:")[2].partition(b"\r")[0] or 0)
    return data[9:12].decode() if len(data) >= end + 4 + length else None


def _redis_status(data: bytes, lines: int) -> str | None:
    """200 for so many answers of one line without an error in them."""
    if data.count(b"\n") < lines:
        return None
    return "500" if data.startswith(b"-") or b"\n-" in data else "200"


class Generator:
    """One load, from its first request to its last answer."""

    def __init__(self, load: Load) -> None:
        self._load = load
        self._wanted = str(load.status)
        self._interval = 1 / load.rate if load.rate else 0.0
        self._answered, self._latencies, self._failures = [0] * len(load.requests), array("f"), Counter[str]()
        self._at, self._refused = array("f"), {str(status): array("f") for status in load.refusals}
        self._lost: list[Lost] = []
        self._started = 0.0
        self._selector = selectors.DefaultSelector()
        self._free: deque[Connection] = deque()
        for number in range(load.connections):
            self._connect(load.addresses[number % len(load.addresses)])

    def _connect(self, address: tuple[str, int]) -> None:
        connection = Connection(address, self._load.lines)
        self._selector.register(connection.socket, selectors.EVENT_READ, connection)
        self._free.append(connection)

    def run(self) -> Result:
        """Send for so long, then wait for what is under way."""
        cpu, started, sent = time.process_time(), clock(), 0
        end, last, self._started = started + self._load.seconds, started, started
        while True:
            now = clock()
            if now < end and not self._is_all(sent):
                sent = self._send_due(sent, started, now)
            elif len(self._free) == self._load.connections:
                break
            elif now > end + PATIENCE_SECONDS:
                self._failures["no answer"] += self._load.connections - len(self._free)
                break
            if self._receive(self._pause(sent, started, now, end)):
                last = clock()
        return Result(
            answered=self._answered,
            started=started,
            seconds=last - started,
            cpu_seconds=time.process_time() - cpu,
            latencies=self._latencies.tobytes(),
            failures=dict(self._failures),
            at=self._at.tobytes(),
            refused={status: at.tobytes() for status, at in self._refused.items()},
            lost=self._lost,
        )

    def _is_all(self, sent: int) -> bool:
        return 0 < self._load.most <= sent

    def _send_due(self, sent: int, started: float, now: float) -> int:
        """Send whatever is due while a connection is free; how many were sent by now."""
        requests, interval = self._load.requests, self._interval
        while self._free and not self._is_all(sent) and (due := started + sent * interval) <= now:
            number = sent % len(requests)
            self._free.popleft().send(number, requests[number], due if interval else clock())
            sent += 1
        return sent

    def _pause(self, sent: int, started: float, now: float, end: float) -> float:
        """How long nothing but answers needs attention."""
        if now >= end:
            return 1.0
        due = started + sent * self._interval if self._free else end
        return max(0.0, min(due, end) - now)

    def _receive(self, pause: float) -> bool:
        """Take the answers that are there; whether there were any."""
        some = False
        for key, _ in self._selector.select(pause):
            connection: Connection = key.data
            try:
                status = connection.receive()
            except OSError as error:
                self._replace(connection, str(error))
                continue
            if status is None:
                continue
            some = True
            self._free.append(connection)
            now = clock()
            if status == self._wanted:
                self._answered[connection.request] += 1
                self._latencies.append(now - connection.began)
                if self._refused:
                    self._note(connection, now - self._started)
            elif (refused := self._refused.get(status)) is not None:
                refused.append(now - self._started)
            else:
                self._failures[status] += 1
            if not self._load.lines and connection.is_last:
                self._replace(connection, "")
        return some

    def _note(self, connection: Connection, at: float) -> None:
        """When a write was accepted, and what it lost."""
        self._at.append(at)
        body = connection.body
        if b'"excess"' in body or b'"refused"' in body:
            self._lost.append(Lost(connection.request, at, body))

    def _replace(self, connection: Connection, reason: str) -> None:
        """A new connection for one that ended; its request is a failure if it had one."""
        if connection not in self._free:
            self._failures[reason] += 1
        else:
            self._free.remove(connection)
        self._selector.unregister(connection.socket)
        connection.socket.close()
        self._connect(connection.address)


def main() -> None:
    """The command."""
    load = msgspec.msgpack.decode(sys.stdin.buffer.read(), type=Load)
    if load.refusals:
        with contextlib.suppress(PermissionError):
            os.nice(NICE)
    sys.stdout.buffer.write(msgspec.msgpack.encode(Generator(load).run()))


if __name__ == "__main__":
    main()
