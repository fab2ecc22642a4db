"""Requests as bytes, and problem documents."""

from __future__ import annotations

import socket
from typing import Any

import httpx


def assert_problem(answer: httpx.Response, status: int, slug: str) -> dict[str, Any]:
    """Assert that the answer is this problem, in the standard form. Returns the document."""
    assert answer.status_code == status, answer.text
    assert answer.headers["Content-Type"] == "application/problem+json"
    document: dict[str, Any] = answer.json()
    assert document["type"] == f"urn:tally:problem:{slug}"
    assert document["status"] == status
    assert document["title"]
    assert document["detail"]
    return document


def exchange(url: str, request: bytes, *, close: bool = False, seconds: float = 30) -> bytes:
    """Return what a server sends until it closes the connection. `close`: close our half at once."""
    host, port = url.removeprefix("http://").rstrip("/").split(":")
    with socket.create_connection((host, int(port)), timeout=seconds) as connection:
        connection.sendall(request)
        if close:
            connection.shutdown(socket.SHUT_WR)
        answer = b""
        while data := connection.recv(65536):
            answer += data
    return answer
