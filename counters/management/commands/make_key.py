"""`manage.py make_key NAME --scope write`: make an API key and print it, once."""

from typing import Any

from django.core.exceptions import ValidationError
from django.core.management.base import BaseCommand, CommandError, CommandParser

from counters.models import NAME_RULE, ApiKey, Scope, check_name


class Command(BaseCommand):
    help = "Make an API key and print it. It is stored as a hash only: keep what is printed."
    requires_system_checks = ()

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("name", help=f"whose key it is, shown in the admin: {NAME_RULE}")
        parser.add_argument(
            "--scope", action="append", choices=Scope.values, required=True, help="may be given more than once"
        )

    def handle(self, *_args: Any, **options: Any) -> None:
        try:
            check_name(options["name"])
        except ValidationError as error:
            raise CommandError(f"a name has {NAME_RULE}") from error
        _, key = ApiKey.objects.create_key(name=options["name"], scopes=sorted(set(options["scope"])))
        self.stdout.write(key)
