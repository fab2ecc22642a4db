"""`manage.py quorum`: the write quorum of the shards, shown or set."""

from __future__ import annotations

from typing import Any

from django.conf import settings
from django.core.management.base import BaseCommand, CommandError, CommandParser

from replication import steering
from replication.interventions import Order
from replication.patroni import PatroniUnavailable, Refused
from replication.steering import Quorum
from sharding.databases import ShardUnavailable


class Command(BaseCommand):
    help = "Show the write quorum of every shard: how many replicas must confirm a commit. With N, set it first."
    requires_system_checks = ()

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("number", nargs="?", type=int, metavar="N", help="replicas that must confirm; 0: none")
        parser.add_argument("--shard", type=int, metavar="S", help="this shard only")
        parser.add_argument("--reason", default="", help="why; it is recorded")

    def handle(self, *_args: Any, **options: Any) -> None:
        number, shard = options["number"], options["shard"]
        shards = list(range(settings.TALLY.shard_count))
        if shard is not None and shard not in shards:
            raise CommandError(f"there is no shard {shard}: TALLY_SHARDS has {len(shards)}, from 0 on")
        if number is not None and number < 0:
            raise CommandError(f"{number} is no number of replicas")
        wanted = shards if shard is None else [shard]
        try:
            if number is None:
                found = [steering.get_quorum(one) for one in wanted]
            else:
                found = steering.set_quorum(wanted, number, Order("manage.py quorum", options["reason"]))
        except (Refused, PatroniUnavailable, ShardUnavailable) as error:
            raise CommandError(str(error)) from error
        for one in found:
            self.stdout.write(_line(one))


def _line(one: Quorum) -> str:
    state = "in force" if one.in_force else "not in force"
    strict = ", strict" if one.strict else ""
    return f"shard {one.shard}: quorum {one.quorum}{strict}, {state}: {one.confirming} confirm, {one.following} follow"
