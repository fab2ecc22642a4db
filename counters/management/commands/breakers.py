"""`manage.py breakers`: the circuit breakers, shown, opened or closed by hand."""

from __future__ import annotations

from datetime import datetime

from django.core.management.base import CommandParser
from pybreaker import STATE_CLOSED
from rich.console import RenderableType

from counters.operators import breakers
from counters.operators.breakers import Row, UnknownBreaker
from replication.interventions import Order
from runtime import showing
from runtime.commands import BadUsage, ShowCommand
from runtime.showing import WELL, WRONG


class Command(ShowCommand[list[Row]]):
    help = (
        "Show every circuit breaker. `open NAME` refuses all calls of a component, until `close NAME` or for --for "
        "seconds. Exit status 1: one is open."
    )

    def add_arguments(self, parser: CommandParser) -> None:
        super().add_arguments(parser)
        parser.add_argument("action", nargs="?", choices=("open", "close"))
        parser.add_argument("name", nargs="?", metavar="NAME", help="shard-0, shard-0-replica, journal, cache, broker")
        parser.add_argument("--for", type=float, dest="seconds", metavar="SECONDS", help="open it for so long only")
        parser.add_argument("--reason", default="", help="why; it is recorded")

    def change(self) -> str | None:
        action, name, seconds = (self.options[key] for key in ("action", "name", "seconds"))
        if action and not name:
            raise BadUsage(f"which breaker? `manage.py breakers {action} NAME`")
        if seconds is not None and (action != "open" or not 0 < seconds < 1e9):
            raise BadUsage("--for is for `open`, and a number of seconds")
        order = Order("manage.py breakers", self.options["reason"])
        try:
            if action == "open":
                breakers.hold(name, order, seconds)
                return f"Every process follows within two seconds. `manage.py breakers close {name}` ends it."
            if action == "close":
                breakers.close(name, order)
                return "Every process follows within two seconds. `manage.py doctor` says whether the component is up."
        except UnknownBreaker as error:
            raise BadUsage(str(error)) from error
        return None

    def look(self) -> list[Row]:
        return breakers.overview()

    def exit_status(self, found: list[Row]) -> int:
        return WELL if all(one.state == STATE_CLOSED for one in found) else WRONG

    def page(self, found: list[Row]) -> RenderableType:
        return showing.lines(_line(one) for one in found)


def _line(one: Row) -> str:
    if not one.held:
        state = one.state if one.shared else "automatic, each process its own"
        return f"{one.name}: {state}" + (f" since {_time(one.since)}" if one.shared and one.since else "")
    until = f"until {_time(one.until)}" if one.until else "until it is closed"
    return f"{one.name}: open {until}, since {_time(one.since)}, by {one.by}: {one.reason or 'no reason given'}"


def _time(at: datetime | None) -> str:
    return f"{at:%Y-%m-%d %H:%M:%S} UTC" if at else ""
