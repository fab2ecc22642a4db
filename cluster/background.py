"""`up --detach`: the same supervisor as a daemon of its own session, watched from here until it is ready."""

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
    log = directory.log("supervisor")
    prepare.rotate(log)
    began = log.stat().st_size if log.exists() else 0
    command = [sys.executable, str(PROJECT / "manage.py"), "cluster", "up", "--dir", str(directory.root), *options]
    with log.open("ab") as output:
        daemon = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=output, stderr=output, start_new_session=True, cwd=PROJECT
        )
    try:
        _wait(directory, daemon, log, began)
    except KeyboardInterrupt:
        daemon.terminate()
        daemon.wait()
        raise
    now = state.read(directory)
    Console().ready(now.url or "", now.processes, now.primary_names)
    return 0


def _wait(directory: Directory, daemon: subprocess.Popen[bytes], log: Path, began: int) -> None:
    """Until the daemon is ready, following its log, for that is its progress."""
    shown, screen, starting = began, Console(), True
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
        if now.phase == "ready" and now.supervisor.get("pid") == daemon.pid:
            return
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
