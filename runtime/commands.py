"""What the commands of `manage.py` share: the base class of those that show something, and sentences for what is down."""

from __future__ import annotations

import logging
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, ClassVar

import psycopg
from django.conf import settings
from django.core.management.base import BaseCommand, CommandError, CommandParser
from django.db import Error as DatabaseError
from django.db import ProgrammingError
from redis.exceptions import RedisError

from runtime import showing
from runtime.showing import UNSEEN, WRONG, Showing, T, Unseen

Remedies = Mapping[type[Exception], str]

# What is said of an `{error}`, with what to do next; the first that fits. A command's own stand before these.
REMEDIES: Remedies = {
    RedisError: "the journal does not answer ({error}): is its Redis up? See TALLY_JOURNAL_URL; `manage.py doctor` says "
    "what is down.",
    psycopg.errors.UndefinedTable: "{error}: run `manage.py migrate_all`.",
    ProgrammingError: "{error}: run `manage.py migrate_all`.",
    psycopg.Error: "{error}: are all primaries up? See `manage.py replicas`, and TALLY_SHARDS for their addresses.",
    DatabaseError: "the control database does not answer ({error}): is the primary of shard 0 up? See `manage.py replicas "
    "--shard 0`, and TALLY_SHARDS for its address.",
}


def sentence(error: Exception, remedies: Remedies) -> str | None:
    """The error and what to do next; None if it is none that a command expects."""
    for kind, text in {**remedies, **REMEDIES}.items():
        if isinstance(error, kind):
            return text.format(error=" ".join(str(error).split()).rstrip("."))
    return None


@contextmanager
def in_words(remedies: Remedies | None = None, *, returncode: int = WRONG) -> Iterator[None]:
    """Errors of components that are down become a `CommandError` with this exit status, which says what to do next."""
    try:
        yield
    except Exception as error:
        text = sentence(error, remedies or {})
        if text is None:
            raise
        raise CommandError(text, returncode=returncode) from error


class BadUsage(CommandError):
    """The command line is wrong; the exit status is that of argparse."""

    def __init__(self, text: str) -> None:
        super().__init__(text, returncode=UNSEEN)


def add_shards(parser: CommandParser) -> None:
    """`--shard N` of a command that shows shards."""
    text = "this shard only; may be given more than once"
    parser.add_argument("--shard", type=int, action="append", metavar="N", dest="shards", help=text)


def shards(asked: Sequence[int] | None) -> list[int]:
    """The shards that `--shard` asks for: all without it. Raises `BadUsage`."""
    count = settings.TALLY.shard_count
    if unknown := sorted(set(asked or ()) - set(range(count))):
        raise BadUsage(f"there is no shard {unknown[0]}: TALLY_SHARDS has {count}, from 0 on")
    return sorted(set(asked or range(count)))


class ShowCommand(Showing[T], BaseCommand):
    """A command that shows something, and may change it before.

    A change has the exit status 0 if it was done and 1 if not; its result is shown in the same way.
    """

    requires_system_checks = ()
    remedies: ClassVar[Remedies] = {}
    silences_log: ClassVar[bool] = True  # what components log while they are down is what is shown
    options: dict[str, Any]

    def add_arguments(self, parser: CommandParser) -> None:
        showing.add_arguments(parser)

    def change(self) -> str | None:
        """Do what the options ask for. Returns what was done and what to do next, None if nothing was asked for. Raises
        `BadUsage`, `CommandError`."""
        return None

    def handle(self, *_args: Any, **options: Any) -> None:
        self.options = options
        with in_words(self.remedies):
            done = self.change()
        # Not self.stdout: it ends what it writes with a new line, and a live picture does not.
        out = options.get("stdout") or sys.stdout
        try:
            status = self.show(options, out, styled=not options.get("no_color"))
        except Unseen as error:
            raise CommandError(str(error), returncode=UNSEEN) from error
        if done is None:
            if status:
                raise SystemExit(status)
        elif not options["json"]:
            self.stdout.write(done)

    def seen(self) -> T:
        before = logging.root.manager.disable
        if self.silences_log:
            logging.disable()
        try:
            return self.look()
        except Exception as error:
            text = sentence(error, self.remedies)
            if text is None:
                raise
            raise Unseen(text) from error
        finally:
            logging.disable(before)
