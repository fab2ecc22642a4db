"""How the supervisor sees which postmaster runs in a data directory, without asking Patroni."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import psutil
import pytest

from cluster import postgres

Start = Callable[[], "subprocess.Popen[bytes]"]


@pytest.fixture
def start() -> Iterator[Start]:
    """Start a program, which ends with the test."""
    with ExitStack() as stack:

        def begin() -> subprocess.Popen[bytes]:
            program = stack.enter_context(subprocess.Popen(["sleep", "60"]))
            stack.callback(program.kill)
            return program

        yield begin


def write(node: postgres.Node, pid: int, *, born: float | None = None) -> None:
    """As PostgreSQL does."""
    since = psutil.Process(pid).create_time() if born is None else born
    (node.data / "postmaster.pid").unlink(missing_ok=True)
    (node.data / "postmaster.pid").write_text(f"{pid}\n{node.data}\n{since:.0f}\n")


def test_the_postmaster_is_the_one_that_runs(tmp_path: Path, start: Start) -> None:
    """At each look: another one that took its place, none when it is gone, and no stranger with the pid of an old file."""
    node = postgres.Node(0, 1, tmp_path, port=1, patroni_port=1, patroni_password="")  # nobody listens there
    node.data.mkdir()

    def seen() -> int | None:
        node.look()
        return node.pid

    assert seen() is None
    first, second = start(), start()
    write(node, first.pid)
    assert seen() == first.pid == seen()
    write(node, second.pid)
    assert seen() == second.pid
    second.kill()
    os.waitid(os.P_PID, second.pid, os.WEXITED | os.WNOWAIT)
    assert seen() is None, "a zombie is none"
    write(node, first.pid, born=1.0)
    assert seen() is None
    write(node, first.pid)
    assert seen() == first.pid
    (node.data / "postmaster.pid").unlink()
    assert seen() is None
