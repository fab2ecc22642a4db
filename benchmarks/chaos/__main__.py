"""`make chaos`: exit status 0 if every count is exact (or, with --break, if the broken build was caught)."""

from __future__ import annotations

import argparse
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

from benchmarks.chaos import broken, clocks, disks, isolation, limits, picture, report, stock, subject, trial, verdict
from benchmarks.chaos.clocks import all_clock_steps
from benchmarks.chaos.damage import all_damages
from benchmarks.chaos.disks import all_full_disks
from benchmarks.chaos.fault import Fault
from benchmarks.chaos.floods import all_floods
from benchmarks.chaos.freezes import all_freezes
from benchmarks.chaos.kills import pairs, roles
from benchmarks.chaos.load import CLIENTS, Load
from benchmarks.chaos.messages import all_messages
from benchmarks.chaos.network import all_slow_networks
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


@dataclass
class Ground:
    """What a cluster stands on, beside its processes, so that more can be done to it: file systems and a network of its
    own, clocks that can be stepped. `faults`: what can be done to it. `environment`: what its processes need."""

    faults: list[Fault]
    environment: dict[str, str] = field(default_factory=dict)


def common_faults() -> list[Fault]:
    """Every fault that a cluster can have wherever it stands."""
    return [*roles(), *all_freezes(), *all_floods(), *all_messages(), *all_scalings(), *all_damages(), *pairs()]


def prepare(directory: Path) -> Ground:
    """Prepare the ground of a cluster that is to be made in this directory, and tell which faults are left out."""
    ground = Ground(common_faults())
    if reason := isolation.enter():
        console.print(f"left out, full disks and slow network: {reason}")
    else:
        disks.provide(directory)
        ground.faults += [*all_full_disks(), *all_slow_networks()]
    if reason := clocks.lacking():
        console.print(f"left out, clock steps: {reason}")
    else:
        ground.environment = clocks.provide(directory)
        ground.faults += all_clock_steps()
    return ground


def faults_named(names: str, faults: Sequence[Fault]) -> list[Fault]:
    """Faults whose names contain one of the words, separated by commas; all for ""."""
    words = [word.strip() for word in names.split(",") if word.strip()]
    found = [fault for fault in faults if not words or any(word in fault.name for word in words)]
    if not found:
        raise SystemExit(f"no fault is called {names!r}; there are: {', '.join(fault.name for fault in faults)}")
    return found


def run_trial(  # noqa: PLR0913
    cluster: Subject,
    faults: Sequence[Fault],
    *,
    seed: int,
    minutes: float,
    count: int,
    clients: int = CLIENTS,
    crowd: int = 0,
    quiet_seconds: float = verdict.QUIET_SECONDS,
    pace: float = trial.WHOLE_SECONDS,
    failovers: int = 1,
) -> Outcome:
    """Load, faults, quiet, verdict."""
    load = Load(cluster, f"chaos:{time.time_ns():x}:", seed, clients=clients, crowd=crowd)
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
            done = trial.run(
                cluster, load, faults, seed, minutes=minutes, count=count, tell=tell, pace=pace, failovers=failovers
            )
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
    ground = prepare(directory) if own else Ground(common_faults())
    faults = faults_named(options.only, ground.faults)
    cluster = (
        subject.start(
            directory,
            journal_replicas=options.journal_replicas,
            environment=ground.environment | limits.environment(directory, small=options.small_limits),
        )
        if own
        else Subject(directory.resolve())
    )
    exact = False
    try:
        outcome = run_trial(
            cluster,
            faults,
            seed=options.seed,
            minutes=options.minutes,
            count=options.faults,
            pace=options.pace,
            failovers=options.failovers,
        )
        costs = trial.costs(outcome.trial, outcome.load)
        report.show(console, outcome.verdict, costs)
        exact = outcome.verdict.exact
        compared = _compare(cluster, options, outcome) if options.stock else None
        document = report.document(outcome.verdict, costs, outcome.trial, seed=options.seed, stock=compared)
        document["arguments"] = sys.argv[1:]
        report.save(options.json, document)
        title = f"Tally under {document['faults']} faults in {document['minutes']:.0f} minutes (seed {options.seed})"
        picture.draw(options.picture, outcome.trial, outcome.load, outcome.verdict, title)
        console.print(f"written: {options.json}, {options.picture}")
    finally:
        if own:
            subject.stop(cluster)
            disks.put_away(directory, keep=not exact)
            if exact:
                shutil.rmtree(directory, ignore_errors=True)
            else:
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
        "--pace",
        type=float,
        default=trial.WHOLE_SECONDS,
        metavar="SECONDS",
        help="strike again after so long although the cluster is not whole yet (default: %(default).0f); what loses data "
        "waits until it is",
    )
    parser.add_argument(
        "--failovers", type=int, default=1, metavar="N", help="faults that make a failover come N times as often"
    )
    parser.add_argument(
        "--journal-replicas", type=int, default=0, help="copies of the journal beside its primary (default: 0)"
    )
    parser.add_argument(
        "--small-limits", action="store_true", help="so small that increments are spilled and refused all the time"
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
