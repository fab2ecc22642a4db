"""`up --detach` and `upgrade`: a supervisor as a daemon of its own session, watched from here until it is ready."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from . import ClusterError, prepare, state
from .console import Console
from .layout import PROJECT, Directory

RESCALE_SIGNAL = signal.SIGUSR1  # SIGHUP is what a closed terminal sends: it stops the cluster


def up(directory: Directory, options: Sequence[str]) -> int:
    """Start `cluster up OPTIONS` in the background; 0 when it is ready. Raises `ClusterError` if it ends before."""
    prepare.lock(directory).close()
    daemon, began = _spawn(directory, ["up", *options])
    try:
        _wait(directory, daemon, began)
    except KeyboardInterrupt:
        daemon.terminate()
        daemon.wait()
        raise
    return 0


def upgrade(directory: Directory, options: Sequence[str]) -> int:
    """Run `cluster upgrade --stay OPTIONS` in the background; 0 when it has replaced everything. Raises `ClusterError` if
    it has not: then the cluster runs on, as it does if this is interrupted."""
    _wait(directory, *_spawn(directory, ["upgrade", "--stay", *options]))
    return 0


def _spawn(directory: Directory, words: Sequence[str]) -> tuple[subprocess.Popen[bytes], int]:
    """A supervisor, and where its part of the log begins."""
    log = directory.log("supervisor")
    prepare.rotate(log)
    began = log.stat().st_size if log.exists() else 0
    command = [sys.executable, str(PROJECT / "manage.py"), "cluster", *words, "--dir", str(directory.root)]
    with log.open("ab") as output:
        daemon = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=output, stderr=output, start_new_session=True, cwd=PROJECT
        )
    return daemon, began


def _wait(directory: Directory, daemon: subprocess.Popen[bytes], began: int) -> None:
    """Until the daemon is ready, following its log, for that is its progress. Raises `ClusterError` if it ended, or said
    what went wrong."""
    screen = Console()
    try:
        now = _follow(directory, daemon, began, screen)
    finally:
        screen.end()
    if now.error:
        raise ClusterError(now.error)
    screen.ready(now.url or "", now.processes, now.primary_names)


def _follow(directory: Directory, daemon: subprocess.Popen[bytes], began: int, screen: Console) -> state.State:
    log = directory.log("supervisor")
    shown, starting = began, True
    while True:
        ended = daemon.poll() is not None
        text, shown = _since(log, shown)
        for line in text.splitlines():
            if line.startswith("cluster: "):
                daemon.wait()
                raise ClusterError(line.removeprefix("cluster: "))
            starting = starting and not line.startswith("ready: ")
            if starting:
                screen.say(line)
        now = state.read(directory)
        if now.supervisor.get("pid") == daemon.pid:
            if now.phase == "ready":
                return now
            if "left" in now.supervisor:
                screen.follow(now.supervisor["total"], now.supervisor["left"])
        if ended:
            raise ClusterError(f"the cluster ended before it was ready: see {log}")
        time.sleep(0.1)


def _since(log: Path, offset: int) -> tuple[str, int]:
    """The whole lines of the log from `offset` (bytes) on, and where they end."""
    size = log.stat().st_size
    with log.open("rb") as file:
        file.seek(offset if offset <= size else 0)
        text = file.read()
    whole = text[: text.rfind(b"\n") + 1]
    return whole.decode(errors="replace"), (offset if offset <= size else 0) + len(whole)
