"""`manage.py make_key NAME --scope write`: make an API key and print it, once."""

import json
import os
import re
from argparse import ArgumentTypeError
from datetime import UTC, datetime, timedelta
from typing import Any

from django.conf import settings
from django.core.exceptions import ValidationError
from django.core.management.base import BaseCommand, CommandError, CommandParser
from django.utils import timezone

from counters.models import NAME_RULE, ApiKey, Scope, check_name
from counters.operators import audit
from counters.operators.audit import Entry
from runtime.commands import in_words

_UNITS = {"d": "days", "h": "hours"}


def moment(text: str) -> datetime:
    """A moment in the future: as `2027-01-31`, `2027-01-31T12:00` (UTC unless it says otherwise), or from now on, as `90d` or
    `12h`. Raises `ArgumentTypeError`."""
    try:
        if found := re.fullmatch(r"([0-9]{1,6})([dh])", text):
            at = timezone.now() + timedelta(**{_UNITS[found[2]]: int(found[1])})
        else:
            at = datetime.fromisoformat(text)
            at = at if at.tzinfo else at.replace(tzinfo=UTC)
    except (ValueError, OverflowError) as error:
        raise ArgumentTypeError(f"{text!r} is no time: 2027-01-31, 2027-01-31T12:00, 90d or 12h") from error
    if at <= timezone.now():
        raise ArgumentTypeError(f"{text!r} is not in the future")
    return at


class Command(BaseCommand):
    help = "Make an API key and print it. It is stored as a hash only: keep what is printed."
    requires_system_checks = ()

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("name", help=f"whose key it is, shown in the admin: {NAME_RULE}")
        parser.add_argument(
            "--scope", action="append", choices=Scope.values, required=True, help="may be given more than once"
        )

        parser.add_argument(
            "--expires",
            type=moment,
            metavar="TIME",
            help="refuse it from then on: 2027-01-31, 2027-01-31T12:00 (UTC), 90d, 12h",
        )

    def handle(self, *_args: Any, **options: Any) -> None:
        try:
            check_name(options["name"])
        except ValidationError as error:
            raise CommandError(f"a name has {NAME_RULE}") from error
        scopes = sorted(set(options["scope"]))
        with in_words():
            made, key = ApiKey.objects.create_key(name=options["name"], scopes=scopes, expiry_date=options["expires"])
        by = f"uid {os.getuid()} on {settings.TALLY.node_id}"
        audit.append(
            Entry(by, "manage.py make_key", f"API key {made.prefix}", json.dumps([made.name, *scopes]), "made")
        )
        self.stdout.write(key)
