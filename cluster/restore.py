"""`manage.py restore`: a new cluster from a backup, as of a moment, of the end of the archive, or of the backup itself.

It makes the data directories of the shards' first nodes and of the journal, which `cluster up` starts; replicas, etcd and
cache begin empty. The directory gets its name when all of it is there. `cluster up` then runs `manage.py after_restore`.

The journal is restored to the beginning of the second of the moment, never later than the shards: so a batch that it no
longer has is in its shard. See docs/backup.md.
"""

from __future__ import annotations

import json
import math
import shutil
import time
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from . import ClusterError, aof, backup, configs, journal_archive, layout, postgres_tools, programs, state
from .archive import Archive
from .backup import Backup
from .layout import Directory, Layout, write_private
from .postgres_tools import Recovered
from .progress import Progress

RESTORED = "restored"  # in the new directory, until `cluster up` has run `after_restore`


@dataclass(frozen=True)
class Wanted:
    """What to restore. `at`: a moment in whole seconds; None for the newest state. `name`: of the backup to begin with;
    None for the one that is nearest before. `secrets`: a file with the passwords, for a backup without. `replicas` of each
    shard, `journal_replicas` of the journal; None for as many as there were."""

    at: datetime | None = None
    name: str | None = None
    secrets: Path | None = None
    replicas: int | None = None
    journal_replicas: int | None = None


def restore(archive: Archive, to: Directory, wanted: Wanted) -> None:
    """Make a new cluster. Raises `ClusterError`; then there is none."""
    if to.root.exists():
        raise ClusterError(f"{to.root} exists: a restore makes a new directory, give another one with --to")
    found = _chosen(archive, wanted)
    secrets = _secrets(found, wanted)
    part = Directory(to.root.with_name(f".{to.root.name}.restoring"))
    try:
        part.root.mkdir(parents=True, mode=0o700)
    except FileExistsError as error:
        raise ClusterError(
            f"{part.root} is left from a restore that did not end: delete it, then run this again"
        ) from error
    except OSError as error:
        raise ClusterError(f"cannot make {part.root} ({error.strerror or error})") from error
    try:
        with Progress() as progress:
            _Run(archive, found, part, wanted, progress).restore(secrets)
        part.root.rename(to.root)
    except OSError as error:
        raise ClusterError(
            f"cannot write to {part.root} ({error.strerror or error}): make room, delete it, run this again"
        ) from error


def _chosen(archive: Archive, wanted: Wanted) -> Backup:
    every = backup.whole(archive)
    if not every:
        raise ClusterError(f"{archive.root} has no whole backup: `manage.py backup {archive.root}` makes one")
    named = [one for one in every if wanted.name in (None, one.manifest.name)]
    if not named:
        names = ", ".join(one.manifest.name for one in every)
        raise ClusterError(f"there is no backup {wanted.name}: there are {names}")
    if wanted.at is None:
        return named[-1]
    if not archive.id:
        raise ClusterError(
            f"{archive.root} has no archive of WAL, so a backup can be restored as it is only: leave --time away"
        )
    at = wanted.at.timestamp()
    if at > datetime.now(UTC).timestamp():
        raise ClusterError(f"{wanted.at:%Y-%m-%d %H:%M:%S} UTC is in the future")
    usable = [one for one in named if one.manifest.finished <= at]
    if not usable:
        oldest = datetime.fromtimestamp(named[0].manifest.finished, UTC)
        raise ClusterError(
            f"no backup was whole by then; the earliest moment is {oldest:%Y-%m-%d %H:%M:%S} UTC plus a second"
        )
    return usable[-1]


def _secrets(found: Backup, wanted: Wanted) -> str:
    path = wanted.secrets or found.path / backup.SECRETS
    try:
        text = path.read_text()
        json.loads(text)
    except FileNotFoundError as error:
        raise ClusterError(
            f"{path} does not exist: give the secrets.json of the cluster that was backed up, --secrets FILE"
        ) from error
    except (OSError, ValueError) as error:
        raise ClusterError(
            f"{path} is broken ({error}): give the secrets.json of the cluster, --secrets FILE"
        ) from error
    return text


class _Run:
    """One restore."""

    def __init__(self, archive: Archive, found: Backup, part: Directory, wanted: Wanted, progress: Progress) -> None:
        self._archive, self._found, self._to, self._wanted, self._at = archive, found, part, wanted, wanted.at
        self._programs, self._progress = programs.find(), progress

    def restore(self, secrets: str) -> None:
        manifest = self._found.manifest
        with self._progress.task("backup checked"):
            backup.check(self._found, self._programs)
        if self._archive.id:
            self._follow_source()
        self._to.logs.mkdir(mode=0o700)
        for one in manifest.shards:
            self._restore_shard(one.shard)
        self._restore_journal()
        layout.save(self._to, self._layout())
        write_private(self._to[backup.SECRETS], secrets)
        if (key := self._found.path / backup.KEY).exists():
            write_private(self._to[backup.KEY], key.read_text())
        write_private(self._to[RESTORED], json.dumps({"backup": manifest.name, "time": str(self._at or "")}) + "\n")

    def _layout(self) -> Layout:
        manifest, wanted = self._found.manifest, self._wanted
        return Layout(
            shards=len(manifest.shards),
            replicas=manifest.replicas if wanted.replicas is None else wanted.replicas,
            journal_replicas=manifest.journal_replicas if wanted.journal_replicas is None else wanted.journal_replicas,
        )

    def _follow_source(self) -> None:
        """Where the cluster that archives here still runs, its newest state is that of a moment, too: now. Have it archive
        what it has written until then."""
        source = Directory(Path(json.loads((self._archive.root / "archive.json").read_text())["cluster"]))
        wanted = layout.load(source) if source.root.exists() else None
        if wanted is None or wanted.archive_id != self._archive.id or state.supervisor(state.read(source)) is None:
            return
        if self._at is None:
            second = math.ceil(max(time.time(), self._found.manifest.finished))
            time.sleep(
                max(0.0, second + 2 * journal_archive.STEP_SECONDS - time.time())
            )  # until its journal is archived
            self._at = datetime.fromtimestamp(second, UTC)
        with self._progress.task("WAL archived"):
            try:
                backup.switch(source, wanted, layout.load_secrets(source), self._archive)
            except ClusterError as error:
                self._progress.say(f"warning: the archive may lack the last minute: {error}")

    def _restore_shard(self, shard: int) -> None:
        data = self._to.node(shard, 1) / "data"
        data.parent.mkdir(parents=True, mode=0o700)
        with self._progress.task(f"shard {shard} copied"):
            shutil.copytree(self._found.shard(shard), data, symlinks=True)
            data.chmod(0o700)
            (data / "backup_manifest").unlink()
        restore_command = configs.restore_command(self._archive.wal(shard)) if self._archive.id else None
        with self._progress.task(f"shard {shard} recovered"):
            done = postgres_tools.recover(
                self._programs, data, self._to.log(f"restore-{shard}"), restore_command, self._at
            )
        if restore_command:
            self._check_end(shard, done)

    def _check_end(self, shard: int, done: Recovered) -> None:
        """A recovery that ran out of WAL must have used all that there is. Raises `ClusterError`."""
        if done.reached:
            return
        size = max((path.stat().st_size for path in self._archive.wal(shard).glob("?" * 24)), default=1)
        last = max((_number(name, size) for name in self._archive.segments(shard)), default=0)
        if last > done.position // size:
            raise ClusterError(
                f"the archive of shard {shard} has a gap: recovery ended at {done.position >> 32:X}/{done.position & 0xFFFFFFFF:X}, "
                "and there are later segments. Restore to a time before that, or from a backup after the gap (--backup)"
            )
        if self._wanted.at is not None:
            self._progress.say(
                f"shard {shard}: its archive has no commit after that time; restored to its last one, of {done.last or 'the backup'}"
            )

    def _restore_journal(self) -> None:
        at = self._at
        target = self._to["redis-journal"] / aof.DIRECTORY
        source, ended = self._found.journal, self._found.manifest.finished
        if self._archive.id and (
            generation := journal_archive.choose(
                journal_archive.generations(self._archive), None if at is None else at.timestamp()
            )
        ):
            source, ended = generation.path, generation.ended
        with self._progress.task("journal"):
            target.parent.mkdir(mode=0o700)
            target.mkdir(mode=0o700)
            manifest = aof.Manifest.read(source)
            for name in manifest.names:
                shutil.copyfile(source / name, target / name)
            manifest.write(target)
            if at is not None:
                aof.cut(target, int(at.timestamp()) - 1, self._programs.redis)
        if at is not None and ended < at.timestamp():
            self._progress.say(
                f"warning: the journal's archive ends at {datetime.fromtimestamp(ended, UTC):%H:%M:%S} UTC: what was accepted "
                "after that and not applied by the time of the restore is not in it"
            )


def _number(segment: str, size: int) -> int:
    """The number of a segment among those of all timelines."""
    return int(segment[8:16], 16) * ((1 << 32) // size) + int(segment[16:], 16)
