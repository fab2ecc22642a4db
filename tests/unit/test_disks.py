"""When a disk has too little room, and what readings say."""

from __future__ import annotations

from pathlib import Path

import pytest

from runtime import disks
from runtime.disks import Room

GIB = 1024**3


def test_a_disk_that_was_short_needs_some_more_to_have_room_again() -> None:
    """Free bytes that go up and down around the reserve change nothing."""
    short, told = False, []
    for free in (1001, 1000, 999, 1001, 1249, 1250, 1001, 999):
        short = disks.is_short(free, 1000, was_short=short)
        told.append(short)
    assert told == [False, False, True, True, True, False, False, True]
    assert not disks.is_short(0, 0, was_short=True), "without a reserve there is always room"


def test_the_fullest_disk_counts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    free = disks.measure([tmp_path], 0, was_short=False)
    assert 0 < free.free <= free.total
    assert disks.measure([tmp_path], 2**62, was_short=False).short

    class Small:
        f_bavail, f_blocks, f_frsize = 2, 8, GIB

    class Large(Small):
        f_bavail, f_blocks = 7, 800

    found = {Path("data"): Large, Path("wal"): Small}
    monkeypatch.setattr("os.statvfs", found.__getitem__)
    assert disks.measure(found, 3 * GIB, was_short=False) == Room(2 * GIB, 8 * GIB, True)


def test_an_old_reading_says_nothing() -> None:
    found = {b"a:1": b"100 5 9 1", b"a:2": b"94 5 9 1", b"journal": b"103 7 9 0"}
    assert disks.rooms((100, 0), found) == {"a:1": Room(5, 9, True), "journal": Room(7, 9, False)}
