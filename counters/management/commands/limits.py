"""`manage.py limits`: show the limits of callers and set them, as in the admin."""

from __future__ import annotations

from typing import Any

from django.core.exceptions import ValidationError
from django.core.management.base import CommandParser
from rich.console import RenderableType

from counters.models import ApiKey, Limits
from counters.operators import limits
from counters.operators.limits import OPTIONS, InForce
from runtime import showing
from runtime.commands import BadUsage, ShowCommand

DEFAULT = "default"


def quota(text: str) -> int | None:
    """A number, or None for what `default` means."""
    return None if text == DEFAULT else int(text)


class Command(ShowCommand[list[InForce]]):
    help = (
        "Show the limits of callers, or set them: of all callers without a quota of their own, or of one API key. In force "
        "on every process within seconds."
    )

    def add_arguments(self, parser: CommandParser) -> None:
        super().add_arguments(parser)
        parser.add_argument("--key", metavar="PREFIX", help="of this API key: what stands before the dot")
        for name, option in OPTIONS.items():
            text = f"{option.what}, or `{DEFAULT}`"
            parser.add_argument(f"--{name}", type=quota, default=False, metavar="N", help=text)

    @property
    def fields(self) -> dict[str, str]:
        """The field of the row of each limit; empty if it has none."""
        return {name: one.of_key if self.options["key"] else one.setting for name, one in OPTIONS.items()}

    def change(self) -> str | None:
        given = {self.fields[name]: self.options[name] for name in OPTIONS if self.options[name] is not False}
        if "" in given:
            raise BadUsage("--anonymous is not of an API key")
        if not given:
            return None
        row = self._row()
        for field, value in given.items():
            setattr(row, field, value)
        try:
            row.clean_fields()
        except ValidationError as error:
            raise BadUsage("; ".join(error.messages)) from error
        row.save()
        return f"In force on every process within seconds. The same option with `{DEFAULT}` takes it back."

    def look(self) -> list[InForce]:
        row = self._row()
        return limits.of_callers(row if isinstance(row, ApiKey) else None)

    def document(self, found: list[InForce]) -> list[dict[str, Any]]:
        return [{"limit": one.name, "per_minute": one.value, "source": one.source} for one in found]

    def page(self, found: list[InForce]) -> RenderableType:
        return showing.lines(f"{one.name}: {one.value} a minute ({one.source})" for one in found)

    def _row(self) -> ApiKey | Limits:
        prefix = self.options["key"]
        if prefix is None:
            return Limits.objects.first() or Limits()
        found: ApiKey | None = ApiKey.objects.filter(prefix=prefix, revoked=False).first()
        if found is None:
            raise BadUsage(f"there is no API key {prefix}; the admin lists them")
        return found
