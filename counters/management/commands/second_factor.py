"""`manage.py second_factor enrol USER | reset USER | list`: the second factor of staff."""

import os
from io import StringIO
from typing import Any

import segno
from django.conf import settings
from django.contrib.auth import get_user_model
from django.core.management.base import BaseCommand, CommandError, CommandParser

from counters.operators import audit
from counters.operators.audit import Entry
from counters.second_factor import devices


class Command(BaseCommand):
    help = "Give a member of the staff a second factor, take it away, or list who has one."
    requires_system_checks = ()

    def add_arguments(self, parser: CommandParser) -> None:
        actions = parser.add_subparsers(dest="action", required=True)
        enrol = actions.add_parser(
            "enroll", aliases=["enrol"], help="print a key, as QR code too, and backup codes, once"
        )
        reset = actions.add_parser("reset", help="for a lost device: take the second factor away, and end all sessions")
        for action in (enrol, reset):
            action.add_argument("user", help="the name that the user logs in with")
        actions.add_parser("list", help="staff, and how many backup codes each has left")

    def handle(self, *_args: Any, **options: Any) -> None:
        if options["action"] == "list":
            self._list()
            return
        users = get_user_model()
        try:
            user = users.objects.get_by_natural_key(options["user"])
        except users.DoesNotExist as error:
            raise CommandError(f"nobody is called {options['user']}") from error
        if options["action"] == "reset":
            self._reset(user)
        else:
            self._enrol(user)

    def _enrol(self, user: Any) -> None:
        key = devices.new_key()
        try:
            made = devices.enrol(user, key)
        except devices.Enrolled as error:
            raise CommandError(f"{user} has a second factor; for a lost device: second_factor reset {user}") from error
        assert made is not None  # without a code none is wrong
        _record(user, "enroll", "set up")
        uri = devices.uri(user, key)
        picture = StringIO()
        segno.make(uri, micro=False).terminal(out=picture, compact=True)
        self.stdout.write(picture.getvalue())
        self.stdout.write(
            f"{uri}\nkey: {devices.secret(key)}\nbackup codes, each good once; none of this is shown again:"
        )
        for code in made[1]:
            self.stdout.write(f"  {code}")

    def _reset(self, user: Any) -> None:
        was_there = devices.reset(user)
        _record(user, "reset", "taken away" if was_there else "sessions ended")
        if not was_there:
            raise CommandError(f"{user} had no second factor; every session of {user} was ended")
        self.stdout.write(f"{user} has no second factor any more, and every session of {user} was ended")

    def _list(self) -> None:
        for user in get_user_model().objects.filter(is_staff=True, is_active=True).order_by("username"):
            left = devices.backup_codes_left(user)
            self.stdout.write(f"{user}: {f'{left} backup codes left' if devices.has(user) else 'no second factor'}")


def _record(user: Any, action: str, outcome: str) -> None:
    by = f"uid {os.getuid()} on {settings.TALLY.node_id}"
    audit.append(Entry(by, f"manage.py second_factor {action}", f"user {user.get_username()}", outcome=outcome))
