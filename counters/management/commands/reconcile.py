"""`manage.py reconcile`: compare each replica, and the cache, with the primaries now."""

from __future__ import annotations

from typing import Any, ClassVar

from django.core.management.base import CommandParser
from rich import progress as bars
from rich.console import Console, Group
from rich.table import Table
from rich.text import Text

from counters.api.digests import shown
from counters.reconciliation import rounds
from counters.reconciliation.rounds import Report, Untold
from replication.digests import Busy
from replication.tables import COUNTER
from runtime import commands, polling
from runtime.commands import ShowCommand
from runtime.showing import UNSEEN, WELL, WRONG, Unseen

BUSY_SECONDS = 120.0
MOST_LINES = 20
EXIT_STATUS = {True: WELL, False: WRONG, None: UNSEEN}


class Command(ShowCommand[list[Report]]):
    help = (
        "Compare each replica, and the cache, with the primaries. Exit status 1: something differs. 2: nothing differs, but "
        "not all could be compared."
    )
    silences_log: ClassVar[bool] = False  # a round logs what it finds, wherever it runs

    def add_arguments(self, parser: CommandParser) -> None:
        super().add_arguments(parser)
        commands.add_shards(parser)

    def change(self) -> None:
        commands.shards(self.options["shards"])

    def look(self) -> list[Report]:
        shards = commands.shards(self.options["shards"])
        with _Bars(are_shown=self.options["watch"] is None) as tell:
            for _ in polling.attempts(BUSY_SECONDS, pause=0.5):
                try:
                    return rounds.run(shards, tell)
                except Busy as error:
                    busy = error
        raise Unseen(f"{busy}; try again later") from busy

    def document(self, found: list[Report]) -> list[dict[str, Any]]:
        return [shown(report) for report in found]

    def exit_status(self, found: list[Report]) -> int:
        equal = {report.equal for report in found}
        return EXIT_STATUS[False if False in equal else None if None in equal else True]

    def page(self, found: list[Report]) -> Group:
        lines = [Text(line) for report in found for line in _lines(report)]
        return Group(_replicas(found), _cache(found), _checks(found), *lines)


class _Bars(Untold):
    """Progress bars on a terminal; nothing elsewhere."""

    def __init__(self, *, are_shown: bool) -> None:
        console = Console(stderr=True)
        columns = (
            bars.TextColumn("{task.description}"),
            bars.BarColumn(),
            bars.MofNCompleteColumn(),
            bars.TimeElapsedColumn(),
        )
        self._progress = bars.Progress(
            *columns, console=console, disable=not (are_shown and console.is_terminal), transient=True
        )
        self._nodes: dict[tuple[int, str], bars.TaskID] = {}
        self._cache: bars.TaskID | None = None

    def __enter__(self) -> _Bars:
        self._progress.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._progress.stop()

    def comparing(self, shard: int, node: str, done: int, of: int) -> None:
        if (shard, node) not in self._nodes:
            self._nodes[shard, node] = self._progress.add_task(f"shard {shard}: {node}")
        self._progress.update(self._nodes[shard, node], completed=done, total=of)

    def checked(self, entries: int) -> None:
        if self._cache is None:
            self._cache = self._progress.add_task("cache", total=None)
        self._progress.advance(self._cache, entries)


def _replicas(reports: list[Report]) -> Table:
    table = Table(
        "shard", "node", "equal", "counters", "differing keys", "digest", title="replicas, each beside its primary"
    )
    for report in reports:
        for one in report.replicas.comparisons if report.replicas else ():
            known = one.digest[:12] or "-"
            table.add_row(
                str(report.shard), one.node, _word(one.equal), f"{one.counters:,}", f"{one.differing:,}", known
            )
    return table


def _cache(reports: list[Report]) -> Table:
    table = Table("shard", "entries", "stale, refreshed", "wrong, deleted", title="cache, beside the primaries")
    for report in reports:
        cached = report.cache
        table.add_row(str(report.shard), f"{cached.checked:,}", f"{cached.stale:,}", f"{cached.wrong:,}")
    return table


def _checks(reports: list[Report]) -> Table:
    table = Table("shard", "check", "rows", "wrong", title="rows, beside those that they belong to")
    for report in reports:
        for name, check in report.checks.items():
            table.add_row(str(report.shard), name, f"{check.checked:,}", f"{check.wrong:,}")
    return table


def _word(equal: bool | None) -> Text:
    return Text("not known", "yellow") if equal is None else Text("yes", "green") if equal else Text("NO", "bold red")


def _lines(report: Report) -> list[str]:
    """Findings for an operator, one per line."""
    where = f"shard {report.shard}"
    lines = [
        f"{where}: {detail}"
        for detail in (report.detail, report.cache.detail and f"cache: {report.cache.detail}")
        if detail
    ]
    lines += [f"{where}: wrong in the cache: {key}" for key in report.cache.keys[:MOST_LINES]]
    for name, check in report.checks.items():
        lines += [f"{where}: {name}: {text}" for text in (check.detail, *check.some[:MOST_LINES]) if text]
    if report.replicas is None:
        return lines
    if altered := report.replicas.altered:
        some = ", ".join(map(str, altered[:MOST_LINES])) + (", …" if len(altered) > MOST_LINES else "")
        lines.append(f"{where}: counters were changed, but not by Tally, since the last round, in slot {some}")
    for one in report.replicas.comparisons:
        lines += [f"{where}: {one.node}: {one.detail}"] if one.detail else []
        for key, primary, replica, table in one.differences[:MOST_LINES]:
            name = key if table == COUNTER.name else f"{key} of {table}"
            lines.append(f"{where}: {one.node}: {name} is {_held(replica)}, on the primary {_held(primary)}")
        if one.equal is False:
            lines.append(
                f"{where}: {one.node} differs; if it does twice, Tally has it copied again; "
                f"by hand: POST /v1/shards/{report.shard}/replicas/{one.node}/reinitialise"
            )
    return lines


def _held(row: tuple[Any, ...] | None) -> str:
    return "absent" if row is None else f"{row[0]} (version {row[1]})"
