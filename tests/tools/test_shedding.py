"""How many writes nginx passes on at once. A real nginx with the configuration of the local cluster, before two servers that
answer when they are told to."""

from __future__ import annotations

import os
import socket
import subprocess
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Event, Lock, Thread
from typing import Any, ClassVar

import httpx
import pytest

from cluster import configs, programs
from cluster.configs import NginxSettings
from cluster.layout import Directory, Layout
from tests.support.cluster import eventually
from tests.support.http import assert_problem

SINGLES, BODIES = 3, 1  # for each of two servers
SINGLE, BODY = "/v1/counters/a:b@c/increments", "/v1/increments"
LIKE, EVENTS = "/v1/likes/post/a:b@c/users/ann", "/v1/likes"


class Api(BaseHTTPRequestHandler):
    """Answers the path of the request once it may. `waiting`: requests by path that wait for that."""

    protocol_version = "HTTP/1.1"
    waiting: ClassVar[Counter[str]] = Counter()
    may = Event()
    lock = Lock()

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers.get("Content-Length", 0)))
        with self.lock:
            self.waiting[self.path] += 1
        self.may.wait(30)
        with self.lock:
            self.waiting[self.path] -= 1
        self.send_response(202)
        self.send_header("Content-Length", str(len(self.path)))
        self.end_headers()
        self.wfile.write(self.path.encode())

    def do_PUT(self) -> None:
        self.do_POST()

    def log_message(self, *_: Any) -> None:
        pass


@pytest.fixture(scope="module")
def url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The address of nginx."""
    with ExitStack() as stack:
        servers = [stack.enter_context(ThreadingHTTPServer(("127.0.0.1", 0), Api)) for _ in range(2)]
        for server in servers:
            Thread(target=server.serve_forever, daemon=True).start()
            stack.callback(server.shutdown)
        any_port = stack.enter_context(socket.socket())
        any_port.bind(("127.0.0.1", 0))
        ports = {"nginx": any_port.getsockname()[1], "api-1": servers[0].server_port, "api-2": servers[1].server_port}
        any_port.close()
        directory = Directory(tmp_path_factory.mktemp("n"))
        directory.prepare()
        layout = Layout(ports=ports, scale={"api": 2})
        settings = NginxSettings(max_singles=SINGLES, max_bodies=BODIES)
        text = configs.nginx(layout, directory, "x", as_root=os.geteuid() == 0, settings=settings)
        (directory["nginx"] / "nginx.conf").write_text(text)
        command = [str(programs.find().nginx), "-p", f"{directory['nginx']}/", "-c", "nginx.conf", "-e", "stderr"]
        process = subprocess.Popen(command)
        stack.callback(process.wait, 10)
        stack.callback(process.terminate)
        address = f"http://127.0.0.1:{ports['nginx']}"
        eventually(lambda: httpx.get(f"{address}/metrics").status_code == 404)
        yield address


@pytest.fixture
def clients(url: str) -> Iterator[Any]:
    """Sends a write in a thread; all of them are answered in the end."""
    Api.may.clear()
    with httpx.Client(base_url=url, timeout=60) as client, ThreadPoolExecutor(32) as pool:

        def send(path: str) -> Future[httpx.Response]:
            if path.startswith(LIKE):
                return pool.submit(client.put, path)
            return pool.submit(client.post, path, content=b"{}")

        yield send
        Api.may.set()


@pytest.mark.limit("TALLY_MAX_SINGLES", "TALLY_MAX_BODIES")
@pytest.mark.parametrize(
    ("path", "most"),
    [
        (SINGLE, 2 * SINGLES),
        (f"{SINGLE}?wait=0", 2 * SINGLES),
        (LIKE, 2 * SINGLES),
        (BODY, 2 * BODIES),
        (EVENTS, 2 * BODIES),
    ],
)
def test_more_writes_than_the_api_can_take_are_refused_at_once(clients: Any, path: str, most: int) -> None:
    """By all API processes together, and only writes of that kind."""
    sent = [clients(path) for _ in range(most)]
    eventually(lambda: Api.waiting[path] == most)
    refused = clients(path).result(10)
    assert_problem(refused, 503, "unavailable")
    assert refused.headers["Retry-After"] == "1"
    others = [clients(SINGLE if path in (BODY, EVENTS) else BODY), clients("/v1/other")]
    waits = [*(clients(f"{SINGLE}?wait=2") for _ in range(4 * SINGLES)), clients(f"{LIKE}?wait=2")]
    eventually(lambda: Api.waiting[f"{SINGLE}?wait=2"] >= 4 * SINGLES)
    Api.may.set()
    answers = [one.result(30) for one in (*sent, *others, *waits)]
    assert {one.status_code for one in answers} == {202}
    assert {one.text for one in answers[:most]} == {path}
    assert clients(path).result(10).status_code == 202, "there is room again"
