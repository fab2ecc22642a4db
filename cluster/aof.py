"""The append-only file of Valkey (AOF) as files: which belong together, copying them while they grow, cutting them at a
moment. Valkey writes and reads them; nothing here looks into them.

An AOF is a directory: a base (a snapshot), one or more increments (commands behind it), and a manifest that names them.
Increments only grow. A rewrite makes another base and deletes what is before it.
"""

from __future__ import annotations

import os
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from .layout import write_private

DIRECTORY = "appendonlydir"
MANIFEST = "appendonly.aof.manifest"
BLOCK = 1024 * 1024
TAIL = 64  # bytes by which a file is known to be the same as before
_NOTHING_BEFORE = "has nothing before timestamp"


class Changed(Exception):
    """The AOF is another than it was: rewritten, cut, or made anew."""


@dataclass(frozen=True)
class Manifest:
    """The files of an AOF, in order: its base, if it has one, then its increments."""

    lines: tuple[str, ...]

    @classmethod
    def read(cls, directory: Path) -> Manifest:
        """Raises `OSError`."""
        lines = (directory / MANIFEST).read_text().splitlines()
        return cls(tuple(line for line in lines if line.split()[-1] in {"b", "i"}))

    def write(self, directory: Path) -> None:
        write_private(directory / MANIFEST, "".join(f"{line}\n" for line in self.lines))

    @property
    def names(self) -> list[str]:
        return [line.split()[1] for line in self.lines]

    @property
    def base(self) -> str | None:
        return next((line.split()[1] for line in self.lines if line.endswith(" b")), None)

    @property
    def increments(self) -> list[str]:
        return [line.split()[1] for line in self.lines if line.endswith(" i")]

    def without(self, name: str) -> Manifest:
        return Manifest(tuple(line for line in self.lines if line.split()[1] != name))


class _File:
    """A file that grows, and its copy. The file stays open: what is written until it is deleted is still read."""

    def __init__(self, source: Path, target: Path) -> None:
        self._path = source
        self._source = source.open("rb")
        self._target: IO[bytes] = target.open("wb")
        self._tail = b""

    def follow(self) -> None:
        """Copy what is new to the disk. Raises `Changed`, `OSError`."""
        at = self._source.tell()
        self._source.seek(at - len(self._tail))
        if self._source.read(len(self._tail)) != self._tail:
            raise Changed(f"{self._path} was cut")
        copied = False
        while block := self._source.read(BLOCK):
            self._target.write(block)
            self._tail = (self._tail + block)[-TAIL:]
            copied = True
        if copied:
            self._target.flush()
            os.fsync(self._target.fileno())

    def is_current(self) -> bool:
        """Whether its name still is that of this file."""
        try:
            return os.path.samestat(self._path.stat(), os.fstat(self._source.fileno()))
        except OSError:
            return False

    @property
    def modified(self) -> float:
        return os.fstat(self._source.fileno()).st_mtime

    def close(self) -> None:
        self._source.close()
        self._target.close()


class Copy:
    """A copy of an AOF that a server is writing. It is whole whenever `follow` has returned: a state that the server had
    a moment ago."""

    def __init__(self, source: Path, target: Path) -> None:
        """Nothing is copied yet. Raises `Changed`, `OSError`."""
        self._from, self._to = source, target
        self._manifest = Manifest.read(source)
        self._files: dict[str, _File] = {}
        try:
            self._open()
        except BaseException:
            self.close()
            raise
        if Manifest.read(source) != self._manifest:
            self.close()
            raise Changed(f"{source} was rewritten meanwhile")

    def _open(self) -> None:
        for name in self._manifest.names:
            if name not in self._files:
                self._files[name] = _File(self._from / name, self._to / name)

    @property
    def base_time(self) -> float:
        """When its base was written (Unix time): it has every moment from then on."""
        return self._files[base].modified if (base := self._manifest.base) else 0.0

    def follow(self) -> None:
        """Copy what was written since the last call. Raises `Changed` once another base has begun: then this copy has all
        up to that. Raises `OSError`."""
        now = Manifest.read(self._from)
        is_another = now.base != self._manifest.base or not all(
            file.is_current() for name, file in self._files.items() if name in now.names
        )
        if not is_another and now != self._manifest:
            self._manifest = now
            self._open()
        for file in self._files.values():
            file.follow()
        self._manifest.write(self._to)
        if is_another:
            raise Changed(f"{self._from} was rewritten")

    def close(self) -> None:
        for file in self._files.values():
            file.close()


def copy(source: Path, target: Path, attempts: int = 20) -> None:
    """Copy an AOF as it is now, while its server writes it. Raises `Changed` if it is rewritten all the time,
    `OSError`."""
    for attempt in range(attempts):
        try:
            running = Copy(source, target)
            try:
                running.follow()
            finally:
                running.close()
        except (Changed, FileNotFoundError):
            if attempt == attempts - 1:
                raise
            for path in target.iterdir():
                path.unlink()
        else:
            return


def cut(directory: Path, second: int, server: Path) -> None:
    """Drop from a copy of an AOF what was written after a second (Unix time), by Valkey's own tool, which is `server`
    under another name. A base is never cut. Raises `OSError`."""
    manifest = Manifest.read(directory)
    for name in reversed(manifest.increments):
        tool = f"{server.name.partition('-')[0]}-check-aof"
        done = subprocess.run(
            [tool, "--truncate-to-timestamp", str(second), str(directory / name)],
            executable=server,
            check=False,
            capture_output=True,
            text=True,
        )
        if _NOTHING_BEFORE not in done.stdout:
            break
        if len(manifest.increments) == 1:  # Valkey wants one to go on with
            (directory / name).write_bytes(b"")
            break
        (directory / name).unlink()
        manifest = manifest.without(name)
    manifest.write(directory)
