"""`make bench`: every figure beside its peers, each count compared; `results/bench.json`, pictures, tables.

Exit status 0 if all counts are exact.
"""

from __future__ import annotations

import argparse
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from benchmarks import capacity, document, pages, pictures
from benchmarks.chaos import subject
from benchmarks.chaos.subject import Subject
from benchmarks.context import LIMITS, Context, fresh
from benchmarks.document import Part
from benchmarks.figures import FIGURES
from benchmarks.quorum.__main__ import main as quorum

ATTEMPTS = 2
console = Console(width=None if sys.stdout.isatty() else 140)
COLUMNS = (
    TextColumn("{task.fields[figure]:12}"),
    BarColumn(30),
    MofNCompleteColumn(),
    TimeElapsedColumn(),
    TextColumn("{task.description}"),
)


def named(names: str) -> list[str]:
    """Figures by name, separated by commas; all for "". Raises `SystemExit`."""
    wanted = [name.strip() for name in names.split(",") if name.strip()] or list(FIGURES)
    if unknown := sorted(set(wanted) - set(FIGURES)):
        raise SystemExit(f"no figure is called {', '.join(unknown)}; there are: {', '.join(FIGURES)}")
    return wanted


def run(cluster: Subject, names: list[str], options: argparse.Namespace) -> dict[str, Part]:
    """Measure the figures, one after the other, each in a directory of its own."""
    parts = {}
    with (
        tempfile.TemporaryDirectory(prefix="tally-bench-peers-") as directory,
        Progress(*COLUMNS, console=console) as progress,
    ):
        bar = progress.add_task("", total=len(names), figure="")
        context = Context(
            cluster,
            Path(directory),
            progress,
            bar,
            options.repeats,
            options.scale,
            direct=options.direct,
            minutes=options.minutes,
        )
        for name in names:
            progress.update(bar, figure=name)
            began = time.monotonic()
            parts[name] = measured(context, name)
            parts[name].details["seconds it took"] = time.monotonic() - began
            progress.advance(bar)
    return parts


def measured(context: Context, name: str) -> Part:
    """One figure; once more with other keys if an answer failed, as then its counts cannot be told. It never ends the
    run."""
    reasons = []
    for _ in range(ATTEMPTS):
        context.run = fresh()
        try:
            part: Part = FIGURES[name].run(context)
        except (RuntimeError, TimeoutError, subprocess.CalledProcessError) as error:
            reasons.append(f"not measured: {error}")
            console.print(f"{name}: {reasons[-1]}", highlight=False)
        else:
            part.details["attempts that failed"] = reasons
            return part
    return Part(wrong=reasons)


def main() -> int:
    """The command."""
    parser = _parser()
    options, others = parser.parse_known_args()
    if options.only == "quorum":  # it has options, a cluster, a result and a picture of its own
        return quorum(others)
    if others:
        parser.error(f"unknown: {' '.join(others)}")
    names = named(options.only)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that cluster and peers are put away
    own = options.dir is None
    directory = Path(tempfile.mkdtemp(prefix="tally-bench-")) if own else options.dir
    began = time.monotonic()
    console.print(f"cluster in {directory}")
    cluster = subject.start(directory, environment=LIMITS) if own else Subject(directory.resolve())
    try:
        parts = run(cluster, names, options)
    finally:
        if own:
            subject.put_away(cluster, keep=False)
    found = document.merge(document.load(options.json), parts, list(FIGURES), (time.monotonic() - began) / 60)
    document.save(found, options.json)
    pages.show(console, found, names)
    if options.write:
        pictures.draw(found, names)
        pages.write(found)
        capacity.write(found)
    return 1 if any(part.wrong for part in parts.values()) else 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="benchmarks", description=__doc__)
    parser.add_argument(
        "--only",
        default="",
        metavar="NAMES",
        help=f"only these, separated by commas: {', '.join(FIGURES)}; or quorum, which has the options of manage.py quorum_report",
    )
    parser.add_argument("--repeats", type=int, default=3, help="how often each side is measured (default: 3)")
    parser.add_argument(
        "--scale", type=float, default=1.0, help="multiplies every duration, for a first look (default: 1)"
    )
    parser.add_argument(
        "--minutes", type=float, default=1.5, help="of half load while memory is watched (default: 1.5)"
    )
    parser.add_argument(
        "--direct", action="store_true", help="load the server processes themselves instead of the nginx before them"
    )
    parser.add_argument("--dir", type=Path, help="use the running cluster in this directory instead of one of its own")
    parser.add_argument(
        "--json", type=Path, default=document.PATH, help="the document that is written, or brought up to date"
    )
    parser.add_argument(
        "--write",
        action=argparse.BooleanOptionalAction,
        default=True,
        help="draw the pictures, write the tables (default)",
    )
    return parser


if __name__ == "__main__":
    sys.exit(main())
