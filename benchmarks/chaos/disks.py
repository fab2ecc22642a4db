"""Full disks: one node of PostgreSQL and the journal have small file systems of their own, which have no room for some
seconds."""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import psycopg

from benchmarks.chaos.damage import superuser
from benchmarks.chaos.fault import Fault, NotPossible, Scene
from benchmarks.chaos.isolation import run
from benchmarks.chaos.kills import primary_of
from benchmarks.chaos.subject import Subject
from cluster import layout
from cluster.layout import Directory
from runtime import polling

SIZE = "6g"  # of each; it takes no more memory than what is written
FULL_SECONDS = 6.0
ROOM_BYTES = 64 * 1024
FIND_SECONDS = 3.0  # for a size that is neither less than what is used nor much more
SEGMENT = "SELECT pg_logical_emit_message(false, 'chaos', ''), pg_switch_wal()"  # the next one needs room


def places(directory: Directory) -> list[Path]:
    """What has a file system of its own: a node, and the journal."""
    return [directory.node(0, 1), directory["redis-journal"]]


def provide(root: Path) -> None:
    """Make the file systems of a cluster that is to be made in this directory."""
    directory = Directory(root)
    directory.prepare()
    layout.load_secrets(directory)  # they are made before the nodes' directories: `cluster up` insists on that
    for place in places(directory):
        place.mkdir(parents=True, exist_ok=True)
        run(f"mount -t tmpfs -o size={SIZE},mode=0700 tmpfs {place}")


def put_away(root: Path, *, keep: bool) -> None:
    """Remove the file systems of a cluster that has been stopped; `keep` what is in them, in the directory."""
    for place in places(Directory(root)):
        if place.is_mount():
            kept = place.with_name(f"{place.name}-kept")
            if keep:
                shutil.copytree(place, kept, symlinks=True, ignore_dangling_symlinks=True)
            run(f"umount --lazy {place}")
            if keep:
                place.rmdir()
                kept.rename(place)


@contextlib.contextmanager
def full(place: Path) -> Iterator[None]:
    """A file system has next to no room while the block runs. Raises `NotPossible` if it is none of ours."""
    if not place.is_mount():
        raise NotPossible(f"{place} has no file system of its own")
    try:
        for _ in polling.attempts(FIND_SECONDS, pause=0.02):
            found = os.statvfs(place)
            used = (found.f_blocks - found.f_bfree) * found.f_frsize
            with contextlib.suppress(subprocess.CalledProcessError):  # more is used by now
                run(f"mount -o remount,size={used + ROOM_BYTES} {place}")
                break
        else:
            raise NotPossible(f"{place} grows too fast")
        yield
    finally:
        run(f"mount -o remount,size={SIZE} {place}")


def fill_node(scene: Scene) -> str:
    """The file system with a node's data: of a primary, or of a replica that receives what its primary writes."""
    subject = scene.subject
    role = "primary" if primary_of(scene, 0)["name"] == "postgres-0-1" else "replica"
    with full(subject.directory.node(0, 1)):
        _write_segments(subject, FULL_SECONDS)
    return f"postgres-0-1, {role}"


def _write_segments(subject: Subject, seconds: float) -> None:
    """Use up the segments of WAL that a shard has in store, or it would not notice that there is no room."""
    for _ in polling.attempts(seconds, pause=0.1):
        with contextlib.suppress(psycopg.Error, LookupError), superuser(subject, subject.primary(0)) as conn:
            conn.execute(SEGMENT)


def fill_journal(scene: Scene) -> str:
    """The file system with the journal's AOF."""
    with full(scene.subject.directory["redis-journal"]):
        time.sleep(FULL_SECONDS)
    return "redis-journal"


def all_full_disks() -> list[Fault]:
    """Of a node, of the journal."""
    return [Fault("disk full, node 6 s", fill_node), Fault("disk full, journal 6 s", fill_journal)]
