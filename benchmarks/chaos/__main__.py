"""`make chaos`: exit status 0 if every count is exact (or, with --break, if the broken build was caught)."""

from __future__ import annotations

import argparse
import signal
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

from benchmarks.chaos import broken, picture, report, stock, subject, trial, verdict
from benchmarks.chaos.damage import all_damages
from benchmarks.chaos.fault import Fault
from benchmarks.chaos.floods import all_floods
from benchmarks.chaos.freezes import all_freezes
from benchmarks.chaos.kills import pairs, roles
from benchmarks.chaos.load import Load
from benchmarks.chaos.messages import all_messages
from benchmarks.chaos.scaling import all_scalings
from benchmarks.chaos.subject import Subject
from benchmarks.chaos.trial import Trial
from benchmarks.chaos.verdict import Verdict

console = Console(width=None if sys.stdout.isatty() else 140)


@dataclass
class Outcome:
    """A trial and what was found."""

    trial: Trial
    load: Load
    verdict: Verdict


def all_faults() -> list[Fault]:
    """Every fault there is."""
    return [*roles(), *all_freezes(), *all_floods(), *all_messages(), *all_scalings(), *all_damages(), *pairs()]


def faults_named(names: str) -> list[Fault]:
    """Faults whose names contain one of the words, separated by commas; all for ""."""
    words = [word.strip() for word in names.split(",") if word.strip()]
    found = [fault for fault in all_faults() if not words or any(word in fault.name for word in words)]
    if not found:
        raise SystemExit(f"no fault is called {names!r}; there are: {', '.join(fault.name for fault in all_faults())}")
    return found


def run_trial(  # noqa: PLR0913
    cluster: Subject,
    faults: Sequence[Fault],
    *,
    seed: int,
    minutes: float,
    count: int,
    crowd: int = 0,
    quiet_seconds: float = verdict.QUIET_SECONDS,
) -> Outcome:
    """Load, faults, quiet, verdict."""
    load = Load(cluster, f"chaos:{time.time_ns():x}:", seed, crowd=crowd)
    columns = (
        TextColumn("{task.description:34}"),
        BarColumn(),
        TextColumn("{task.completed:.0f}/{task.total:.0f} faults"),
        TimeElapsedColumn(),
    )
    with Progress(*columns, console=console, transient=True) as progress:
        bar = progress.add_task("", total=count)

        def tell(name: str, done: int) -> None:
            progress.update(bar, description=name, completed=min(done, count))

        try:
            done = trial.run(cluster, load, faults, seed, minutes=minutes, count=count, tell=tell)
        finally:
            load.stop()
        tell("quiet, then every key", count)
        return Outcome(done, load, verdict.judge(cluster, load, done, quiet_seconds))


def main() -> int:
    """The command."""
    options = _parser().parse_args()
    signal.signal(
        signal.SIGTERM, lambda *_: sys.exit(143)
    )  # so that whatever was stopped goes on, and the cluster is put away
    if options.breaks:
        return broken.main(options.breaks, options.seed, console)
    own = options.dir is None
    directory = Path(tempfile.mkdtemp(prefix="tally-chaos-")) if own else options.dir
    console.print(f"cluster in {directory}")
    cluster = (
        subject.start(directory, journal_replicas=options.journal_replicas) if own else Subject(directory.resolve())
    )
    exact = False
    try:
        outcome = run_trial(
            cluster, faults_named(options.only), seed=options.seed, minutes=options.minutes, count=options.faults
        )
        costs = trial.costs(outcome.trial, outcome.load)
        report.show(console, outcome.verdict, costs)
        exact = outcome.verdict.exact
        compared = _compare(cluster, options, outcome) if options.stock else None
        document = report.document(outcome.verdict, costs, outcome.trial, seed=options.seed, stock=compared)
        report.save(options.json, document)
        title = f"Tally under {document['faults']} faults in {document['minutes']:.0f} minutes (seed {options.seed})"
        picture.draw(options.picture, outcome.trial, outcome.load, outcome.verdict, title)
        console.print(f"written: {options.json}, {options.picture}")
    finally:
        if own:
            subject.put_away(cluster, keep=not exact)
            if not exact:
                console.print(f"the cluster's directory, with its logs, stays: {directory}")
    return 0 if exact else 1


def _compare(cluster: Subject, options: argparse.Namespace, outcome: Outcome) -> dict[str, dict[str, int]]:
    """Losses and doubles of Tally and of stock Celery, side by side."""
    ended = sum(not one.skipped and "kill" in one.name and "worker" in one.name for one in outcome.trial.struck)
    figures = outcome.verdict.figures
    tally = {
        "kills": ended,
        "acknowledged": figures.get("increments acknowledged", 0),
        "lost": figures.get("increments lost", 0),
        "doubled": figures.get("increments counted twice", 0),
    }
    found = stock.compare(cluster, times=max(ended, options.stock_kills), seed=options.seed, console=console)
    console.print(report.beside({"Tally (and all the other faults)": tally, "stock Celery, acks_late, Redis": found}))
    return {"tally": tally, "stock": found}


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="benchmarks.chaos", description=__doc__)
    parser.add_argument("--minutes", type=float, default=10, help="at least so many minutes of faults (default: 10)")
    parser.add_argument("--faults", type=int, default=100, help="and at least so many faults (default: 100)")
    parser.add_argument("--seed", type=int, default=1, help="of the order of faults and of the load (default: 1)")
    parser.add_argument(
        "--only",
        default="",
        metavar="WORDS",
        help="only faults whose names have one of these words, e.g. worker,journal",
    )
    parser.add_argument(
        "--journal-replicas", type=int, default=0, help="copies of the journal beside its primary (default: 0)"
    )
    parser.add_argument("--dir", type=Path, help="use the running cluster in this directory instead of one of its own")
    parser.add_argument(
        "--stock", action=argparse.BooleanOptionalAction, default=True, help="kill a stock Celery worker, too (default)"
    )
    parser.add_argument("--stock-kills", type=int, default=25, help="at least so many times (default: 25)")
    parser.add_argument(
        "--break",
        dest="breaks",
        choices=sorted(broken.BREAKS),
        help="run a build that is broken on purpose: it must be caught",
    )
    parser.add_argument("--json", type=Path, default=report.ROOT / "benchmarks/results/chaos.json")
    parser.add_argument("--picture", type=Path, default=report.ROOT / "docs/img/chaos.png")
    return parser


if __name__ == "__main__":
    sys.exit(main())
