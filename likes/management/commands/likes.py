"""`manage.py likes replay --since TIME`: write the events of the log again, from a moment on."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from datetime import UTC, datetime
from typing import Any

import psycopg
from django.conf import settings
from django.core.management.base import BaseCommand, CommandError, CommandParser
from redis.exceptions import RedisError
from rich import progress as bars
from rich.console import Console

from counters import service
from counters.intake import journal
from likes import locks
from likes.replaying import Chunk, Replay, Stopped, chunks


class Command(BaseCommand):
    help = (
        "Write events of likes again. What the tables know already changes nothing, so a replay may be stopped and repeated: "
        "it brings back what they lack. The log has the events of the last 7 days."
    )
    requires_system_checks = ()

    def add_arguments(self, parser: CommandParser) -> None:
        commands = parser.add_subparsers(dest="command", required=True)
        replay = commands.add_parser("replay", help="write the events of the log again, in the journal's order")
        replay.add_argument(
            "--since", required=True, type=_position, metavar="TIME", help="as 2026-11-26T10:00 (UTC), or a position"
        )
        replay.add_argument("--chunk", type=int, default=5000, help="events in a write, 1 to 100000 (default 5000)")

    def handle(self, *_args: Any, **options: Any) -> None:
        if not 1 <= options["chunk"] <= 100_000:
            raise CommandError("--chunk: 1 to 100000 events")
        first, size = options["since"], options["chunk"]
        running = Replay(first)
        try:
            behind = journal.now()
            with locks.replaying() as held, service.in_background():
                found = chunks(range(settings.TALLY.shard_count), first, behind, size)
                for chunk in _shown(found, first, behind):
                    held.execute("SELECT")  # fails if the lock is lost with its connection
                    running.take(chunk)
                running.finish()
        except locks.Taken:
            raise CommandError(
                "A user is being removed (GET /v1/removals/ID says how far that is). Try again later."
            ) from None
        except (Stopped, psycopg.Error, RedisError) as error:
            raise CommandError(f"{str(error).strip()}. {_advice(running)}") from error
        except KeyboardInterrupt:
            raise CommandError(f"interrupted. {_advice(running)}", returncode=130) from None
        self.stdout.write(f"{running.events:,} events written again and applied")


def _advice(running: Replay) -> str:
    return f"Continue with --since {running.applied}: what is written twice changes nothing."


def _position(text: str) -> int:
    """A moment in microseconds. Raises `ValueError`."""
    if text.isascii() and text.isdigit():
        return int(text)
    at = datetime.fromisoformat(text)
    return int((at if at.tzinfo else at.replace(tzinfo=UTC)).timestamp() * 1e6)


def _shown(found: Iterable[Chunk], first: int, behind: int) -> Iterator[Chunk]:
    """The chunks, with a bar on a terminal: how much of the time is replayed."""
    console = Console(stderr=True)
    columns = bars.BarColumn(), bars.TaskProgressColumn(), bars.TextColumn("{task.fields[events]:,} events")
    with bars.Progress(*columns, bars.TimeRemainingColumn(), console=console, disable=not console.is_terminal) as bar:
        task, events = bar.add_task("replay", total=behind - first, events=0), 0
        for chunk in found:
            yield chunk
            events += len(chunk.events)
            bar.update(task, completed=chunk.position - first, events=events)
