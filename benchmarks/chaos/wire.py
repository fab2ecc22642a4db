"""One HTTP connection, kept open, of one thread. The standard library's: the load must cost little beside what it
tests."""

from __future__ import annotations

import http.client
import json
import time
from collections.abc import Mapping
from typing import Any, NamedTuple
from urllib.parse import urlsplit


class NoAnswer(Exception):
    """The connection failed or timed out: the request may or may not have been executed."""


class Answer(NamedTuple):
    """What came back; names of headers in lower case."""

    status: int
    headers: Mapping[str, str]
    body: bytes

    @property
    def json(self) -> dict[str, Any]:
        """The body, {} if it is no JSON object."""
        try:
            found = json.loads(self.body)
        except ValueError:
            return {}
        return found if isinstance(found, dict) else {}


class Wire:
    """Requests to `url` with an API key."""

    def __init__(self, url: str, key: str) -> None:
        self._host = urlsplit(url).netloc
        self._headers = {"Authorization": f"Api-Key {key}"}
        self._connection: http.client.HTTPConnection | None = None

    def ask(
        self,
        method: str,
        path: str,
        body: bytes | None = None,
        headers: Mapping[str, str] | None = None,
        *,
        timeout: float = 10.0,
    ) -> Answer:
        """One request. `timeout` in seconds for the whole of it, near enough. Raises `NoAnswer`."""
        deadline = time.monotonic() + timeout
        try:
            connection = self._connected(timeout)
            connection.request(method, path, body, {**self._headers, **(headers or {})})
            response = connection.getresponse()
            if connection.sock is not None:
                connection.sock.settimeout(max(0.001, deadline - time.monotonic()))
            return Answer(
                response.status, {name.lower(): value for name, value in response.headers.items()}, response.read()
            )
        except (OSError, http.client.HTTPException) as error:
            self.close()
            raise NoAnswer(f"{type(error).__name__}: {error}") from error

    def _connected(self, timeout: float) -> http.client.HTTPConnection:
        if self._connection is None:
            self._connection = http.client.HTTPConnection(self._host, timeout=timeout)
            self._connection.connect()
        elif self._connection.sock is not None:
            self._connection.sock.settimeout(timeout)
        return self._connection

    def close(self) -> None:
        """Hang up; the next request connects anew."""
        if self._connection is not None:
            self._connection.close()
            self._connection = None
