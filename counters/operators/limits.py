"""The limits in force, for people: those of callers, which the admin and `manage.py limits` set, and those of settings."""

from __future__ import annotations

from typing import NamedTuple

from django.conf import settings

from counters.models import ApiKey, Limits

PREFIX = "TALLY_"


class Option(NamedTuple):
    """A limit of callers: its setting, which is also its field of `Limits`, and its field of an API key, if that has one."""

    setting: str
    of_key: str
    what: str


OPTIONS = {
    "anonymous": Option("anonymous_rate", "", "requests a minute of an address without an API key"),
    "requests": Option("api_key_rate", "requests_rate", "requests a minute of an API key"),
    "increments": Option("api_key_increments_rate", "increments_rate", "increments a minute of an API key"),
}


class InForce(NamedTuple):
    """A limit of callers by name, its value a minute, and where that comes from."""

    name: str
    value: int
    source: str
    what: str

    @property
    def shown(self) -> str:
        """The value with separators."""
        return f"{self.value:,}"


class Setting(NamedTuple):
    """A limit that only its setting changes, as this process has it."""

    name: str
    value: str
    unit: str
    what: str


def of_callers(key: ApiKey | None = None) -> list[InForce]:
    """What holds for a caller with this API key, or for all without a quota of their own. Asks the control database."""
    of_all = Limits.objects.first() or Limits()
    found = []
    for name, option in OPTIONS.items():
        if key is not None and not option.of_key:
            continue
        value, source = getattr(settings.TALLY, option.setting), f"{PREFIX}{option.setting.upper()}"
        if (set_ := getattr(of_all, option.setting)) is not None:
            value, source = set_, "set for all"
        if key is not None and (own := getattr(key, option.of_key)) is not None:
            value, source = own, "set"
        found.append(InForce(name, value, source, option.what))
    return found


def of_settings() -> list[Setting]:
    """Every other limit."""
    config = settings.TALLY
    return [
        Setting(
            f"{PREFIX}{name.upper()}",
            f"{value:,}" if isinstance(value := getattr(config, name), int) else str(value),
            str(field.json_schema_extra["unit"]),
            str(field.description),
        )
        for name, field in type(config).model_fields.items()
        if isinstance(field.json_schema_extra, dict) and not field.json_schema_extra["in_admin"]
    ]
