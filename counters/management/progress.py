"""An import's progress: a bar on a terminal (bytes, increments/s, time left), else a line every few seconds."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Protocol

from rich import progress as bars
from rich.console import Console

LINE_SECONDS = 5.0


class Progress(Protocol):
    """Updated after each chunk with the totals of bytes and increments done."""

    def update(self, done: int, increments: int) -> None: ...


class _Bar:
    def __init__(self, bar: bars.Progress, size: int | None) -> None:
        self._bar, self._started = bar, time.monotonic()
        self._task = bar.add_task("ingest", total=size, rate="")

    def update(self, done: int, increments: int) -> None:
        rate = increments / max(time.monotonic() - self._started, 1e-3)
        self._bar.update(self._task, completed=done, rate=f"{rate:,.0f} increments/s")


class _Lines:
    def __init__(self, size: int | None, out: Any) -> None:
        self._size, self._out = size, out
        self._started = self._last = time.monotonic()

    def update(self, done: int, increments: int) -> None:
        now = time.monotonic()
        if now - self._last < LINE_SECONDS:
            return
        self._last = now
        rate = increments / (now - self._started)
        share = f"{done / self._size:.0%}, " if self._size else ""
        left = f", {(self._size - done) * (now - self._started) / done:.0f} s left" if self._size else ""
        self._out.write(f"{share}{done:,} bytes, {increments:,} increments, {rate:,.0f} increments/s{left}")


@contextmanager
def progress(size: int | None, out: Any) -> Iterator[Progress]:
    """Show the progress of a file of `size` bytes (None: unknown): a bar on a terminal, else lines on the stream
    `out`."""
    console = Console(stderr=True)
    if not console.is_terminal:
        yield _Lines(size, out)
        return
    columns = (
        bars.BarColumn(),
        bars.DownloadColumn(),
        bars.TextColumn("{task.fields[rate]}"),
        bars.TimeRemainingColumn(),
    )
    with bars.Progress(*columns, console=console) as bar:
        yield _Bar(bar, size)
