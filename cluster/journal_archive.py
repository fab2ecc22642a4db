"""Archives the journal: `python -m cluster.journal_archive DIRECTORY` copies the AOF of its primary, second by second.

Completed batches leave the journal, so what it had at a moment is only known from its log. A *generation* is one base of
the AOF of one server with all that followed it, as far as it was copied. Another begins when the AOF is rewritten, when
another server becomes the primary, and when this process starts. Each is a directory of its own with the files that
Valkey loads; `choose` says which of them has a moment.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import sys
import time
from collections.abc import Iterable
from datetime import UTC, datetime
from pathlib import Path
from threading import Event
from typing import NamedTuple

from . import ClusterError, aof, layout, sentinels
from .archive import Archive
from .layout import Directory, Layout, write_private

STEP_SECONDS = 1.0
PAUSE_SECONDS = 5.0  # after a failure
ABOUT = "generation.json"


class Generation(NamedTuple):
    """A generation in the archive. It has every moment from `base_time` to `ended`; its server was followed as the
    primary from `began` on. Unix times."""

    path: Path
    base_time: float
    began: float
    ended: float


def choose(generations: Iterable[Generation], at: float | None) -> Generation | None:
    """The generation with the state at a moment, or the nearest before it; None: the newest state of all."""
    found = list(generations)
    if at is None:
        return max(found, key=lambda one: one.ended, default=None)
    usable = [one for one in found if one.base_time <= at]
    having = [one for one in usable if one.ended >= at]
    if not having:
        return max(usable, key=lambda one: one.ended, default=None)
    return max(having, key=lambda one: (one.began <= at, one.began if one.began <= at else -one.began))


def generations(archive: Archive) -> list[Generation]:
    """The generations of an archive, oldest first."""
    found = []
    for path in sorted(archive.journal.glob("*")):
        if (path / aof.MANIFEST).exists() and (path / ABOUT).exists():
            about = json.loads((path / ABOUT).read_text())
            ended = (path / aof.MANIFEST).stat().st_mtime
            found.append(Generation(path, float(about["base_time"]), float(about["began"]), ended))
    return found


def primary_of(wanted: Layout, password: str) -> str | None:
    """The name of the journal's primary; None while the Sentinels do not agree."""
    if not wanted.sentinels:
        return wanted.journals[0]
    port = sentinels.primary(wanted, password)
    return next((name for name in wanted.journals if wanted.ports[name] == port), None)


class Archiver:
    """Follows the journal's primary."""

    def __init__(self, directory: Directory, wanted: Layout, password: str) -> None:
        self._directory, self._layout, self._password = directory, wanted, password
        self._archive = Archive(Path(wanted.archive))
        self._server = ""
        self._path: Path | None = None
        self._copy: aof.Copy | None = None

    def step(self) -> None:
        """Copy what is new. Raises `OSError`, `Changed`: the next step begins another generation."""
        server = primary_of(self._layout, self._password) or self._server
        if server != self._server:
            self.end()
            self._server = server
        if not server:
            return
        try:
            if self._copy is None:
                self._begin()
            else:
                self._copy.follow()
        except (aof.Changed, OSError):
            self.end()
            raise
        write_private(self._directory["journal-archived"], "")

    def _begin(self) -> None:
        now = time.time()
        name = f"{datetime.fromtimestamp(now, UTC):%Y%m%dT%H%M%S.%fZ}-{self._server}"
        self._path = self._archive.journal / name
        self._path.mkdir(mode=0o700)
        self._copy = aof.Copy(self._directory[self._server] / aof.DIRECTORY, self._path)
        about = {"server": self._server, "began": now, "base_time": self._copy.base_time}
        write_private(self._path / ABOUT, json.dumps(about) + "\n")
        self._copy.follow()

    def end(self) -> None:
        """End the generation; one that has nothing whole is deleted."""
        if self._copy is not None:
            self._copy.close()
        if self._path is not None and not (self._path / aof.MANIFEST).exists():
            shutil.rmtree(self._path, ignore_errors=True)
        self._copy = self._path = None


def main(root: str) -> None:
    """Archive until the process is ended. Raises `ClusterError` for a cluster without an archive."""
    os.umask(0o077)
    directory = Directory(Path(root))
    wanted, secrets = layout.load(directory), layout.load_secrets(directory)
    if wanted is None or not wanted.archive:
        raise ClusterError(f"the cluster in {root} has no archive")
    archiver, stopping = Archiver(directory, wanted, secrets["sentinel"]), Event()
    signal.signal(signal.SIGTERM, lambda *_: stopping.set())
    pause = 0.0
    while not stopping.wait(pause):
        pause = _stepped(archiver)
    _stepped(archiver)


def _stepped(archiver: Archiver) -> float:
    """Copy what is new. Returns the seconds to pause."""
    try:
        archiver.step()
    except aof.Changed:
        return 0.0
    except OSError as error:
        print(f"error: the journal is not archived: {error}", flush=True)
        return PAUSE_SECONDS
    return STEP_SECONDS


if __name__ == "__main__":
    main(*sys.argv[1:])
