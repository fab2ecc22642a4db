"""Clock steps: the wall clock of a process goes forwards or backwards while it runs, and some seconds later it is right
again.

`clock.c` stands before libc's clocks. The monotonic clock stays as it is, as with a real step. libfaketime would do the
same, but lets Python's `time.sleep` fail if it is to leave the monotonic clock alone. etcd asks the kernel itself.
"""

from __future__ import annotations

import contextlib
import shutil
import struct
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path

from benchmarks.chaos.fault import Fault, NotPossible, Scene
from benchmarks.chaos.kills import some

SOURCE = Path(__file__).with_name("clock.c")
STEPS = (3600, -3600, 5, -5)  # seconds
STEPPED_SECONDS = 8.0


def lacking() -> str:
    """Return "", or why no clock can be stepped here."""
    if sys.platform != "linux":
        return "only Linux loads clock.c before libc"
    return "" if shutil.which("cc") else "there is no C compiler (cc)"


def provide(root: Path) -> dict[str, str]:
    """What the processes of a cluster in this directory need in their environment."""
    clocks = root / "clocks"
    clocks.mkdir(mode=0o700, exist_ok=True)
    library = clocks / "clock.so"
    subprocess.run(["cc", "-O2", "-shared", "-fPIC", "-o", library, SOURCE, "-ldl"], check=True)  # noqa: S603, S607
    return {"LD_PRELOAD": str(library), "CHAOS_CLOCKS": str(clocks)}


@contextlib.contextmanager
def stepped(clocks: Path, pids: Sequence[int], seconds: int) -> Iterator[None]:
    """The clocks of these processes are so many seconds ahead (or behind) while the block runs."""
    files = [path for pid in pids if (path := clocks / str(pid)).exists()]
    if not files:
        raise NotPossible("its clock cannot be stepped")
    try:
        for file in files:
            _set(file, seconds)
        yield
    finally:
        for file in files:
            _set(file, 0)


def _set(file: Path, seconds: int) -> None:
    with file.open("r+b") as opened:
        opened.write(struct.pack("q", seconds))


def step(roles: Sequence[str], scene: Scene) -> str:
    """The clock of one process of a role; of a node's PostgreSQL and Patroni together."""
    row = some(scene, roles[0])
    names = [str(row["name"]).replace(roles[0], role) for role in roles]
    pids = [int(one["pid"]) for one in scene.subject.status().processes if one["name"] in names and one["pid"]]
    seconds = scene.rng.choice(STEPS)
    with stepped(scene.subject.directory["clocks"], pids, seconds):
        time.sleep(STEPPED_SECONDS)
    return f"{' and '.join(names)}, {seconds:+} s"


def all_clock_steps() -> list[Fault]:
    """An API process, a worker, a node, the journal, the cache."""
    return [
        Fault("clock step, api", partial(step, ["api"])),
        Fault("clock step, worker", partial(step, ["worker"])),
        Fault("clock step, node", partial(step, ["postgres", "patroni"]), weight=2),
        Fault("clock step, journal", partial(step, ["redis-journal"]), weight=2),
        Fault("clock step, cache", partial(step, ["redis-cache"])),
    ]
