"""`make test`: all tests, in several runs of pytest side by side, because they wait most of the time.

Each run has a cluster of its own if one of its tests uses it. Tests of clusters with another layout start those
themselves, and go with the unit tests, which need none. The report of the first run is printed as it comes, those of
the others when it has ended. With arguments this only runs pytest with them.

What the runs have started is known by a variable in its environment. When all runs have ended, what is left is ended.
"""

from __future__ import annotations

import os
import shlex
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from types import FrameType
from typing import IO
from uuid import uuid4

import psutil

from cluster import plan, processes
from tests.support.commands import MANAGE, ROOT, clean

PYTEST = [sys.executable, "-m", "pytest"]
MARK = "TESTS_OF_RUN"  # the variable
OTHER_CLUSTERS = "tests/faults/other_clusters"


def modules(folder: str) -> list[str]:
    """The test modules under a folder."""
    return sorted(str(path.relative_to(ROOT)) for path in (ROOT / folder).rglob("test_*.py"))


def runs() -> list[list[str]]:
    """Every test module, in runs that take about as long as each other. More than four do not end earlier: they use both
    processors as it is."""
    faults = ("healing", "keys", "likes", "steering", "stops", "switchover", "timelines", "write_quorum")
    third = [f"tests/cluster/test_{name}.py" for name in ("ingest", "reads_after", "reconciliation")]
    third += [f"tests/faults/test_{name}.py" for name in faults]
    third += [f"{OTHER_CLUSTERS}/test_{name}.py" for name in ("broker", "full_disk")]
    second = [path for path in (*modules("tests/unit"), *modules(OTHER_CLUSTERS)) if path not in third]
    second += [f"tests/tools/test_{name}.py" for name in ("archive", "front", "journal_in_production")]
    whole = ("admin_operations", "admin_replicas", "apply", "contract", "likes_agreement")
    fourth = [f"tests/cluster/test_{name}.py" for name in whole]
    fourth += [path for path in modules("tests/faults") if path not in (*second, *third)]
    fourth.append("tests/cluster/test_lanes.py")
    others = (*second, *third, *fourth)
    first = [path for path in (*modules("tests/tools"), *modules("tests/cluster")) if path not in others]
    return [first, second, third, fourth]


def environment(mark: str) -> dict[str, str]:
    """Of the runs. Python keeps the compiled modules: hundreds of processes load them."""
    return {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"} | {MARK: mark}


def start(arguments: Sequence[str], env: dict[str, str], output: IO[str] | None = None) -> subprocess.Popen[bytes]:
    """A run of pytest. A terminal's Ctrl-C reaches it by `interrupting` alone, so it comes once."""
    command, errors = [*PYTEST, *arguments], output and subprocess.STDOUT
    return subprocess.Popen(command, cwd=ROOT, env=env, stdout=output, stderr=errors, start_new_session=True)


def end_leftovers(mark: str) -> None:
    """Stop clusters that the runs have left behind, kill all else, and name it. Not every server shows the variable,
    but the workers of each cluster do."""
    left = processes.with_variable(MARK, mark)
    clusters = set()
    for process in left:
        with suppress(psutil.Error):
            clusters |= {process.environ().get(plan.MARK)} - {None}
            print("left behind, and ended:", process.pid, shlex.join(process.cmdline()), flush=True)  # noqa: T201
    for directory in clusters:
        subprocess.run([*MANAGE, "cluster", "down", "--dir", str(directory)], cwd=ROOT, env=clean(), check=False)
    processes.send(left := processes.with_variable(MARK, mark), signal.SIGKILL)
    processes.wait(left, 5)


@contextmanager
def interrupting(running: list[subprocess.Popen[bytes]]) -> Iterator[None]:
    """Signals that end this program interrupt the runs, which then put their clusters away."""

    def interrupt(_number: int, _frame: FrameType | None) -> None:
        for run in running:
            run.send_signal(signal.SIGINT)

    before = {number: signal.signal(number, interrupt) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def main(arguments: list[str]) -> int:
    """The exit status: that of the first run that failed."""
    first, *others = [arguments] if arguments else runs()
    running: list[subprocess.Popen[bytes]] = []
    env = environment(mark := uuid4().hex)
    with ExitStack() as stack:
        stack.callback(end_leftovers, mark)
        said = [stack.enter_context(tempfile.TemporaryFile("w+")) for _ in others]
        stack.enter_context(interrupting(running))
        running.append(start(first, env))
        for paths, output in zip(others, said, strict=True):
            running.append(start(paths, env, output))
        statuses = [running[0].wait()]
        for run, output in zip(running[1:], said, strict=True):
            statuses.append(run.wait())
            output.seek(0)
            sys.stdout.write(output.read())
            sys.stdout.flush()
    return next(filter(None, statuses), 0)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
