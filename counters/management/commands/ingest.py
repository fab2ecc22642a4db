"""`manage.py ingest FILE`: count the increments of a CSV or NDJSON file, each exactly once, however often the command
is run.

Each chunk is a write with an idempotency key made of the file's SHA-256 (or `--name`), the prefix and the chunk's
number. So repeating an interrupted run continues it: chunks taken before are answered as repeats.
"""

from __future__ import annotations

import hashlib
import os
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any
from uuid import uuid4

from django.core.management.base import BaseCommand, CommandError, CommandParser

from counters import service
from counters.imports.importing import Import, Stopped
from counters.imports.lines import BadLine, Format, chunks
from counters.keys import CHARACTERS_RULE, is_prefix
from counters.management.progress import progress

FORMATS: dict[str, Format] = {".csv": "csv", ".ndjson": "ndjson", ".jsonl": "ndjson"}


class Command(BaseCommand):
    help = (
        'Count the increments of a file: CSV (key,delta) or NDJSON ({"key", "delta"} a line). Running it again with the same file '
        "counts nothing twice, and a run that was cut short goes on. That holds for 7 days, as long as idempotency keys are kept: "
        "after them the same file would be counted anew. A file that was changed is another import, unless --name says otherwise."
    )
    requires_system_checks = ()

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument(
            "file", help="the file; - for standard input, which is not resumable (unless --name is given)"
        )
        parser.add_argument("--format", choices=["csv", "ndjson"], help="default: by the file's extension")
        parser.add_argument("--prefix", default="", help="put before each key")
        parser.add_argument(
            "--chunk", type=int, default=10_000, help="increments in a write (default 10000); the same in each run"
        )
        parser.add_argument("--name", help="name of this import, instead of the file's SHA-256")
        parser.add_argument(
            "--skip-bad", action="store_true", help="skip and count bad lines; default: stop at the first"
        )
        parser.add_argument("--no-wait", action="store_true", help="end when all is accepted, before it is applied")

    def handle(self, *_args: Any, **options: Any) -> None:
        form, started = _checked(options), time.monotonic()
        with _opened(options["file"]) as file:
            name = options["name"] or _digest(file)
            running = Import(
                name=name, prefix=options["prefix"], wait=not options["no_wait"], on_rejected=self.stderr.write
            )
            try:
                with service.in_background():
                    self._run(running, file, form, options)
            except BadLine as error:
                text = (
                    f"{error}. Nothing of that chunk was counted; the {running.increments:,} increments before it were."
                )
                raise CommandError(
                    f"{text} Mend the line and run it again with --name {name}, or with --skip-bad."
                ) from error
            except Stopped as error:
                raise CommandError(f"{error} {_advice(options, name)}") from error
            except KeyboardInterrupt:
                raise CommandError(f"interrupted. {_advice(options, name)}", returncode=130) from None
        self._report(running, time.monotonic() - started)

    def _run(self, running: Import, file: IO[bytes], form: Format, options: dict[str, Any]) -> None:
        before = os.fstat(file.fileno())
        size = before.st_size if file.seekable() else None
        with progress(size, self.stderr) as shown:
            for chunk in chunks(file, form, prefix=running.prefix, size=options["chunk"], skip_bad=options["skip_bad"]):
                if size is not None and os.fstat(file.fileno()).st_mtime_ns != before.st_mtime_ns:
                    raise Stopped("The file is being changed. Import a copy that nobody writes to.")
                running.take(chunk)
                shown.update(chunk.end, running.increments)
        running.finish()

    def _report(self, done: Import, seconds: float) -> None:
        text = f"{done.increments:,} increments in {done.chunks:,} chunks ({done.keys:,} keys, summed over the chunks)"
        text += f" {'applied' if done.wait else 'accepted'} in {seconds:.1f} s; {done.repeated:,} chunks were repeats"
        self.stdout.write(text + (f"; {done.skipped:,} bad lines skipped" if done.skipped else ""))
        if done.rejected:
            raise CommandError(
                f"{done.rejected:,} sums were rejected (named above): the counters would leave the range of 64 bits"
            )


def _checked(options: dict[str, Any]) -> Format:
    """Check the options and return the format. Raises `CommandError`."""
    if options["prefix"] and not is_prefix(options["prefix"]):
        raise CommandError(f"--prefix: {CHARACTERS_RULE}")
    if not 1 <= options["chunk"] <= 100_000:
        raise CommandError("--chunk: 1 to 100000 increments")
    form: Format | None = options["format"] or FORMATS.get(Path(options["file"]).suffix.lower())
    if form is None:
        raise CommandError(
            f"the name {options['file']!r} does not tell the format: say --format csv or --format ndjson"
        )
    return form


@contextmanager
def _opened(name: str) -> Iterator[IO[bytes]]:
    if name == "-":
        yield sys.stdin.buffer
        return
    try:
        file = Path(name).open("rb")  # noqa: SIM115 - closed below
    except OSError as error:
        raise CommandError(f"cannot read {name}: {error.strerror}") from error
    with file:
        yield file


def _digest(file: IO[bytes]) -> str:
    """The file's SHA-256; for a stream, which cannot be read twice, a new random name."""
    if not file.seekable():
        return uuid4().hex
    start = file.tell()
    digest = hashlib.file_digest(file, "sha256").hexdigest()  # type: ignore[arg-type]
    file.seek(start)
    return digest


def _advice(options: dict[str, Any], name: str) -> str:
    again = f"Give the same data again with --name {name}" if options["file"] == "-" else "Run the same command again"
    return f"{again}: it goes on where it stopped, and counts nothing twice."
