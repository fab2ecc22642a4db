"""Looks: several checks that may hang, run at once, and their results shared by all who ask.

A look takes `seconds` at most. A check that takes longer is late: the look ends without it, and the check is not begun
again until it has ended, so each check holds one thread at most. Asking often costs nothing: a look is shared until it
is `fresh_seconds` old. After that, an answer may be older by the time that the next look takes, so that nobody waits for
it.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor, wait
from threading import Lock
from typing import Any, Generic, TypeVar

T = TypeVar("T")


class Late(Exception):
    """A check has not ended in time."""


Result = Any  # what a check returned, or the exception that it raised, or `Late`


class Looks(Generic[T]):
    """The checks by name, and what `assemble` makes of their results and the time at which the look began (Unix time).
    Its threads start with the first look and end with `close`."""

    def __init__(
        self,
        checks: Mapping[str, Callable[[], Any]],
        assemble: Callable[[Mapping[str, Result], float], T],
        *,
        seconds: float,
        fresh_seconds: float,
    ) -> None:
        self._checks, self._assemble = checks, assemble
        self._seconds, self._fresh_seconds = seconds, fresh_seconds
        self._threads = ThreadPoolExecutor(len(checks) + 1, thread_name_prefix="look")
        self._running: dict[str, Future[Any]] = {}
        self._lock = Lock()
        self._last: Future[T] | None = None
        self._last_at = 0.0  # monotonic seconds
        self._next: Future[T] | None = None

    def look(self) -> Future[T]:
        """The last look if it is recent enough, otherwise one that has just begun. Never waits."""
        with self._lock:
            age = time.monotonic() - self._last_at
            if self._last is not None and age < self._fresh_seconds:
                return self._last
            if self._next is None:
                self._next = Future()
                self._threads.submit(self._run, self._next)
            if self._last is not None and age < self._fresh_seconds + self._seconds:
                return self._last
            return self._next

    def close(self) -> None:
        """Wait for the checks that run. Nothing can be asked any more."""
        self._threads.shutdown()

    def _run(self, answer: Future[T]) -> None:
        began = time.time()
        try:
            found = self._assemble(self._results(), began)
        except Exception as error:
            answer.set_exception(error)
        else:
            answer.set_result(found)
        with self._lock:
            self._last, self._last_at, self._next = answer, time.monotonic(), None

    def _results(self) -> dict[str, Result]:
        """Run the checks, except those that still run since an earlier look."""
        for name, check in self._checks.items():
            if name not in self._running or self._running[name].done():
                self._running[name] = self._threads.submit(check)
        wait(self._running.values(), self._seconds)
        return {name: _result(future) for name, future in self._running.items()}


def _result(future: Future[Any]) -> Result:
    if not future.done():
        return Late()
    error = future.exception()
    return future.result() if error is None else error
