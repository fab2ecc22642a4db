"""PostgreSQL's `archive_command`: `python -I archive_wal.py SOURCE DIRECTORY` stores one file of WAL in a directory.

Run by its path and with nothing but the standard library, as PostgreSQL starts it for every segment. Exit status 0 means
that the file is stored, on the disk, under its name. What must stay true, whoever else archives to the same directory:

- A name appears with all of its content, or not at all: a copy under another name is flushed, then linked to the name.
- A file that is there is never replaced. The same file again is success, so both nodes of a shard may archive a segment
  (`archive_mode = always`: one that its primary could not archive before it died is not missing).
- Another file under the same name is refused, with one exception: of the segments that a timeline had written behind the
  point at which the shard left it (a failover), each node may have another version. No recovery needs any of them, so
  the second is kept in `forked/`.

Blocks of zeros become holes, so a segment that was switched early takes little space.
"""

from __future__ import annotations

import hashlib
import os
import re
import sys
from pathlib import Path

BLOCK = 64 * 1024
FORKED = "forked"
_SEGMENT = re.compile(r"[0-9A-F]{24}")
_LOG_BYTES = 1 << 32  # WAL that the two halves of a segment's number are counted in


class Refused(Exception):
    """The directory has another file of this name."""


def store(source: Path, directory: Path) -> None:
    """Store a file under its own name. Raises `Refused`, `OSError`."""
    target = directory / source.name
    if target.exists():
        _meet(source, target)
        return
    beside = directory / f".{source.name}.{os.getpid()}"
    try:
        copy(source, beside)
        try:
            os.link(beside, target)
        except FileExistsError:  # the other node was faster
            _meet(source, target)
    finally:
        beside.unlink(missing_ok=True)
    sync_directory(directory)


def copy(source: Path, target: Path) -> None:
    """Copy a file to the disk, with holes for zeros. Replaces the target."""
    with source.open("rb") as reading, target.open("wb") as writing:
        while block := reading.read(BLOCK):
            if block.count(0) == len(block):
                writing.seek(len(block), os.SEEK_CUR)
            else:
                writing.write(block)
        writing.truncate()
        writing.flush()
        os.fsync(writing.fileno())


def sync_directory(directory: Path) -> None:
    """Flush the names in a directory."""
    opened = os.open(directory, os.O_RDONLY)
    try:
        os.fsync(opened)
    finally:
        os.close(opened)


def is_behind_a_fork(segment: str, size: int, directory: Path) -> bool:
    """Whether the shard had left the timeline of this segment (of `size` bytes) before its end, by the timelines'
    histories in the directory."""
    timeline, number = int(segment[:8], 16), int(segment[8:16], 16) * _LOG_BYTES + int(segment[16:], 16) * size
    for history in directory.glob("*.history"):
        for line in history.read_text().splitlines():
            left, _, rest = line.partition("\t")
            if left.strip().isdigit() and int(left) == timeline:
                high, low = rest.split("\t")[0].split("/")
                if number + size > int(high, 16) * _LOG_BYTES + int(low, 16):
                    return True
    return False


def _meet(source: Path, target: Path) -> None:
    """A file of this name is there. Raises `Refused`."""
    if _same(source, target):
        return
    if _SEGMENT.fullmatch(source.name) and is_behind_a_fork(source.name, source.stat().st_size, target.parent):
        forked = target.parent / FORKED
        forked.mkdir(mode=0o700, exist_ok=True)
        copy(source, forked / f"{source.name}.{_digest(source)}")
        return
    raise Refused(f"{target} is there and is another file than {source}: it was not replaced")


def _same(one: Path, other: Path) -> bool:
    with one.open("rb") as first, other.open("rb") as second:
        while block := first.read(BLOCK):
            if second.read(BLOCK) != block:
                return False
        return not second.read(1)


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()[:16]


def main(source: str, directory: str) -> int:
    os.umask(0o077)
    try:
        store(Path(source), Path(directory))
    except (Refused, OSError) as error:
        print(f"archive_wal: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
