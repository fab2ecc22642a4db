"""`manage.py quorum`: the write quorum of the shards, shown or set."""

from __future__ import annotations

from typing import ClassVar

from django.core.management.base import CommandParser
from rich.console import RenderableType

from replication import steering
from replication.interventions import Order
from replication.patroni import PatroniUnavailable, Refused
from replication.steering import Quorum
from runtime import commands, showing
from runtime.commands import BadUsage, Remedies, ShowCommand
from runtime.showing import WELL, WRONG
from sharding.databases import ShardUnavailable


class Command(ShowCommand[list[Quorum]]):
    help = (
        "Show the write quorum of every shard: how many replicas must confirm a commit. With N, set it first. Exit status "
        "1: one is not in force."
    )
    remedies: ClassVar[Remedies] = {
        Refused: "{error}. See `manage.py replicas`.",
        PatroniUnavailable: "{error}. Is it up? See `manage.py replicas`, and the logs of Patroni.",
        ShardUnavailable: "{error}. See `manage.py replicas`.",
    }

    def add_arguments(self, parser: CommandParser) -> None:
        super().add_arguments(parser)
        parser.add_argument("number", nargs="?", type=int, metavar="N", help="replicas that must confirm; 0: none")
        commands.add_shards(parser)
        parser.add_argument("--reason", default="", help="why; it is recorded")

    def change(self) -> str | None:
        wanted, number = commands.shards(self.options["shards"]), self.options["number"]
        if number is None:
            return None
        if number < 0:
            raise BadUsage(f"{number} is no number of replicas")
        found = steering.set_quorum(wanted, number, Order("manage.py quorum", self.options["reason"]))
        if all(one.in_force for one in found):
            return "It is kept over restarts and failovers."
        return "Asked for, and not in force everywhere yet: `manage.py quorum --watch` follows it."

    def look(self) -> list[Quorum]:
        return [steering.get_quorum(shard) for shard in commands.shards(self.options["shards"])]

    def exit_status(self, found: list[Quorum]) -> int:
        return WELL if all(one.in_force for one in found) else WRONG

    def page(self, found: list[Quorum]) -> RenderableType:
        return showing.lines(_line(one) for one in found)


def _line(one: Quorum) -> str:
    state = "in force" if one.in_force else "not in force"
    strict = ", strict" if one.strict else ""
    return f"shard {one.shard}: quorum {one.quorum}{strict}, {state}: {one.confirming} confirm, {one.following} follow"
