"""The same kills against Celery as it comes (`stock_app`), on the same machine: what it loses and what it counts
twice."""

from __future__ import annotations

import contextlib
import os
import random
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
from kombu.exceptions import OperationalError
from psycopg.conninfo import make_conninfo
from redis import Redis
from redis.exceptions import RedisError
from rich.console import Console
from rich.progress import track

from benchmarks.chaos import kills, stock_app
from benchmarks.chaos.chance import stream
from benchmarks.chaos.report import ROOT
from benchmarks.chaos.subject import Subject
from cluster import programs
from cluster.layout import port_is_free, random_start
from runtime import polling

KEYS = 50
WRITES_PER_SECOND = 250
LIFE_SECONDS = (1.0, 2.5)  # of a worker between its first count and its end
QUIET_SECONDS = 60.0  # without progress, after which the worker is taken to be done
QUEUE = "celery"


def compare(subject: Subject, *, times: int, seed: int, console: Console) -> dict[str, int]:
    """Kill a stock worker so many times under writes, then count. The table is in shard 0's database, and dropped in
    the end."""
    with (
        tempfile.TemporaryDirectory(prefix="tally-stock-") as directory,
        _redis(Path(directory)) as broker,
        subject.database(0) as conn,
    ):
        conn.execute(stock_app.TABLES)
        conn.cursor().executemany("INSERT INTO chaos_stock VALUES (%s, 0)", [(f"key:{n}",) for n in range(KEYS)])
        database = make_conninfo(
            host="127.0.0.1",
            port=conn.info.port,
            dbname=conn.info.dbname,
            user=conn.info.user,
            password=subject.env["TALLY_DATABASE_PASSWORD"],
        )
        environment = {**os.environ, stock_app.BROKER: broker, stock_app.DATABASE: database}
        try:
            sent, waiting = _killed(environment, Path(directory) / "worker.log", times, seed, console)
            counted = [count for (count,) in conn.execute("SELECT count(*) FROM chaos_stock_seen GROUP BY write")]
            total = conn.execute("SELECT sum(n)::bigint FROM chaos_stock").fetchone()
        finally:
            conn.execute(stock_app.DROP)
    return {
        "kills": times,
        "acknowledged": sent,
        "lost": sent - len(counted) - waiting,
        "doubled": sum(count - 1 for count in counted),
        "counted": total[0] if total else 0,
        "waiting": waiting,
    }


def _killed(environment: dict[str, str], log: Path, times: int, seed: int, console: Console) -> tuple[int, int]:
    """Writes under kills, and a worker that is left alone at the end. Returns how many writes the broker took, and how many
    it still has."""
    broker = environment[stock_app.BROKER]
    rng, stop, sent = stream(seed, "stock"), threading.Event(), [0]
    writer = threading.Thread(target=_write, args=(broker, stop, sent, stream(seed, "stock-keys")), daemon=True)
    writer.start()
    try:
        for _ in track(range(times), description="stock Celery: kills", console=console, transient=True):
            with _worker(environment, log):
                time.sleep(rng.uniform(*LIFE_SECONDS))
        with _worker(environment, log):
            stop.set()
            writer.join()
            waiting = _drained(broker)
    finally:
        stop.set()
    return sent[0], waiting


def _write(broker: str, stop: threading.Event, sent: list[int], rng: random.Random) -> None:
    app = stock_app.app
    app.conf.update(broker_url=broker)
    while not stop.is_set():
        with contextlib.suppress(OperationalError, OSError):
            app.send_task("stock.add", (f"key:{rng.randrange(KEYS)}", sent[0]), retry=False)
            sent[0] += 1
        time.sleep(1 / WRITES_PER_SECOND)


@contextlib.contextmanager
def _worker(environment: dict[str, str], log: Path) -> Iterator[None]:
    """A worker that is at work; in the end it is killed with its children."""
    command = [sys.executable, "-m", "celery", "-A", "benchmarks.chaos.stock_app", "worker", "-c", "2", "-l", "INFO"]
    with log.open("ab") as output:
        before = log.stat().st_size
        process = subprocess.Popen(  # noqa: S603
            command, cwd=ROOT, env=environment, stdout=output, stderr=output, start_new_session=True
        )
    try:
        polling.until(lambda: b"succeeded" in log.read_bytes()[before:], 30, pause=0.1)
        yield
    finally:
        leader = psutil.Process(process.pid)
        kills.kill([leader, *leader.children(recursive=True)])
        process.wait()


def _drained(broker: str) -> int:
    """Wait until nothing is queued and nothing unacknowledged, for as long as it becomes less: kombu looks for what is to
    be delivered again every ten seconds. Returns how many messages are left."""
    redis: Any = Redis.from_url(broker)

    def left() -> int:
        return int(redis.llen(QUEUE) + redis.hlen("unacked"))

    waiting, since = left(), time.monotonic()
    while waiting and time.monotonic() - since < QUIET_SECONDS:
        time.sleep(0.5)
        if (now := left()) < waiting:
            waiting, since = now, time.monotonic()
    time.sleep(1)
    redis.close()
    return waiting


@contextlib.contextmanager
def _redis(directory: Path) -> Iterator[str]:
    """A Redis of its own, with AOF; it is never killed. Its URL."""
    port = next(port for port in range(random_start(), 30000) if port_is_free(port))
    command = [
        str(programs.find().redis),
        "--port",
        str(port),
        "--bind",
        "127.0.0.1",
        "--dir",
        str(directory),
        "--appendonly",
        "yes",
    ]
    process = subprocess.Popen([*command, "--save", ""], stdout=subprocess.DEVNULL)  # noqa: S603
    url = f"redis://127.0.0.1:{port}/0"
    try:
        redis: Any = Redis.from_url(url)
        for _ in range(100):
            with contextlib.suppress(RedisError):
                redis.ping()
                break
            time.sleep(0.1)
        yield url
    finally:
        process.terminate()
        process.wait()
