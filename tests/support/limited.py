"""API processes beside those of the cluster, with limits of their own."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path

import httpx

from tests.support.cluster import Cluster, eventually
from tests.support.commands import ROOT

UVICORN = [sys.executable, "-m", "uvicorn", "--loop", "uvloop", "--http", "httptools", "--log-level", "error"]


@contextmanager
def api_processes(cluster: Cluster, count: int, limits: Mapping[str, str], home: Path) -> Iterator[list[httpx.Client]]:
    """A client for each of `count` API processes with these settings, on the databases of the cluster. They listen on
    sockets in `home`."""
    headers = {"Authorization": f"Api-Key {cluster.key}"}
    with ExitStack() as stack:
        clients = []
        for number in range(count):
            socket = str(home / f"{number}.sock")
            process = subprocess.Popen(
                [*UVICORN, "--uds", socket, "counter_project.asgi:application"],
                cwd=ROOT,
                env={**os.environ, **cluster.env, **limits, "TALLY_NODE_ID": f"limited-{number}"},
            )
            stack.callback(process.wait, 30)
            stack.callback(process.terminate)
            transport = httpx.HTTPTransport(uds=socket)
            made = httpx.Client(base_url="http://127.0.0.1", headers=headers, timeout=60, transport=transport)
            clients.append(stack.enter_context(made))
        eventually(lambda: all(client.get("/readyz").status_code == 200 for client in clients))
        yield clients
