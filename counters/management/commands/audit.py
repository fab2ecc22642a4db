"""`manage.py audit`: check that the audit log is as it was written."""

from __future__ import annotations

from typing import Any

from django.core.management.base import BaseCommand, CommandError
from django.db import Error

from counters.models import AuditEntry
from counters.operators import audit


class Command(BaseCommand):
    help = (
        "Check the chain of the audit log's entries: exit status 1 if one was changed or is missing. Prints the newest "
        "entry's hash, which the log of the process that wrote it has, too."
    )
    requires_system_checks = ()

    def handle(self, *_args: Any, **_options: Any) -> None:
        try:
            broken, newest = audit.first_broken(), AuditEntry.objects.order_by("-id").first()
        except Error as error:
            raise CommandError(f"the control database does not answer: {str(error).strip()}") from error
        if broken is not None:
            raise CommandError(f"entry {broken} of the audit log was changed, or the one before it is missing")
        said = f"the newest at {newest.at:%Y-%m-%d %H:%M:%S} UTC, hash {newest.hash}" if newest else "none yet"
        self.stdout.write(f"{newest.id if newest else 0} entries, whole; {said}")
