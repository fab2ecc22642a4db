"""Command lines of Tally's own processes: the same for the local cluster (plan.py) and for containers (container.py). Pure."""

from __future__ import annotations

import sys

from sharding.connection_budget import SPILL_TASKS

# Longer than nginx keeps an idle connection to an API process, so nginx is the one that closes it.
KEEP_ALIVE_SECONDS = 600
ANSWER_SECONDS = 35  # that an API process has to answer what it has taken: more than the longest `?wait=`


def api(host: str, port: int) -> tuple[str, ...]:
    return (
        *(sys.executable, "-m", "uvicorn", "--loop", "uvloop", "--http", "httptools", "--ws", "none"),
        *("--host", host, "--port", str(port), "--backlog", "4096"),
        *("--timeout-keep-alive", str(KEEP_ALIVE_SECONDS), "--timeout-graceful-shutdown", str(ANSWER_SECONDS)),
        *("--no-access-log", "--no-proxy-headers", "--no-server-header", "--no-date-header"),
        *("--log-level", "error", "counter_project.asgi:application"),
    )


def worker(name: str, queues: str) -> tuple[str, ...]:
    """A worker of queues with commas between; `TALLY_WORKER_CONCURRENCY` is the number of tasks that it runs at once. Celery
    puts the name of the host in place of `%h`."""
    return (
        *(sys.executable, "-m", "counter_project", "worker", "-P", "threads", "-n", f"{name}@%h", "-Q", queues),
        *("-E", "--without-gossip", "--without-mingle", "-l", "WARNING"),
    )


def spill_worker(name: str) -> tuple[str, ...]:
    """A worker of the queues that belong to no shard: what was spilled, upkeep, and what may take long."""
    return (*worker(name, "spill,maintenance,low-priority"), "-c", str(SPILL_TASKS))


def beat(schedule: str) -> tuple[str, ...]:
    """`schedule`: the file in which it keeps when it sent what."""
    return (sys.executable, "-m", "counter_project", "beat", "-s", schedule, "--pidfile=", "-l", "WARNING")


def flower(*where: str) -> tuple[str, ...]:
    """`where`: the options that say what it listens on."""
    return (sys.executable, "-m", "counter_project", "flower", *where, "--persistent=False", "--max-tasks=10000")


def manage(*command: str) -> tuple[str, ...]:
    return (sys.executable, "manage.py", *command)
