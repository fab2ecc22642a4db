"""A slow network: the connections to a server share a line with little bandwidth and a short queue. Packets wait, and
those that find the queue full are lost.

The line is on the loopback interface of the round's own namespace. netem, which delays packets, is missing in many
kernels; HTB is in all.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator, Sequence
from functools import partial

import psycopg

from benchmarks.chaos.fault import Fault, NotPossible, Scene
from benchmarks.chaos.isolation import run
from benchmarks.chaos.kills import primary_of, replica_of
from benchmarks.chaos.subject import Subject

SLOW_SECONDS = 10.0
QUEUE_PACKETS = 20
RECEIVERS = "SELECT client_port FROM pg_stat_replication WHERE state = 'streaming'"


@contextlib.contextmanager
def slow(ports: Sequence[int], kbit: int) -> Iterator[None]:
    """Whatever goes to or comes from one of these ports shares a line of so many kbit/s while the block runs."""
    run("tc qdisc add dev lo root handle 1: htb")
    try:
        run(f"tc class add dev lo parent 1: classid 1:1 htb rate {kbit}kbit burst 3000 cburst 3000")
        run(f"tc qdisc add dev lo parent 1:1 handle 10: pfifo limit {QUEUE_PACKETS}")
        for port in ports:
            for end in ("sport", "dport"):
                match = f"match ip {end} {port} 0xffff"
                run(f"tc filter add dev lo parent 1: protocol ip prio 1 u32 {match} flowid 1:1")
        yield
    finally:
        run("tc qdisc del dev lo root")


def slow_replication(kbit: int, scene: Scene) -> str:
    """What a shard's primary sends to its replica, and nothing else."""
    shard = scene.shard()
    replica = replica_of(scene, shard)
    try:
        with scene.subject.database(shard) as conn:
            ports = [port for (port,) in conn.execute(RECEIVERS)]
    except psycopg.Error as error:
        raise NotPossible(str(error)) from error
    if not ports:
        raise NotPossible(f"no replica of shard {shard} streams")
    with slow(ports, kbit):
        time.sleep(SLOW_SECONDS)
    return str(replica["name"])


def slow_primary(kbit: int, scene: Scene) -> str:
    """A shard's primary, for all: API processes, workers, its replica."""
    row = primary_of(scene, scene.shard())
    with slow([int(row["port"])], kbit):
        time.sleep(SLOW_SECONDS)
    return str(row["name"])


def slow_journal(kbit: int, scene: Scene) -> str:
    """The journal, for all: API processes, workers, its replica."""
    with slow(journal_ports(scene.subject), kbit):
        time.sleep(SLOW_SECONDS)
    return "redis-journal"


def journal_ports(subject: Subject) -> list[int]:
    """The ports of the journal's servers."""
    return [int(row["port"]) for row in subject.rows("redis-journal")]


def all_slow_networks() -> list[Fault]:
    """Between a primary and its replica; to a primary; to the journal."""
    return [
        Fault("slow network, replication 10 s", partial(slow_replication, 128)),
        Fault("slow network, primary 10 s", partial(slow_primary, 512)),
        Fault("slow network, journal 10 s", partial(slow_journal, 512)),
    ]
