"""`manage.py breakers`: the circuit breakers, shown, opened or closed by hand."""

from __future__ import annotations

from datetime import datetime
from typing import Any

import msgspec
from django.core.management.base import BaseCommand, CommandError, CommandParser
from redis.exceptions import RedisError

from counters.operators import breakers
from counters.operators.breakers import Row, UnknownBreaker
from replication.interventions import Order


class Command(BaseCommand):
    help = (
        "Show every circuit breaker. `open NAME` refuses all calls of a component, until `close NAME` or for --for "
        "seconds."
    )
    requires_system_checks = ()

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("action", nargs="?", choices=("open", "close"))
        parser.add_argument("name", nargs="?", metavar="NAME", help="shard-0, shard-0-replica, journal, cache, broker")
        parser.add_argument("--for", type=float, dest="seconds", metavar="SECONDS", help="open it for so long only")
        parser.add_argument("--reason", default="", help="why; it is recorded")
        parser.add_argument("--json", action="store_true", help="for programs")

    def handle(self, *_args: Any, **options: Any) -> None:
        try:
            self._act(options["action"], options["name"], options["seconds"], options["reason"])
            found = breakers.overview()
        except UnknownBreaker as error:
            raise CommandError(str(error)) from error
        except RedisError as error:
            raise CommandError(f"the journal's Redis, which has what is held open, does not answer: {error}") from error
        if options["json"]:
            self.stdout.write(msgspec.json.encode(found).decode())
            return
        for one in found:
            self.stdout.write(_line(one))

    def _act(self, action: str | None, name: str | None, seconds: float | None, reason: str) -> None:
        if action and not name:
            raise CommandError(f"which breaker? `manage.py breakers {action} NAME`")
        if seconds is not None and (action != "open" or not 0 < seconds < 1e9):
            raise CommandError("--for is for `open`, and a number of seconds")
        order = Order("manage.py breakers", reason)
        if action == "open":
            breakers.hold(str(name), order, seconds)
        elif action == "close":
            breakers.close(str(name), order)


def _line(one: Row) -> str:
    if not one.held:
        state = one.state if one.shared else "automatic, each process its own"
        return f"{one.name}: {state}" + (f" since {_time(one.since)}" if one.shared and one.since else "")
    until = f"until {_time(one.until)}" if one.until else "until it is closed"
    return f"{one.name}: open {until}, since {_time(one.since)}, by {one.by}: {one.reason or 'no reason given'}"


def _time(at: datetime | None) -> str:
    return f"{at:%Y-%m-%d %H:%M:%S} UTC" if at else ""
