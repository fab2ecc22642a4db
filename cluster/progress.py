"""Progress of a long command: bars on a terminal, elsewhere a line for each thing that is done."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import TracebackType

from rich import progress as bars
from rich.console import Console

Tell = Callable[[int, int], None]  # gets how much is done, and of how much; any unit


class Progress:
    """Shown while the block runs."""

    def __init__(self) -> None:
        console = Console(highlight=False, soft_wrap=True)
        columns = (
            bars.TextColumn("{task.description}"),
            bars.BarColumn(),
            bars.TaskProgressColumn(),
            bars.TimeElapsedColumn(),
        )
        self._console = console
        self._bars = bars.Progress(*columns, console=console, disable=not console.is_terminal)

    def __enter__(self) -> Progress:
        self._bars.start()
        return self

    def __exit__(self, _: type[BaseException] | None, __: BaseException | None, ___: TracebackType | None) -> None:
        self._bars.stop()

    @contextmanager
    def task(self, name: str) -> Iterator[Tell]:
        """One thing to do."""
        began, task = time.monotonic(), self._bars.add_task(name, total=None)
        yield lambda done, of: self._bars.update(task, completed=done, total=max(done, of))
        self._bars.update(task, completed=1, total=1)
        if not self._console.is_terminal:
            self.say(f"{time.monotonic() - began:6.1f} s  {name}")

    def say(self, text: str) -> None:
        """A line."""
        self._console.print(text, markup=False)
        sys.stdout.flush()
