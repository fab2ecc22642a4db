"""Workers that a test starts beside those of the cluster."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from tests.support.cluster import Cluster
from tests.support.commands import ROOT

STALE_SECONDS = "0.2"
QUEUES = ["-Q", "shard-0,shard-1", "-n", "impatient@%h"]
CELERY = [sys.executable, "-m", "counter_project", "worker", "-P", "threads", *QUEUES]


@contextmanager
def impatient_worker(cluster: Cluster) -> Iterator[Callable[[], None]]:
    """A worker of both shards, for which increments are soon too old. Calling it kills it and starts another."""
    environment = {**os.environ, **cluster.env, "TALLY_STALE_SECONDS": STALE_SECONDS}
    running: list[subprocess.Popen[bytes]] = []

    def start() -> None:
        options = ["-E", "--without-gossip", "--without-mingle", "-l", "WARNING"]
        running.append(subprocess.Popen([*CELERY, *options], cwd=ROOT, env=environment))

    def kill() -> None:
        running[-1].kill()
        running[-1].wait()

    def again() -> None:
        kill()
        start()

    start()
    try:
        yield again
    finally:
        kill()
