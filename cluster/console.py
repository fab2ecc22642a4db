"""What people see: progress while starting, the `ready:` line, the table. Plain where stdout is no terminal."""

from __future__ import annotations

import sys
import time
from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any, Literal

from rich.console import Console as RichConsole
from rich.progress import BarColumn, MofNCompleteColumn, Progress, SpinnerColumn, TaskID, TextColumn
from rich.table import Table

from .state import is_streaming

PLAIN_WIDTH = 140  # columns of a table that goes to a file or a pipe
SHOWN = 4  # names of what is still waited for
COLOURS = {
    "running": "green",
    "streaming": "green",
    "not streaming": "red",
    "starting": "yellow",
    "backoff": "red",
    "stopped": "dim",
}


class Console:
    """Writes to stdout, as rich as that allows."""

    def __init__(self) -> None:
        terminal = sys.stdout.isatty()
        self.rich = RichConsole(highlight=False, width=None if terminal else PLAIN_WIDTH, soft_wrap=not terminal)
        self._bar: Progress | None = None
        self._task: TaskID | None = None
        self._began = time.monotonic()

    def begin(self, total: int, doing: str = "starting") -> None:
        """Something with so many processes and steps begins."""
        self._began = time.monotonic()
        if self.rich.is_terminal:
            columns = (
                SpinnerColumn(),
                TextColumn(doing),
                BarColumn(),
                MofNCompleteColumn(),
                TextColumn("{task.description}"),
            )
            self._bar = Progress(*columns, console=self.rich, transient=True)
            self._task = self._bar.add_task("", total=total)
            self._bar.start()

    def follow(self, total: int, left: Sequence[str]) -> None:
        """Of what another process does, these are left."""
        if self.rich.is_terminal and self._bar is None:
            self.begin(total, "upgrading")
        if self._bar is not None and self._task is not None:
            self._bar.update(self._task, completed=total - len(left), description=_some(left))

    def progress(self, name: str, seconds: float, waiting: list[str]) -> None:
        """`name` is ready, `seconds` after it began; `waiting` are not yet."""
        if self._bar is not None and self._task is not None:
            self._bar.update(self._task, advance=1, description=_some(waiting))
        else:
            self._line(f"{time.monotonic() - self._began:5.1f} s  {name} ({seconds:.1f} s)")

    def end(self) -> None:
        if self._bar is not None:
            self._bar.stop()
            self._bar = None

    def ready(self, url: str, rows: Iterable[Mapping[str, Any]], primaries: Collection[str]) -> None:
        self._line(f"ready: {url}")
        self.table(rows, primaries)

    def table(
        self,
        rows: Iterable[Mapping[str, Any]],
        primaries: Collection[str] = (),
        lanes: Mapping[str, Sequence[int]] | None = None,
    ) -> None:
        """What runs where, as `table`."""
        self._print(table(rows, primaries, lanes))

    def event(self, text: str) -> None:
        """One thing that happened, with the time of day."""
        self._line(f"{time.strftime('%H:%M:%S')} {text}")

    def say(self, text: str) -> None:
        self._line(text)

    def _line(self, text: str) -> None:
        self._print(text)

    def _print(self, what: object) -> None:
        """A terminal that is gone must not end the cluster."""
        try:
            if isinstance(what, str):
                self.rich.print(what, markup=False, soft_wrap=True)
            else:
                self.rich.print(what)
            sys.stdout.flush()
        except OSError:
            self.rich.quiet = True


def _some(names: Sequence[str]) -> str:
    return ", ".join(names[:SHOWN]) + (", …" if len(names) > SHOWN else "")


def table(
    rows: Iterable[Mapping[str, Any]],
    primaries: Collection[str] = (),
    lanes: Mapping[str, Sequence[int]] | None = None,
) -> Table:
    """What runs where. `primaries`: names of the PostgreSQL servers that take writes; `lanes`: what each worker
    applies, by name."""
    found = Table(box=None, pad_edge=False, header_style="bold")
    for heading in ("name", "role", "shard", "pid", "port", "metrics", "state", "restarts"):
        justify: Literal["left", "right"] = "left" if heading in ("name", "role", "state") else "right"
        found.add_column(heading, justify=justify, no_wrap=True)
    if lanes is not None:
        found.add_column("lanes")
    for row in rows:
        role, said = row["role"], row["state"]
        if role == "postgres":
            role = "postgres primary" if row["name"] in primaries else "postgres replica"
            if row["name"] not in primaries and said == "running":
                said = "streaming" if is_streaming(row) else "not streaming"
        figures = ["" if row[key] is None else str(row[key]) for key in ("shard", "pid", "port", "metrics_port")]
        colour = COLOURS.get(said, "")
        applied = [] if lanes is None else [", ".join(map(str, lanes.get(row["name"], ())))]
        found.add_row(row["name"], role, *figures, f"[{colour}]{said}[/]", str(row["restarts"]), *applied)
    return found
