"""SIGSTOP for some seconds, then SIGCONT: a process that is there and does not answer; and a replica that is cut
off."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator, Sequence
from functools import partial

import psutil
import psycopg

from benchmarks.chaos.fault import Fault, NotPossible, Scene
from benchmarks.chaos.subject import family

FROZEN_SECONDS = 5.0
CUT_SECONDS = 10.0


@contextlib.contextmanager
def frozen(victims: Sequence[psutil.Process]) -> Iterator[None]:
    """Stop the processes while the block runs; leaders are stopped first and resumed last."""
    try:
        for process in victims:
            with contextlib.suppress(psutil.Error):
                process.suspend()
        yield
    finally:
        for process in reversed(victims):
            with contextlib.suppress(psutil.Error):
                process.resume()


def freeze(role: str, scene: Scene) -> str:
    """One process of a role."""
    rows = scene.subject.rows(role)
    if not rows:
        raise NotPossible(f"no {role} runs")
    row = scene.rng.choice(rows)
    with frozen(family(row)):
        time.sleep(FROZEN_SECONDS)
    return str(row["name"])


def freeze_node(role: str, scene: Scene) -> str:
    """A shard's `primary` or `replica`: postmaster, backends, WAL senders and receivers."""
    try:
        row = getattr(scene.subject, role)(scene.shard())
    except (psycopg.OperationalError, LookupError) as error:
        raise NotPossible(str(error)) from error
    with frozen(family(row)):
        time.sleep(FROZEN_SECONDS)
    return str(row["name"])


def titled(processes: Sequence[psutil.Process], word: str) -> list[psutil.Process]:
    """Children of a postmaster by their title: `walreceiver`, `walsender`."""
    found = []
    for process in processes:
        with contextlib.suppress(psutil.Error):
            if word in " ".join(process.cmdline()):
                found.append(process)
    return found


def cut_off_replica(scene: Scene) -> str:
    """The replica's WAL receiver stands still: it gets nothing, and answers reads with what it has."""
    shard = scene.shard()
    try:
        row = scene.subject.replica(shard)
    except (psycopg.OperationalError, LookupError) as error:
        raise NotPossible(str(error)) from error
    receivers = titled(family(row)[1:], "walreceiver")
    if not receivers:
        raise NotPossible(f"{row['name']} has no WAL receiver")
    with frozen(receivers):
        time.sleep(CUT_SECONDS)
    return str(row["name"])


FREEZE_WORKER = Fault("freeze worker 5 s", partial(freeze, "worker"))


def all_freezes() -> list[Fault]:
    """A worker, a primary, a replica, both Redis, an API process; a replica cut off."""
    return [
        FREEZE_WORKER,
        Fault("freeze primary 5 s", partial(freeze_node, "primary")),
        Fault("freeze replica 5 s", partial(freeze_node, "replica")),
        Fault("freeze redis-journal 5 s", partial(freeze, "redis-journal")),
        Fault("freeze redis-cache 5 s", partial(freeze, "redis-cache")),
        Fault("freeze api 5 s", partial(freeze, "api")),
        Fault("cut off replica 10 s", cut_off_replica),
    ]
