"""SIGKILL: of each role, of a whole Patroni node, of two at once."""

from __future__ import annotations

import contextlib
import shutil
import signal
import time
from collections.abc import Callable, Iterable
from functools import partial
from pathlib import Path
from typing import Any

import psutil
import psycopg
from redis.exceptions import RedisError

from benchmarks.chaos.fault import Fault, NotPossible, Scene
from benchmarks.chaos.freezes import frozen, titled
from benchmarks.chaos.subject import family
from cluster import processes
from runtime import polling

GONE_SECONDS = 3.0
RESTART_SECONDS = (
    7.0  # that a killed worker needs to start, and its lanes' leases to run out (3 s) and be looked at (each second)
)
SHIFT_SECONDS = 5.0  # within which some worker is seen in a shift
LOST_NODE_SECONDS = 45.0  # for a lost node's successor to be promoted; Patroni's ttl is 20


def kill(victims: Iterable[psutil.Process]) -> None:
    """SIGKILL each process that still runs, and wait until it is gone: until then a dying process still looks healthy."""
    victims = list(victims)
    processes.send(victims, signal.SIGKILL)
    processes.wait(victims, GONE_SECONDS)


def empty(directory: Path) -> None:
    """Delete everything in a directory, as far as a server that may still run does not do so itself."""
    for path in directory.iterdir():
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path, ignore_errors=True)
        else:
            path.unlink(missing_ok=True)


def some(scene: Scene, role: str) -> dict[str, Any]:
    """A process of a role. Raises `NotPossible`."""
    rows = scene.subject.rows(role)
    if not rows:
        raise NotPossible(f"no {role} runs")
    return scene.rng.choice(rows)


def kill_role(role: str, scene: Scene) -> str:
    """One process of a role, its children with it."""
    row = some(scene, role)
    kill(family(row))
    return str(row["name"])


def kill_in_a_shift(scene: Scene) -> str:
    """Kill a worker that applies a lane now; its lanes must go on when their leases have run out."""
    families = {str(row["name"]): family(row) for row in scene.subject.rows("worker")}
    for _ in polling.attempts(SHIFT_SECONDS, pause=0.002):
        try:
            leases = scene.subject.leases()
        except RedisError as error:
            raise NotPossible(str(error)) from error
        busy = [
            (lane, lease.worker) for lane, lease in leases.items() if lease.worker in families and not lease.lingers
        ]
        if busy:
            lane, name = scene.rng.choice(busy)
            kill(families[name])
            return f"{name} with lane {lane}"
    raise NotPossible("no worker was seen in a shift")


def kill_main(role: str, scene: Scene) -> str:
    """One process of a role, its children left to themselves."""
    row = some(scene, role)
    kill(family(row)[:1])
    return str(row["name"])


def kill_every(role: str, scene: Scene) -> str:
    """All processes of a role at once."""
    kill([process for row in scene.subject.rows(role) for process in family(row)])
    return f"every {role}"


def lose_journal(scene: Scene) -> str:
    """The journal's primary and its disk, while its replica has all: the replica is promoted, and the other copies it."""
    journal, directory = scene.subject.journal, scene.subject.directory
    pool = journal.connection_pool
    if not hasattr(pool, "get_master_address"):
        raise NotPossible("the journal has no replica")
    try:
        replicas = journal.info("replication")["connected_slaves"]
        port = pool.get_master_address()[1]
    except RedisError as error:
        raise NotPossible(str(error)) from error
    row = next(row for row in scene.subject.rows("redis-journal") if row["port"] == port)
    if not replicas:
        raise NotPossible("the journal's replica is not connected")
    kill(family(row))
    empty(directory[str(row["name"])])
    return f"{row['name']} and its disk"


def kill_cache(scene: Scene) -> str:
    """The cache with all that is in it."""
    scene.epoch.number += 1
    name = kill_role("redis-cache", scene)
    time.sleep(0.2)
    scene.epoch.number += 1
    return name


def primary_of(scene: Scene, shard: int) -> dict[str, Any]:
    """The postmaster that takes writes. Raises `NotPossible`."""
    try:
        return scene.subject.primary(shard)
    except (psycopg.OperationalError, LookupError) as error:
        raise NotPossible(str(error)) from error


def replica_of(scene: Scene, shard: int) -> dict[str, Any]:
    """A postmaster that follows. Raises `NotPossible`."""
    if not scene.subject.replicas(shard):
        raise NotPossible(f"shard {shard} has no replica")
    try:
        return scene.subject.replica(shard)
    except (psycopg.OperationalError, LookupError) as error:
        raise NotPossible(str(error)) from error


def kill_primary(scene: Scene) -> str:
    """The postmaster of a primary alone: its backends find out by themselves."""
    row = primary_of(scene, scene.shard())
    kill(family(row)[:1])
    return str(row["name"])


def kill_replica(scene: Scene) -> str:
    """A replica."""
    row = replica_of(scene, scene.shard())
    kill(family(row))
    return str(row["name"])


def kill_node(scene: Scene) -> str:
    """A whole node: Patroni, PostgreSQL and all their children. The supervisor starts Patroni again at once."""
    row = primary_of(scene, scene.shard()) if scene.rng.random() < 0.5 else some(scene, "postgres")
    patroni = scene.subject.named(str(row["name"]).replace("postgres", "patroni"))
    kill([*family(patroni), *family(row)])
    return str(row["name"]).replace("postgres", "node")


def lose_node(scene: Scene) -> str:
    """Kill a primary's node and keep it down until its replica is promoted: Patroni is stopped, so nothing restarts the node."""
    shard = scene.shard()
    replica_of(scene, shard)
    row = primary_of(scene, shard)
    patroni = scene.subject.named(str(row["name"]).replace("postgres", "patroni"))
    with frozen(family(patroni)[:1]):
        kill(family(row))
        for _ in polling.attempts(LOST_NODE_SECONDS, pause=0.2):
            with contextlib.suppress(NotPossible):
                if primary_of(scene, shard)["name"] != row["name"]:
                    break
    return str(row["name"]).replace("postgres", "node")


def kill_both(first: Callable[[Scene], str], second: Callable[[Scene], str], scene: Scene) -> str:
    """Two at once."""
    return f"{first(scene)} and {second(scene)}"


def walsenders(row: dict[str, Any]) -> list[psutil.Process]:
    """The processes of a primary that send WAL. Raises `NotPossible` if there is none."""
    senders = titled(family(row)[1:], "walsender")
    if not senders:
        raise NotPossible(f"{row['name']} has no WAL sender")
    return senders


def cut_off_and_kill_worker(scene: Scene) -> str:
    """The replica gets nothing, so batches stay in the journal; a new worker finds them all in the ledger (I2)."""
    shard = scene.shard()
    with frozen(walsenders(primary_of(scene, shard))):
        time.sleep(2)
        workers = scene.subject.rows("worker", shard)
        kill([process for row in workers for process in family(row)])
        time.sleep(RESTART_SECONDS)
    return f"worker of shard {shard}"


def cut_off_and_kill_primary(scene: Scene) -> str:
    """A primary dies with commits that its replica never got: only the journal has them (I3)."""
    row = primary_of(scene, scene.shard())
    with frozen(walsenders(row)):
        time.sleep(3)
        kill(family(row))
    return str(row["name"])


def roles() -> list[Fault]:
    """One SIGKILL of each role, and of a whole node."""
    return [
        Fault("kill api", partial(kill_role, "api"), weight=2),
        Fault("kill every api", partial(kill_every, "api")),
        Fault("kill api, not its child", partial(kill_main, "api")),
        Fault("kill worker", partial(kill_role, "worker"), weight=2),
        KILL_IN_A_SHIFT,
        Fault("kill spill-worker", partial(kill_role, "spill-worker")),
        Fault("kill beat", partial(kill_role, "beat")),
        Fault("kill flower", partial(kill_role, "flower")),
        Fault("kill disks", partial(kill_role, "disks")),
        KILL_JOURNAL,
        Fault("lose the journal's disk", lose_journal, weight=2, loses_data=True),
        Fault("kill redis-broker", partial(kill_role, "redis-broker")),
        Fault("kill redis-cache", kill_cache),
        Fault("kill nginx", partial(kill_role, "nginx")),
        Fault("kill primary", kill_primary, weight=2, fails_over=True),
        Fault("kill replica", kill_replica),
        Fault("kill patroni", partial(kill_role, "patroni")),
        Fault("kill node", kill_node, fails_over=True),
        Fault("lose node", lose_node, fails_over=True),
        Fault("kill etcd", partial(kill_role, "etcd")),
    ]


def pairs() -> list[Fault]:
    """Two at once, where one normally compensates for the loss of the other."""
    worker, journal = partial(kill_role, "worker"), partial(kill_role, "redis-journal")
    return [
        Fault("kill primary and worker", partial(kill_both, kill_primary, worker), fails_over=True),
        Fault("kill primary and journal", partial(kill_both, kill_primary, journal), fails_over=True),
        Fault("kill worker and journal", partial(kill_both, worker, journal)),
        CUT_OFF_AND_KILL_WORKER,
        CUT_OFF_AND_KILL_PRIMARY,
    ]


CUT_OFF_AND_KILL_WORKER = Fault("cut off replica, kill worker", cut_off_and_kill_worker)
CUT_OFF_AND_KILL_PRIMARY = Fault("cut off replica, kill primary", cut_off_and_kill_primary, fails_over=True)
KILL_IN_A_SHIFT = Fault("kill worker in a shift", kill_in_a_shift, weight=2)
KILL_JOURNAL = Fault("kill redis-journal", partial(kill_role, "redis-journal"), weight=2)
