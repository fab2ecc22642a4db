"""`manage.py replicas`: every server of every shard, in a live table."""

from __future__ import annotations

import time
from datetime import timedelta
from itertools import compress
from typing import Any

import msgspec
from django.conf import settings
from django.core.management.base import BaseCommand, CommandError, CommandParser
from rich.console import Console, Group
from rich.live import Live
from rich.table import Table

from replication import status
from replication.patroni import PatroniUnavailable
from replication.status import Lag, Replica

COLOURS = {"running": "green", "streaming": "green", "unreachable": "red", "gone": "red"}
HEADINGS = ("node", "role", "state", "tl", "lsn", "write", "flush", "replay", "sync", "delay", "up", "equal")
RIGHT = {"tl", "lsn", "write", "flush", "replay", "delay", "up"}
PLAIN_WIDTH = 160  # columns of a table written to a file or a pipe
WIDE = 110  # a narrower terminal gets no `ONLY_WIDE`
ONLY_WIDE = {"tl", "lsn", "write", "flush", "delay"}


class Command(BaseCommand):
    help = "Every server of every shard: role, state, timeline, position, lag, sync state. Ctrl-C ends it."
    requires_system_checks = ()

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("--once", action="store_true", help="print it once")
        parser.add_argument("--json", action="store_true", help="once, for programs")
        parser.add_argument("--shard", type=int, metavar="N", help="this shard only")
        parser.add_argument(
            "--every", type=float, default=1.0, metavar="SECONDS", help="pause between two looks (default: 1)"
        )

    def handle(self, *_args: Any, **options: Any) -> None:
        shards = _shards(options["shard"])
        if options["json"]:
            self.stdout.write(msgspec.json.encode([_of(shard) for shard in shards]).decode())
            return
        console = Console(width=None if self.stdout.isatty() else PLAIN_WIDTH)
        if options["once"]:
            console.print(_page(shards, console.width))
            return
        try:
            with Live(_page(shards, console.width), console=console, auto_refresh=False) as live:
                while True:
                    time.sleep(max(0.1, options["every"]))
                    live.update(_page(shards, console.width), refresh=True)
        except KeyboardInterrupt:
            pass


def _shards(only: int | None) -> list[int]:
    count = settings.TALLY.shard_count
    if only is None:
        return list(range(count))
    if not 0 <= only < count:
        raise CommandError(f"there is no shard {only}: TALLY_SHARDS has {count}, from 0 on")
    return [only]


def _of(shard: int) -> dict[str, Any]:
    """The servers of a shard, or why they are unknown."""
    try:
        return {"shard": shard, "replicas": status.replicas(shard)}
    except PatroniUnavailable as error:
        return {"shard": shard, "replicas": [], "error": str(error)}


def _page(shards: list[int], width: int) -> Group:
    parts: list[Any] = []
    shown = [width >= WIDE or heading not in ONLY_WIDE for heading in HEADINGS]
    for shard in shards:
        found = _of(shard)
        table = Table(title=f"shard {shard}", title_justify="left", box=None, pad_edge=False, header_style="bold")
        for heading in compress(HEADINGS, shown):
            table.add_column(heading, justify="right" if heading in RIGHT else "left", no_wrap=True)
        for one in found["replicas"]:
            table.add_row(*compress(_row(one), shown))
        parts += [table, found["error"], ""] if "error" in found else [table, ""]
    return Group(*parts)


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
