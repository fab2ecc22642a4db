"""`manage.py limits`: show the limits of callers and set them, as in the admin."""

from __future__ import annotations

from typing import Any

from django.core.exceptions import ValidationError
from django.core.management.base import BaseCommand, CommandError, CommandParser

from counters.models import ApiKey, Limits
from counters.operators import limits
from counters.operators.limits import OPTIONS

DEFAULT = "default"


def quota(text: str) -> int | None:
    """A number, or None for what `default` means."""
    return None if text == DEFAULT else int(text)


class Command(BaseCommand):
    help = (
        "Show the limits of callers, or set them: of all callers without a quota of their own, or of one API key. In force "
        "on every process within seconds."
    )
    requires_system_checks = ()

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("--key", metavar="PREFIX", help="of this API key: what stands before the dot")
        for name, option in OPTIONS.items():
            text = f"{option.what}, or `{DEFAULT}`"
            parser.add_argument(f"--{name}", type=quota, default=False, metavar="N", help=text)

    def handle(self, *_args: Any, **options: Any) -> None:
        row = self._row(options["key"])
        fields = {name: one.of_key if options["key"] else one.setting for name, one in OPTIONS.items()}
        given = {fields[name]: options[name] for name in OPTIONS if options[name] is not False}
        if "" in given:
            raise CommandError("--anonymous is not of an API key")
        for field, value in given.items():
            setattr(row, field, value)
        if given:
            try:
                row.clean_fields()
            except ValidationError as error:
                raise CommandError("; ".join(error.messages)) from error
            row.save()
        for one in limits.of_callers(row if isinstance(row, ApiKey) else None):
            self.stdout.write(f"{one.name}: {one.value} a minute ({one.source})")

    def _row(self, prefix: str | None) -> ApiKey | Limits:
        if prefix is None:
            return Limits.objects.first() or Limits()
        found: ApiKey | None = ApiKey.objects.filter(prefix=prefix, revoked=False).first()
        if found is None:
            raise CommandError(f"there is no API key {prefix}; the admin lists them")
        return found
