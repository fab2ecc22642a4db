"""`manage.py set_up`: all that must be done once before the processes of a new version start."""

from typing import Any

from django.core.management import call_command
from django.core.management.base import BaseCommand, CommandParser

from counters.models import Scope


class Command(BaseCommand):
    help = "Migrate every database (`migrate_all`) and collect the static files (`collectstatic`). Safe to run again."
    requires_system_checks = ()

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument(
            "--key", metavar="NAME", help="also make an API key with every scope and print it, in the last line"
        )

    def handle(self, *_args: Any, **options: Any) -> None:
        call_command("migrate_all", stdout=self.stdout, verbosity=options["verbosity"])
        call_command("collectstatic", interactive=False, verbosity=max(0, options["verbosity"] - 1))
        if options["key"]:
            scopes = (f"--scope={scope}" for scope in Scope.values)
            call_command("make_key", options["key"], *scopes, stdout=self.stdout)
