"""The archive of a cluster: WAL of every shard, logs of the journal, base backups, all in one directory.

    archive.json      whose archive this is
    wal/SHARD/        what `archive_wal` has stored
    journal/          generations of the journal's log (`journal_archive`)
    backups/TIME/     base backups (`backup`); what is still being made has a name that begins with a dot

One cluster owns an archive: WAL of two clusters has the same names. A directory may have backups without the rest.
"""

from __future__ import annotations

import json
import re
import time
from dataclasses import dataclass
from pathlib import Path

from . import ClusterError
from .archive_wal import FORKED
from .layout import write_private

_WAL = re.compile(r"[0-9A-F]{24}")
STALE_SECONDS = 3600.0  # after which a copy that nobody finished is deleted


@dataclass(frozen=True)
class Archive:
    """An archive, or a directory of backups alone."""

    root: Path

    def wal(self, shard: int) -> Path:
        return self.root / "wal" / str(shard)

    @property
    def journal(self) -> Path:
        return self.root / "journal"

    @property
    def backups(self) -> Path:
        return self.root / "backups"

    @property
    def id(self) -> str:
        """The cluster's name for its archive; "" where there is none. Raises `ClusterError`."""
        path = self.root / "archive.json"
        try:
            return str(json.loads(path.read_text())["id"]) if path.exists() else ""
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise ClusterError(f"{path} is broken ({error!r}): restore that file") from error

    def claim(self, id: str, cluster: Path, shards: int) -> None:
        """Make the archive of a cluster, for the owner alone. Raises `ClusterError` where it is another's."""
        if self.id not in ("", id):
            raise ClusterError(
                f"{self.root} is the archive of another cluster, or of this one from before it had none: "
                "give --archive an empty directory"
            )
        try:
            for room in (self.root, self.journal, self.backups, *map(self.wal, range(shards))):
                room.mkdir(parents=True, exist_ok=True, mode=0o700)
                room.chmod(0o700)
            if not self.id:
                write_private(self.root / "archive.json", json.dumps({"id": id, "cluster": str(cluster)}) + "\n")
        except OSError as error:
            raise ClusterError(f"cannot write to the archive {self.root} ({error.strerror or error})") from error

    def segments(self, shard: int) -> list[str]:
        """Names of the whole segments of a shard, sorted: by timeline, then by position."""
        return sorted(path.name for path in self.wal(shard).glob("*") if _WAL.fullmatch(path.name))

    def forget_wal(self, shard: int, before: str) -> int:
        """Delete the WAL that lies before a segment, of all timelines. Their histories stay. Returns how many files."""
        gone = 0
        for path in [*self.wal(shard).glob("*"), *(self.wal(shard) / FORKED).glob("*")]:
            if (_WAL.match(path.name) and path.name[8:24] < before[8:24]) or _is_stale(path):
                path.unlink(missing_ok=True)
                gone += 1
        return gone


def _is_stale(path: Path) -> bool:
    return path.name.startswith(".") and path.stat().st_mtime < time.time() - STALE_SECONDS
