"""`make test`: all tests, in several runs of pytest side by side, because they wait most of the time.

Each run has a cluster of its own if one of its tests uses it. Tests of clusters with another layout start those
themselves, and go with the unit tests, which need none. The report of the first run is printed as it comes, those of
the others when it has ended. With arguments this only runs pytest with them.
"""

from __future__ import annotations

import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from types import FrameType
from typing import IO

from tests.support.commands import ROOT

PYTEST = [sys.executable, "-m", "pytest"]
OTHER_CLUSTERS = "tests/faults/other_clusters"


def modules(folder: str) -> list[str]:
    """The test modules under a folder."""
    return sorted(str(path.relative_to(ROOT)) for path in (ROOT / folder).rglob("test_*.py"))


def runs() -> list[list[str]]:
    """Every test module, in runs that take about as long as each other."""
    faults = ("healing", "keys", "steering", "switchover", "write_quorum")
    third = [f"tests/cluster/test_{name}.py" for name in ("ingest", "reads_after", "reconciliation")]
    third += [*(f"tests/faults/test_{name}.py" for name in faults), broker := f"{OTHER_CLUSTERS}/test_broker.py"]
    moved = (broker, f"{OTHER_CLUSTERS}/test_upgrade.py")  # to the runs with less to do
    second = [path for path in (*modules("tests/unit"), *modules(OTHER_CLUSTERS)) if path not in moved]
    first = [path for path in (*modules("tests/tools"), *modules("tests/cluster")) if path not in third]
    return [first, second, third, [path for path in modules("tests/faults") if path not in (*second, *third)]]


def start(arguments: Sequence[str], output: IO[str] | None = None) -> subprocess.Popen[bytes]:
    """A run of pytest. A terminal's Ctrl-C reaches it by `interrupting` alone, so it comes once."""
    return subprocess.Popen(
        [*PYTEST, *arguments], cwd=ROOT, stdout=output, stderr=output and subprocess.STDOUT, start_new_session=True
    )


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
    with ExitStack() as stack:
        said = [stack.enter_context(tempfile.TemporaryFile("w+")) for _ in others]
        stack.enter_context(interrupting(running))
        running.append(start(first))
        for paths, output in zip(others, said, strict=True):
            running.append(start(paths, output))
        statuses = [running[0].wait()]
        for run, output in zip(running[1:], said, strict=True):
            statuses.append(run.wait())
            output.seek(0)
            sys.stdout.write(output.read())
            sys.stdout.flush()
    return next(filter(None, statuses), 0)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
