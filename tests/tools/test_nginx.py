"""The nginx that clients reach: whom it takes for the client, and what it does with slow, idle and too many ones. A real
nginx with the configuration of the local cluster, before an upstream that answers with the headers it got."""

from __future__ import annotations

import json
import os
import re
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Event, Thread
from typing import Any

import httpx
import pytest

from cluster import configs, programs
from cluster.configs import NginxSettings
from cluster.layout import Directory, Layout
from tests.support.cluster import eventually
from tests.support.http import assert_problem

SECONDS = 1  # for a client, and between its requests
LATE = SECONDS + 4.0  # the machine may be slow
LOG = "stdout"
LARGE = 16 * 1024 * 1024  # bytes, more than sockets hold
OFFICE = ["127.0.0.1", "10.0.0.0/8"]


class Upstream(BaseHTTPRequestHandler):
    """Answers with the request's headers; `/slow` when it is told to. `/large` has a large answer, `/status/503` that
    status."""

    protocol_version = "HTTP/1.1"
    go_on = Event()

    def do_GET(self) -> None:
        if self.path == "/slow":
            self.go_on.wait(30)
        status = int(self.path.removeprefix("/status/")) if self.path.startswith("/status/") else 200
        body = json.dumps({name.lower(): value for name, value in self.headers.items()}).encode()
        body += b" " * (LARGE if self.path == "/large" else 0)
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    do_POST = do_GET  # noqa: N815 - as the base class wants it

    def log_message(self, *_: Any) -> None:
        pass


@pytest.fixture(scope="module")
def upstream() -> Iterator[int]:
    """The port of a server that stands for the API processes."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), Upstream)
    Thread(target=server.serve_forever, daemon=True).start()
    yield server.server_port
    Upstream.go_on.set()
    server.shutdown()
    server.server_close()


@contextmanager
def nginx(folder: Path, upstream: int, settings: NginxSettings) -> Iterator[str]:
    """The address of a running nginx."""
    with socket.socket() as any_port:
        any_port.bind(("127.0.0.1", 0))
        port = any_port.getsockname()[1]
    directory = Directory(folder)
    directory.prepare()
    ports = {"nginx": port, "api-1": upstream}
    layout = Layout(ports=ports, scale={"api": 1})
    text = configs.nginx(layout, directory, "secret", as_root=os.geteuid() == 0, settings=settings)
    (directory["nginx"] / "nginx.conf").write_text(text)
    command = [str(programs.find().nginx), "-p", f"{directory['nginx']}/", "-c", "nginx.conf", "-e", "stderr"]
    with (folder / LOG).open("wb") as output:
        process = subprocess.Popen(command, stdout=output)
    try:
        url = f"http://127.0.0.1:{port}"
        eventually(lambda: httpx.get(url).status_code == 200)
        yield url
    finally:
        process.terminate()
        process.wait(10)


@pytest.fixture(scope="module")
def direct(tmp_path_factory: pytest.TempPathFactory, upstream: int) -> Iterator[str]:
    """An nginx that clients reach themselves."""
    settings = NginxSettings(client_timeout_seconds=SECONDS, idle_timeout_seconds=SECONDS, max_header_bytes=4096)
    with nginx(tmp_path_factory.mktemp("n"), upstream, settings) as url:
        yield url


@pytest.fixture(scope="module")
def behind(tmp_path_factory: pytest.TempPathFactory, upstream: int) -> Iterator[str]:
    """An nginx behind a proxy here, which in turn is behind others in 10.0.0.0/8."""
    settings = NginxSettings(trusted_proxies=OFFICE, connections_per_address=2)
    with nginx(tmp_path_factory.mktemp("n"), upstream, settings) as url:
        yield url


@pytest.fixture(scope="module")
def logged(tmp_path_factory: pytest.TempPathFactory, upstream: int) -> Iterator[tuple[str, Path]]:
    """An nginx that logs every request, and its log."""
    folder = tmp_path_factory.mktemp("n")
    with nginx(folder, upstream, NginxSettings(access_log_percent=100)) as url:
        yield url, folder / LOG


def told(url: str, **headers: str) -> dict[str, str]:
    """What the upstream is told."""
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    got: dict[str, str] = httpx.get(url, headers=named).raise_for_status().json()
    return got


def test_nobody_chooses_an_address(direct: str) -> None:
    got = told(
        direct, X_Forwarded_For="192.0.2.7", X_Real_IP="192.0.2.7", X_Forwarded_Proto="https", Forwarded="for=1.2.3.4"
    )
    assert (got["x-real-ip"], got["x-forwarded-for"], got["x-forwarded-proto"]) == ("127.0.0.1", "127.0.0.1", "http")
    assert told(direct, X_Tally_Proxy="guessed")["x-tally-proxy"] == "secret"


def test_trusted_proxies_tell_the_client(behind: str) -> None:
    """The last address that is none of theirs: what stands before it, the client may have invented."""
    for forwarded, client in (
        ("192.0.2.7", "192.0.2.7"),
        ("198.51.100.1, 192.0.2.7, 10.1.1.1", "192.0.2.7"),
        ("2001:db8::7", "2001:db8::7"),
        ("nonsense", "127.0.0.1"),
    ):
        assert told(behind, X_Forwarded_For=forwarded)["x-real-ip"] == client
    assert told(behind, X_Forwarded_Proto="https")["x-forwarded-proto"] == "https"


def closed_after(connection: socket.socket, trickle: bytes = b"") -> float:
    """Seconds until the server closes, or resets, a connection on which one byte more comes now and then."""
    began = time.monotonic()
    connection.settimeout(0.25)
    while time.monotonic() - began < 20:
        try:
            if trickle:
                connection.sendall(trickle)
            if not connection.recv(65536):
                break
        except TimeoutError:
            continue
        except OSError:
            break
    return time.monotonic() - began


@pytest.mark.limit("TALLY_CLIENT_TIMEOUT_SECONDS", "TALLY_IDLE_TIMEOUT_SECONDS")
@pytest.mark.parametrize(
    ("start", "trickle"),
    [
        (b"GET / HTTP/1.1\r\nHost: a\r\nX-Slow: ", b"a"),
        (b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 10\r\n\r\n", b""),
        (b"GET / HTTP/1.1\r\nHost: a\r\n\r\n", b""),
    ],
    ids=["headers byte by byte", "a body that does not come", "no second request"],
)
def test_a_slow_or_idle_client_is_let_go(direct: str, start: bytes, trickle: bytes) -> None:
    host, port = direct.removeprefix("http://").split(":")
    with socket.create_connection((host, int(port)), timeout=LATE) as connection:
        connection.sendall(start)
        assert SECONDS * 0.5 < closed_after(connection, trickle) < LATE


def is_closed(connection: socket.socket) -> bool:
    """Whether the server has closed a connection that has more to read."""
    try:
        connection.sendall(b"a")
    except OSError:
        return True
    return False


@pytest.mark.limit("TALLY_CLIENT_TIMEOUT_SECONDS")
def test_a_client_that_does_not_take_its_answer_is_let_go(direct: str) -> None:
    with socket.socket() as connection:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        connection.connect(("127.0.0.1", int(direct.rpartition(":")[2])))
        connection.sendall(b"GET /large HTTP/1.1\r\nHost: a\r\n\r\n")
        began = time.monotonic()
        eventually(lambda: is_closed(connection), LATE)
        assert time.monotonic() - began > SECONDS * 0.5


@pytest.mark.limit("TALLY_MAX_HEADER_BYTES")
def test_long_headers_are_refused(direct: str) -> None:
    assert httpx.get(direct, headers={"X-Long": "a" * 3000}).status_code == 200
    assert_problem(httpx.get(direct, headers={"X-Long": "a" * 5000}), 431, "headers-too-large")
    assert_problem(httpx.get(f"{direct}/{'a' * 5000}"), 414, "uri-too-long")


@pytest.mark.limit("TALLY_CONNECTIONS_PER_ADDRESS")
def test_an_address_has_so_many_requests_under_way_at_most(behind: str) -> None:
    """IPv6 addresses of one network together."""
    Upstream.go_on.clear()
    with ExitStack() as stack:
        client = stack.enter_context(httpx.Client(base_url=behind, timeout=30))

        def slow(address: str) -> None:
            connection = stack.enter_context(socket.create_connection(("127.0.0.1", int(behind.rpartition(":")[2]))))
            connection.sendall(f"GET /slow HTTP/1.1\r\nHost: a\r\nX-Forwarded-For: {address}\r\n\r\n".encode())

        def ask(address: str) -> httpx.Response:
            return client.get("/", headers={"X-Forwarded-For": address})

        stack.callback(Upstream.go_on.set)
        for address in ("2001:db8:0:1::1", "2001:db8:0:1:2:3:4:5", "192.0.2.7"):
            slow(address)
        refused = eventually(lambda: (answer := ask("2001:db8:0:1:ffff::9")).status_code == 429 and answer)
        assert_problem(refused, 429, "too-many-connections")
        assert refused.headers["Retry-After"] == "1"
        for calm in ("2001:db8:0:2::1", "2001:db8::1", "192.0.2.7", "192.0.2.8", "::1"):
            assert ask(calm).status_code == 200
    eventually(lambda: httpx.get(behind, headers={"X-Forwarded-For": "2001:db8:0:1::1"}).status_code == 200)


TRACE = "4bf92f3577b34da6a3ce929d0e0e4736"


@pytest.mark.parametrize(
    ("headers", "id"),
    [
        ({"X_Request_ID": "order-7:retry.2"}, "order-7:retry.2"),
        ({"traceparent": f"00-{TRACE}-00f067aa0ba902b7-01"}, TRACE),
        ({"X_Request_ID": "mine", "traceparent": f"00-{TRACE}-00f067aa0ba902b7-01"}, "mine"),
        ({"X_Request_ID": "two words"}, None),
        ({"X_Request_ID": "x" * 129}, None),
        ({"traceparent": "00-abc-00f067aa0ba902b7-01"}, None),
        ({"traceparent": f"00-{'0' * 32}-00f067aa0ba902b7-01"}, None),
        ({"traceparent": f"00-{TRACE}-{'0' * 16}-01"}, None),
        ({"traceparent": f"ff-{TRACE}-00f067aa0ba902b7-01"}, None),
        ({}, None),
    ],
)
def test_a_request_has_its_callers_id_or_a_new_one(direct: str, headers: dict[str, str], id: str | None) -> None:
    found = told(direct, **headers)["x-request-id"]
    assert found == id if id else re.fullmatch("[0-9a-f]{32}", found)


def test_what_nginx_refuses_has_the_id_too(direct: str) -> None:
    answer = httpx.get(f"{direct}/metrics", headers={"X-Request-ID": "mine"})
    assert answer.status_code == 404
    assert answer.headers["X-Request-ID"] == answer.json()["request_id"] == "mine"


def test_requests_are_logged_as_json(logged: tuple[str, Path]) -> None:
    url, log = logged
    httpx.get(f'{url}/any?q="', headers={"X-Request-ID": "mine"}).raise_for_status()
    httpx.get(f"{url}/metrics")

    def lines() -> list[dict[str, Any]]:
        found = [json.loads(line) for line in log.read_text().splitlines()]
        return [one for one in found if one["uri"] != "/"]

    eventually(lambda: len(lines()) == 2)
    passed, refused = lines()
    assert (passed["request_id"], passed["method"], passed["status"]) == ("mine", "GET", 200)
    assert passed["client"] == "127.0.0.1"
    assert passed["seconds"] >= 0
    assert float(passed["api_seconds"]) >= 0
    assert (refused["status"], refused["api"], refused["node"]) == (404, "", "nginx")


@pytest.fixture(scope="module")
def failures(tmp_path_factory: pytest.TempPathFactory, upstream: int) -> Iterator[tuple[str, Path]]:
    """An nginx that logs nothing but what fails, and its log."""
    folder = tmp_path_factory.mktemp("n")
    with nginx(folder, upstream, NginxSettings()) as url:
        yield url, folder / LOG


def test_every_5xx_is_logged_and_nothing_else_by_default(failures: tuple[str, Path]) -> None:
    url, log = failures
    statuses = (200, 404, 429, 500, 499, 503, 200, 599)
    for status in statuses:
        httpx.get(f"{url}/status/{status}", headers={"X-Request-ID": f"with-{status}"})

    def found() -> list[tuple[str, int]]:
        lines = [json.loads(line) for line in log.read_text().splitlines()]
        return [(line["request_id"], line["status"]) for line in lines if line["uri"] != "/"]

    eventually(lambda: len(found()) >= 3)
    assert found() == [("with-500", 500), ("with-503", 503), ("with-599", 599)]
