"""`manage.py replicas`: every server of every shard, and whether it follows."""

from __future__ import annotations

from datetime import timedelta
from itertools import compress

import msgspec
from django.core.management.base import CommandParser
from rich.console import Console, ConsoleOptions, RenderResult
from rich.table import Table
from rich.text import Text

from replication import status
from replication.patroni import PatroniUnavailable
from replication.status import Lag, Replica
from runtime import commands
from runtime.commands import ShowCommand
from runtime.showing import UNSEEN, WELL, WRONG, Unseen

COLOURS = {"running": "green", "streaming": "green", "unreachable": "red", "gone": "red"}
WELL_STATES = {"running", "streaming"}
HEADINGS = ("node", "role", "state", "tl", "lsn", "write", "flush", "replay", "sync", "delay", "up", "equal")
RIGHT = {"tl", "lsn", "write", "flush", "replay", "delay", "up"}
WIDE = 110  # a narrower terminal gets no `ONLY_WIDE`
ONLY_WIDE = {"tl", "lsn", "write", "flush", "delay"}


class Servers(msgspec.Struct, frozen=True, omit_defaults=True):
    """The servers of a shard, or the `error` that says why they are unknown."""

    shard: int
    replicas: list[Replica]
    error: str | None = None

    @property
    def are_well(self) -> bool:
        """Whether there is a primary, and every replica streams and was equal to it."""
        return any(one.role == "primary" for one in self.replicas) and all(
            one.state in WELL_STATES and one.equal is not False for one in self.replicas
        )


class Command(ShowCommand[list[Servers]]):
    help = (
        "Every server of every shard: role, state, timeline, position, lag, sync state. Exit status 1: a shard has no "
        "primary, or a replica that does not stream or differs. 2: no Patroni of a shard answers."
    )

    def add_arguments(self, parser: CommandParser) -> None:
        super().add_arguments(parser)
        commands.add_shards(parser)

    def change(self) -> None:
        commands.shards(self.options["shards"])

    def look(self) -> list[Servers]:
        found = [_servers(shard) for shard in commands.shards(self.options["shards"])]
        if all(one.error for one in found):
            said = "; ".join(str(one.error) for one in found)
            raise Unseen(f"{said}. Is Patroni up, and are the addresses in TALLY_SHARDS right? See its logs.")
        return found

    def exit_status(self, found: list[Servers]) -> int:
        if not all(one.are_well for one in found if not one.error):
            return WRONG
        return UNSEEN if any(one.error for one in found) else WELL

    def page(self, found: list[Servers]) -> _Page:
        return _Page(found)


class _Page:
    """A table for each shard, with the columns that the terminal has room for."""

    def __init__(self, found: list[Servers]) -> None:
        self._found = found

    def __rich_console__(self, _: Console, options: ConsoleOptions) -> RenderResult:
        shown = [options.max_width >= WIDE or heading not in ONLY_WIDE for heading in HEADINGS]
        for shard in self._found:
            title = f"shard {shard.shard}"
            table = Table(title=title, title_justify="left", box=None, pad_edge=False, header_style="bold")
            for heading in compress(HEADINGS, shown):
                table.add_column(heading, justify="right" if heading in RIGHT else "left", no_wrap=True)
            for one in shard.replicas:
                table.add_row(*compress(_row(one), shown))
            yield table
            yield Text(shard.error or "")


def _servers(shard: int) -> Servers:
    try:
        return Servers(shard, status.replicas(shard))
    except PatroniUnavailable as error:
        return Servers(shard, [], str(error))


def _row(one: Replica) -> list[str]:
    colour = COLOURS.get(one.state, "yellow")
    equal = {None: "-", True: "yes", False: f"[red]no: {len(one.differing_keys or [])} keys[/]"}[one.equal]
    return [
        one.node,
        f"[bold]{one.role}[/]" if one.role == "primary" else one.role,
        f"[{colour}]{one.state}[/]",
        "-" if one.timeline is None else str(one.timeline),
        one.lsn or "-",
        *(_lag(lag) for lag in (one.write, one.flush, one.replay)),
        one.sync_state or "-",
        f"{one.apply_delay_ms} ms" if one.apply_delay_ms else "-",
        "-" if one.uptime_seconds is None else str(timedelta(seconds=int(one.uptime_seconds))),
        equal,
    ]


def _lag(lag: Lag | None) -> str:
    if lag is None or lag.bytes is None:
        return "-"
    return f"{_size(lag.bytes)} {lag.seconds or 0:.3f} s" if lag.bytes else "0"


def _size(size: float) -> str:
    for unit in ("B", "kB", "MB"):
        if size < 1024:
            return f"{size:.0f} {unit}"
        size /= 1024
    return f"{size:.1f} GB"
