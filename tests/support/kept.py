"""A cluster that is kept from run to run: `python -m tests.support.kept DIR` returns when it is up and runs the code as
it is now.

Processes that run older code are told to end, and their supervisor starts them again. Where the cluster's own code or a
table has changed, all of the cluster starts again; where that fails, with a new one.
"""

from __future__ import annotations

import hashlib
import json
import signal
import subprocess
import sys
import time
from collections.abc import Iterable
from pathlib import Path

import httpx

from cluster import layout, processes, release, state
from cluster.layout import Directory
from tests.support.commands import MANAGE, ROOT, clean

READY_SECONDS = 60


def digest(paths: Iterable[Path]) -> str:
    """Of what files contain, and of their names."""
    found = hashlib.sha256()
    for path in sorted(path for path in paths if path.is_file() and path.suffix != ".pyc"):
        found.update(f"{path.relative_to(ROOT)}\0".encode() + path.read_bytes())
    return found.hexdigest()


def code() -> dict[str, str]:
    """Digests of what the processes of the product run, and of what the cluster itself is made by."""
    product = [path for room in release.PRODUCT for path in (ROOT / room).rglob("*")]
    whole = [*(ROOT / "cluster").rglob("*"), ROOT / "requirements" / "all.txt", *ROOT.glob("*/migrations/*.py")]
    return {"product": digest(product), "whole": digest(whole)}


def manage(directory: Directory, command: str, *options: str) -> int:
    """The exit status of `manage.py cluster COMMAND`."""
    line = [*MANAGE, "cluster", command, "--dir", str(directory.root), *options]
    return subprocess.run(line, cwd=ROOT, env=clean(), check=False, stdout=subprocess.DEVNULL).returncode


def is_up(directory: Directory) -> bool:
    """Whether a supervisor runs there that has finished its start."""
    now = state.current(directory)
    return now.phase == "ready" and state.supervisor(now) is not None


def start(directory: Directory) -> None:
    """Start it, with its data or, where that fails, without them. Ends the program where neither works."""
    if manage(directory, "up", "--port", "0", "--detach"):
        manage(directory, "destroy", "--yes")
        if manage(directory, "up", "--port", "0", "--detach"):
            sys.exit(f"the cluster in {directory.root} does not start: see its logs")


def renew(directory: Directory) -> None:
    """End the processes that run the product's code; return when all of them run again and the cluster is well."""
    old = [row for row in state.current(directory).processes if row["role"] in release.ROLES]
    leaving = [process for row in old if (process := processes.known(row))]
    processes.send(leaving, signal.SIGTERM)
    processes.wait(leaving, READY_SECONDS)
    until = time.monotonic() + READY_SECONDS
    while not is_well(directory):
        if time.monotonic() > until:
            sys.exit(f"the cluster in {directory.root} is not well with the new code: `cluster status`, and its logs")
        time.sleep(0.1)


def is_well(directory: Directory) -> bool:
    """Whether every process runs and every component is up."""
    now = state.current(directory)
    if not all(row["state"] == "running" and processes.known(row) for row in now.processes):
        return False
    try:
        return bool(httpx.get(f"{now.url}/health", timeout=10).json()["status"] == "ok")
    except (httpx.HTTPError, ValueError):
        return False


def keep(directory: Directory) -> None:
    """Make it run, with the code as it is now."""
    mark = directory["code.json"]
    had = json.loads(mark.read_text()) if mark.exists() else {}
    now = code()
    if is_up(directory) and had != now:
        mark.unlink(missing_ok=True)
        if had.get("whole") == now["whole"]:
            renew(directory)
        else:
            manage(directory, "down")
    if not is_up(directory):
        start(directory)
    layout.write_private(mark, json.dumps(now))


if __name__ == "__main__":
    keep(Directory(Path(sys.argv[1]).resolve()))
