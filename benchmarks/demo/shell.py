"""One bash that runs blocks of commands: what a block sets is there for the next."""

from __future__ import annotations

import os
import select
import shlex
import signal
import subprocess
import tempfile
import time
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import NamedTuple

STOP_SECONDS = 20  # for a start of the cluster that is interrupted
GONE = (ProcessLookupError, PermissionError)  # macOS says the second of a group that has only ended processes


class Ran(NamedTuple):
    """What commands have printed, and the exit status of the last of them. None: they did not end in time, or ended the
    shell."""

    output: str
    status: int | None


class Shell:
    """It has a process group of its own. When it is closed, nothing of that is left."""

    def __init__(self, home: Path, environment: Mapping[str, str]) -> None:
        self._files = tempfile.TemporaryDirectory()
        self._commands, self._output = (Path(self._files.name) / name for name in ("commands", "output"))
        self._bash = subprocess.Popen(
            ["bash", "--noprofile", "--norc"],  # noqa: S607
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            cwd=home,
            env=environment,
            start_new_session=True,
        )

    def run(self, commands: str, seconds: float) -> Ran:
        """Run commands, for at most so many seconds; after a `None` status the shell is of no use any more."""
        assert self._bash.stdin
        assert self._bash.stdout
        self._commands.write_text(commands, encoding="utf-8")
        self._output.touch()
        source, output = (shlex.quote(str(path)) for path in (self._commands, self._output))
        line = f"source {source} </dev/null >{output} 2>&1; echo $?\n"
        os.write(self._bash.stdin.fileno(), line.encode())
        ready, _, _ = select.select([self._bash.stdout], [], [], seconds)
        status = os.read(self._bash.stdout.fileno(), 99) if ready else b""
        return Ran(self._output.read_text(encoding="utf-8", errors="replace"), int(status) if status else None)

    def close(self) -> None:
        """Interrupt what still runs, and end it if that is not enough."""
        self._send(signal.SIGINT)
        until = time.monotonic() + STOP_SECONDS
        assert self._bash.stdin
        self._bash.stdin.close()
        while self._is_there() and time.monotonic() < until:
            self._bash.poll()
            time.sleep(0.05)
        self._send(signal.SIGKILL)
        self._bash.wait()
        self._files.cleanup()

    def __enter__(self) -> Shell:
        return self

    def __exit__(self, _: type[BaseException] | None, __: BaseException | None, ___: TracebackType | None) -> None:
        self.close()

    def _send(self, number: int) -> None:
        with suppress(*GONE):
            os.killpg(self._bash.pid, number)

    def _is_there(self) -> bool:
        """Whether a process of the group runs."""
        try:
            os.killpg(self._bash.pid, 0)
        except GONE:
            return False
        return True
