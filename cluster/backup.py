"""`manage.py backup`: a base backup of every shard of a running cluster, with its journal and its secrets.

A backup is a directory of `Archive.backups`, whole once it has its name. What must be true of it: the journal in it is
not newer than any shard in it. A batch that has left the journal is then in its shard (I3 says it was committed before),
so nothing that was accepted before the backup began is missing. So the journal is copied first, and a shard whose copy
ends before the WAL position that its primary had by then (a replica that lags) is copied again.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import shutil
import time
import tomllib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import msgspec
import psycopg

from runtime import polling

from . import ClusterError, aof, journal_archive, layout, postgres_tools, programs, state
from .archive import Archive
from .archive_wal import sync_directory
from .configs import DATABASE, REPLICATOR
from .layout import Directory, Layout, write_private
from .postgres_tools import Failed, Range, position
from .programs import Programs
from .progress import Progress

FORMAT = 1
MANIFEST = "manifest.json"
JOURNAL = "journal"
SECRETS = "secrets.json"
KEY = "api-key"
ATTEMPTS = 8
PAUSE_SECONDS = 2.0  # between attempts; a failover takes some of them
ARCHIVED_SECONDS = 60.0
# The position is that of WAL on the disk. One row; before `migrate_all` there is none.
PRIMARY = "SELECT pg_current_wal_flush_lsn()::text, setting::bigint FROM pg_settings WHERE name = 'wal_segment_size'"
TOPOLOGY = "SELECT topology_version, coalesce(lanes, 1), owners FROM shard_state"
# The segment that is whole now. Without WAL since the last switch, that is the one before.
SWITCH = "SELECT pg_walfile_name(pg_switch_wal() - 1)"


class Shard(msgspec.Struct, frozen=True):
    """A shard in a backup. `node`: the server that was copied; `ends`: the position (bytes) from which it is whole;
    `sha256`: of PostgreSQL's own manifest, which has a checksum of each file."""

    shard: int
    node: str
    timeline: int
    first_segment: str
    ends: int
    topology_version: int
    lanes: int
    slots: int
    sha256: str


class Manifest(msgspec.Struct, frozen=True):
    """What a backup has. Times are Unix times: it has everything accepted before `begun`, and is whole from `finished`
    on. `files`: checksums of the files that are no shard's, by path."""

    format: int
    name: str
    begun: float
    finished: float
    versions: dict[str, str]
    archive_id: str
    replicas: int
    journal_replicas: int
    shards: list[Shard]
    files: dict[str, str]


@dataclass(frozen=True)
class Backup:
    """A whole backup."""

    path: Path
    manifest: Manifest

    def shard(self, number: int) -> Path:
        """Its data directory of a shard."""
        return shard_in(self.path, number)

    @property
    def journal(self) -> Path:
        return self.path / JOURNAL


def shard_in(backup: Path, number: int) -> Path:
    return backup / f"shard-{number}"


def whole(archive: Archive) -> list[Backup]:
    """The whole backups of a directory, oldest first. Raises `ClusterError`."""
    found = []
    for path in sorted(archive.backups.glob("[!.]*")):
        try:
            manifest = msgspec.json.decode((path / MANIFEST).read_bytes(), type=Manifest)
        except (OSError, msgspec.DecodeError) as error:
            raise ClusterError(f"{path} is no whole backup ({error}): delete or repair it") from error
        if manifest.format != FORMAT:
            raise ClusterError(f"{path} has format {manifest.format}: a newer version of Tally made it, use that one")
        found.append(Backup(path, manifest))
    return found


def check(found: Backup, tools: Programs) -> None:
    """Compare a backup with all of its checksums. Raises `ClusterError`."""
    instead = "it is damaged, use another one (--backup)"
    for path, digest in found.manifest.files.items():
        if not (found.path / path).is_file() or _sha256(found.path / path) != digest:
            raise ClusterError(f"{found.path / path} is not what was backed up: {instead}")
    for one in found.manifest.shards:
        data = found.shard(one.shard)
        if _sha256(data / "backup_manifest") != one.sha256:
            raise ClusterError(f"{data / 'backup_manifest'} is not what was backed up: {instead}")
        try:
            postgres_tools.verify(tools, data)
        except Failed as error:
            raise ClusterError(f"{data} is not what was backed up: {instead} ({error})") from error


def take(directory: Directory, archive: Archive, *, keep: int | None, secrets: bool) -> Backup:
    """Back a running cluster up; then delete all but the newest `keep` backups and the logs that only these needed.
    `secrets`: with its passwords. Raises `ClusterError`."""
    wanted = layout.load(directory)
    if wanted is None or state.supervisor(state.read(directory)) is None:
        raise ClusterError(f"no cluster runs in {directory.root}: `cluster up` starts it, --dir names another")
    if wanted.archive and Path(wanted.archive) != archive.root:
        raise ClusterError(f"this cluster archives to {wanted.archive}: back it up to there, where its WAL is")
    if archive.id not in ("", wanted.archive_id):
        raise ClusterError(f"{archive.root} is the archive of another cluster: give another directory")
    try:
        archive.backups.mkdir(parents=True, exist_ok=True, mode=0o700)
        with _alone(archive), Progress() as progress:
            found = _Run(directory, wanted, archive, progress).take(secrets=secrets)
            if keep is not None:
                _prune(archive, keep, progress)
    except OSError as error:
        raise ClusterError(
            f"cannot write to {archive.root} ({error.strerror or error}): make room or choose another directory, "
            "then run it again"
        ) from error
    return found


class _Run:
    """One backup being made."""

    def __init__(self, directory: Directory, wanted: Layout, archive: Archive, progress: Progress) -> None:
        self._directory, self._layout, self._archive, self._progress = directory, wanted, archive, progress
        self._secrets = layout.load_secrets(directory)
        self._programs = programs.find()

    def take(self, *, secrets: bool) -> Backup:
        begun = time.time()
        name = f"{datetime.fromtimestamp(begun, UTC):%Y%m%dT%H%M%S.%fZ}"
        path, part = self._archive.backups / name, self._archive.backups / f".{name}"
        part.mkdir(mode=0o700)
        with self._progress.task("journal"):
            self._copy_journal(part / JOURNAL)
        # Whatever the journal no longer has, the shards have by these positions.
        at_least = {shard: self._primary_position(shard) for shard in range(self._layout.shards)}
        shards = [self._copy_shard(shard, shard_in(part, shard), at_least[shard]) for shard in at_least]
        finished = time.time()
        if self._layout.archive:
            with self._progress.task("WAL archived"):
                switch(self._directory, self._layout, self._secrets, self._archive)
        if secrets:
            for file in (SECRETS, KEY):
                write_private(part / file, self._directory[file].read_text())
        manifest = Manifest(
            format=FORMAT,
            name=name,
            begun=begun,
            finished=finished,
            versions=_versions(self._programs),
            archive_id=self._layout.archive_id,
            replicas=self._layout.replicas,
            journal_replicas=self._layout.journal_replicas,
            shards=shards,
            files={str(one.relative_to(part)): _sha256(one) for one in _files_beside_shards(part)},
        )
        write_private(part / MANIFEST, msgspec.json.format(msgspec.json.encode(manifest)).decode() + "\n")
        _sync(part)
        part.rename(path)
        sync_directory(self._archive.backups)
        return Backup(path, manifest)

    def _copy_journal(self, target: Path) -> None:
        for _ in polling.attempts(ARCHIVED_SECONDS, pause=0.2):
            if name := journal_archive.primary_of(self._layout, self._secrets["sentinel"]):
                target.mkdir(mode=0o700)
                try:
                    aof.copy(self._directory[name] / aof.DIRECTORY, target)
                except aof.Changed as error:
                    raise ClusterError(f"the journal could not be copied: {error}. Run it again") from error
                return
        raise ClusterError("the journal has no primary: see `cluster status` and docs/journal.md, then run it again")

    def _primary_position(self, shard: int) -> int:
        return position(_on_primary(self._layout, self._secrets, shard, PRIMARY)[0])

    def _copy_shard(self, shard: int, target: Path, at_least: int) -> Shard:
        """Copy a shard from a replica that streams, else from its primary; again from another if that fails."""
        failed: list[str] = []
        for attempt in range(ATTEMPTS):
            node = _source(self._directory, shard, set(failed[-1:]))
            if node is None:
                reason = "none of its servers runs"
            else:
                shutil.rmtree(target, ignore_errors=True)
                try:
                    with self._progress.task(f"shard {shard} from {node}") as tell:
                        return self._copied(shard, target, node, at_least, tell)
                except (Failed, psycopg.Error, ClusterError) as error:
                    reason = f"{node}: {str(error).strip()}"
                    failed.append(node)
            self._progress.say(f"shard {shard} was not copied: {reason}")
            if attempt < ATTEMPTS - 1:
                time.sleep(PAUSE_SECONDS)
        raise ClusterError(
            f"shard {shard} could not be copied: {reason}. `cluster status` shows its servers, {self._directory.logs} "
            "why; bring one back and run this again. Nothing of this attempt counts as a backup"
        )

    def _copied(self, shard: int, target: Path, node: str, at_least: int, tell: Any) -> Shard:
        port = self._layout.ports[node]
        secret = self._secrets["replication"]
        postgres_tools.base_backup(self._programs, target, port=port, user=REPLICATOR, password=secret, tell=tell)
        found = Range.of(target)
        if found.end < at_least:
            raise Failed("it lags, and lacks what its primary had when the journal was copied")
        postgres_tools.verify(self._programs, target)
        _, size = _on_primary(self._layout, self._secrets, shard, PRIMARY)
        topology, lanes, owners = _on_primary(self._layout, self._secrets, shard, TOPOLOGY)
        return Shard(
            shard=shard,
            node=node,
            timeline=found.timeline,
            first_segment=found.first_segment(size),
            ends=found.end,
            topology_version=topology,
            lanes=lanes,
            slots=owners.count(shard),
            sha256=_sha256(target / "backup_manifest"),
        )


def switch(directory: Directory, wanted: Layout, secrets: dict[str, str], archive: Archive) -> None:
    """Have every shard of a running cluster archive the WAL that it has now. Raises `ClusterError`."""
    waiting = {}
    for shard in range(wanted.shards):
        (waiting[shard],) = _on_primary(wanted, secrets, shard, SWITCH)
    for _ in polling.attempts(ARCHIVED_SECONDS, pause=0.1):
        waiting = {shard: name for shard, name in waiting.items() if not (archive.wal(shard) / name).exists()}
        if not waiting:
            return
    shard, name = next(iter(waiting.items()))
    raise ClusterError(
        f"WAL segment {name} of shard {shard} is not archived after {ARCHIVED_SECONDS:.0f} s: "
        f'{directory.logs}/postgres-{shard}-*.log say why (docs/backup.md, "When WAL is not archived")'
    )


def _on_primary(wanted: Layout, secrets: dict[str, str], shard: int, query: str) -> tuple[Any, ...]:
    """The one row that a query returns on a shard's primary, also after a failover. Raises `ClusterError`."""
    ports = [wanted.ports[f"postgres-{shard}-{node}"] for at, node in wanted.nodes if at == shard]
    error: psycopg.Error | None = None
    for _ in polling.attempts(ARCHIVED_SECONDS, pause=0.5):
        try:
            with psycopg.connect(
                host=",".join(["127.0.0.1"] * len(ports)),
                port=",".join(map(str, ports)),
                user="postgres",
                password=secrets["postgres"],
                dbname=DATABASE,
                target_session_attrs="read-write",
                connect_timeout=2,
                autocommit=True,
            ) as conn:
                row = conn.execute(query).fetchone()
                if row is None:
                    raise ClusterError(f"shard {shard} is not set up yet: wait until `cluster up` has said `ready:`")
                found: tuple[Any, ...] = row
                return found
        except psycopg.Error as failure:
            error = failure
    raise ClusterError(f"shard {shard} has no primary ({str(error).strip()}): see `cluster status`, then run it again")


def _source(directory: Directory, shard: int, avoid: set[str]) -> str | None:
    """The server to copy: a replica that streams, else the primary, else any that runs."""
    now = state.current(directory)
    rows = [row for row in now.processes if row["role"] == "postgres" and row["shard"] == shard]
    alive = [row for row in rows if row["state"] == "running"]
    order = sorted(
        alive, key=lambda row: (row["name"] in avoid, not state.is_streaming(row), row["name"] not in now.primary_names)
    )
    return order[0]["name"] if order else None


def _prune(archive: Archive, keep: int, progress: Progress) -> None:
    """Keep the newest backups; delete the others, those that were never finished, and logs from before the oldest."""
    for path in archive.backups.glob(".2*"):
        shutil.rmtree(path)
    found = whole(archive)
    for old in found[:-keep]:
        gone = old.path.with_name(f".{old.path.name}")
        old.path.rename(gone)  # at once: what is half deleted must not be taken for a backup
        shutil.rmtree(gone)
    oldest = found[-keep:][0].manifest
    files = sum(archive.forget_wal(one.shard, one.first_segment) for one in oldest.shards)
    logs = [one for one in journal_archive.generations(archive) if one.ended < oldest.begun]
    for one in logs:
        shutil.rmtree(one.path)
    progress.say(
        f"kept {len(found[-keep:])}, deleted {layout.count(len(found[:-keep]), 'backup')}, {layout.count(files, 'file')} of WAL "
        f"and {layout.count(len(logs), 'log')} of the journal"
    )


@contextmanager
def _alone(archive: Archive) -> Iterator[None]:
    """One backup at a time. Raises `ClusterError`."""
    with (archive.backups / ".lock").open("a") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            raise ClusterError(f"another backup to {archive.root} is running: wait for it") from error
        yield


def _files_beside_shards(part: Path) -> list[Path]:
    return sorted(path for path in [*part.glob("*"), *(part / JOURNAL).glob("*")] if path.is_file())


def _sync(part: Path) -> None:
    """Flush what is not flushed yet: pg_basebackup has flushed the shards."""
    for path in _files_beside_shards(part):
        with path.open("rb") as file:
            os.fsync(file.fileno())
    for path in (part / JOURNAL, part):
        sync_directory(path)


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _versions(tools: Programs) -> dict[str, str]:
    found = {"postgresql": tools.postgres_bin / "postgres", tools.redis.name: tools.redis}
    project = tomllib.loads((layout.PROJECT / "pyproject.toml").read_text())["project"]
    return {"tally": project["version"]} | {
        name: ".".join(map(str, programs.version(program))) for name, program in found.items()
    }
