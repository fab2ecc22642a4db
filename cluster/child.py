"""One supervised process: started, watched, started again with back-off, stopped. What it is comes from its `Spec`."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Protocol

import psutil

from . import ClusterError
from .plan import Spec
from .processes import create_time, is_gone, kill_group, known

PROBE_SECONDS = 0.1  # between two questions whether a process is ready
HEALTHY_SECONDS = 10.0  # of running, after which its next death is a first one
ADOPTED_SECONDS = 0.2  # between two looks whether a process of another supervisor still runs
HOPELESS_STARTS = 4  # deaths before it was ever ready, at which the start of the cluster is given up
SIGNS = ("FATAL", "PANIC", "rror", "emerg", "CRITICAL")  # of a line that tells of a failure
CONSEQUENCES = ("database system is starting up", "terminating connection", "database system is shutting down")


class Backoff:
    """Seconds to wait before a restart: none, 0.5, 1, 2, 4, 8, then 10 for ever."""

    FIRST, MOST = 0.5, 10.0

    def __init__(self) -> None:
        self.failures = 0

    def next(self, healthy_seconds: float) -> float:
        """The wait before the next start, after a life of which so much was healthy."""
        if healthy_seconds >= HEALTHY_SECONDS:
            self.failures = 0
        self.failures += 1
        return 0.0 if self.failures == 1 else min(self.MOST, self.FIRST * 2 ** (self.failures - 2))


class Process(Protocol):
    """What a life is about: a process of our own, or an adopted one."""

    @property
    def pid(self) -> int: ...

    async def wait(self) -> int | None: ...


class Adopted:
    """A process that another supervisor has started. Only its parent learns its exit code."""

    def __init__(self, process: psutil.Process) -> None:
        self.pid = process.pid
        self._process = process

    async def wait(self) -> None:
        while not is_gone(self._process):
            await asyncio.sleep(ADOPTED_SECONDS)


class Child:
    """A process that is kept running from `start()`, or `adopt()`, to `stop()`; `changed` is called at every change of its
    row.

    `release` is that of the process that runs; `spec.release` is that of the next one.
    """

    def __init__(self, spec: Spec, log: Path, changed: Callable[[], None], say: Callable[[str], None]) -> None:
        self.spec = spec
        self.log = log
        self.release = ""
        self.state = "stopped"
        self.pid: int | None = None
        self.create_time: float | None = None
        self.restarts = 0
        self._said_before = size(log)
        self.ready = asyncio.Event()
        self._changed = changed
        self._say = say
        self._ending = asyncio.Event()
        self._gone = asyncio.Event()
        self._life: asyncio.Task[None] | None = None
        self._adopted: Adopted | None = None

    def adopt(self, row: Mapping[str, Any]) -> bool:
        """Keep the process of this row (of state.json) running, if it still runs. Returns whether it does."""
        process = known(row)
        if process is None:
            return False
        self._adopted = Adopted(process)
        self.release, self.restarts = row.get("release", ""), row["restarts"]
        self._life = asyncio.create_task(self._live(), name=self.spec.name)
        return True

    async def restart(self) -> None:
        """Stop it and start it. Raises `ClusterError` as `start()` does; it is then tried again and again."""
        await self.stop()
        self._ending.clear()
        await self.start()

    def renewed(self) -> None:
        """Its process has taken up what the next one would be started with."""
        self.release = self.spec.release
        self._changed()

    async def start(self) -> None:
        """Start it and return when it is ready. Raises `ClusterError` if it dies again and again, or is too slow."""
        self.ready.clear()
        self._said_before = size(self.log)
        self._life = asyncio.create_task(self._live(), name=self.spec.name)
        deadline, deaths = time.monotonic() + self.spec.start_seconds, self.restarts
        while not self.ready.is_set():
            if self.restarts - deaths >= HOPELESS_STARTS:
                raise ClusterError(f"{self.spec.name} ends as soon as it starts; {said(self.log, self._said_before)}")
            if time.monotonic() > deadline:
                raise ClusterError(
                    f"{self.spec.name} is not ready after {self.spec.start_seconds:.0f} s; {said(self.log, self._said_before)}"
                )
            if self._life.done():
                self._life.result()
                return
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self.ready.wait(), PROBE_SECONDS)

    async def stop(self) -> None:
        """End it: its stop signal, its time to stop, then SIGKILL for it and all of its group."""
        self._ending.set()
        if self._life is None:
            return
        self.signal(self.spec.stop_signal)
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(asyncio.shield(self._life), self.spec.stop_seconds)
        self.kill()
        await self._life

    def signal(self, number: signal.Signals) -> None:
        if self.pid is not None:
            with contextlib.suppress(ProcessLookupError):
                os.kill(self.pid, number)

    def kill(self) -> None:
        """SIGKILL at once, for the whole group. PostgreSQL is in no Patroni's group: its postmaster makes its own."""
        self._ending.set()
        if self.pid is not None:
            kill_group(self.pid)

    async def _live(self) -> None:
        backoff = Backoff()
        code: int | None
        while not self._ending.is_set():
            try:
                code, healthy = await self._one_life()
            except OSError as error:
                self._note(f"error: cannot start {self.spec.argv[0]}: {error}")
                code, healthy = 127, 0.0
            if self._ending.is_set():
                break
            wait = backoff.next(healthy)
            self.restarts += 1
            self._set("backoff", None)
            self._say(f"{self.spec.name} ended ({_how(code)}); starting again{f' in {wait:g} s' if wait else ''}")
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._ending.wait(), wait or 0.01)
        self._set("stopped", None)

    async def _one_life(self) -> tuple[int | None, float]:
        """From start to end: exit code, if it is known, and seconds from ready to the end."""
        process, self._adopted = self._adopted or await self._spawn(), None
        self._set("starting", process.pid)
        if self._ending.is_set():
            self.signal(self.spec.stop_signal)
        watch = asyncio.create_task(self._watch())
        code = await process.wait()
        watch.cancel()
        kill_group(process.pid)
        ready_since = (await asyncio.gather(watch, return_exceptions=True))[0]
        return code, time.monotonic() - ready_since if isinstance(ready_since, float) else 0.0

    async def _spawn(self) -> Process:
        self.release = self.spec.release
        with self.log.open("ab") as output:
            return await asyncio.create_subprocess_exec(
                *self.spec.argv,
                stdin=asyncio.subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                env=dict(self.spec.environment),
                cwd=self.spec.cwd,
                start_new_session=True,
                umask=0o077,  # Redis and Sentinel write their configuration files, with passwords, anew
            )

    async def _watch(self) -> float:
        """Wait until it is ready; the monotonic time of that."""
        while not await self.spec.ready.check():
            await asyncio.sleep(PROBE_SECONDS)
        self._set("running", self.pid)
        self.ready.set()
        return time.monotonic()

    def _note(self, line: str) -> None:
        with self.log.open("a") as output:
            output.write(line + "\n")

    def _set(self, state: str, pid: int | None) -> None:
        if pid != self.pid:
            self.create_time = create_time(pid)
        self.state, self.pid = state, pid
        self._changed()


def size(log: Path) -> int:
    """Bytes of a log; 0 where there is none yet."""
    return log.stat().st_size if log.exists() else 0


def last_line(log: Path, since: int = 0) -> str:
    """The line of a log that says most about a failure: its last error after `since` (bytes), else its last line."""
    try:
        with log.open("rb") as file:
            size = log.stat().st_size
            file.seek(max(since if since <= size else 0, size - 16384))  # it may have been put aside since
            lines = [line.strip() for line in file.read().decode(errors="replace").splitlines() if line.strip()]
    except OSError:
        return ""
    lines = [line for line in lines if not any(words in line for words in CONSEQUENCES)] or lines
    telling = [line for line in lines if any(word in line for word in SIGNS)]
    return (telling or lines or [""])[-1][:300]


def said(log: Path, since: int = 0) -> str:
    """Where a program's log is and what stands there after `since` (bytes), as the end of a sentence."""
    line = last_line(log, since)
    return f"see {log}" + (f": {line}" if line else "")


def _how(code: int | None) -> str:
    if code is None:
        return "exit code unknown"
    return f"exit {code}" if code >= 0 else signal.Signals(-code).name
