"""`manage.py quorum_report`: exit status 0 if every follower has what the leader has, and the leader what was
acknowledged."""

from __future__ import annotations

import argparse
import signal
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console
from rich.table import Table

from benchmarks import pages
from benchmarks.chaos import subject
from benchmarks.document import ROOT
from benchmarks.quorum import picture, report
from benchmarks.quorum.report import Found, Sweep

FOLLOWERS = 5
RESULTS = ROOT / "benchmarks/results"
PICTURES = ROOT / "docs/img"
PAGE = ROOT / "docs/replication.md"
console = Console(width=None if sys.stdout.isatty() else 140)


def main(arguments: Sequence[str] | None = None) -> int:
    """The command; in a directory of its own, which is removed."""
    options = _parser().parse_args(arguments)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that the cluster is put away
    with console.status("a leader and five followers are started") as status:
        found = measure(options, status.update)
    _show(found)
    trial = options.trial
    report.save(found, (trial or RESULTS) / "quorum.json")
    picture.draw(found, (trial or PICTURES) / "quorum_vs_latency.png")
    if not trial:
        pages.between(PAGE, "quorum", report.markdown(found))
    return 0 if found.exact else 1


def measure(options: argparse.Namespace, tell: report.Tell) -> Found:
    """The sweep on a cluster of its own."""
    directory = Path(tempfile.mkdtemp(prefix="tally-quorum-"))
    try:
        cluster = subject.start(directory, shards=1, replicas=FOLLOWERS, api=report.API, environment=report.ENVIRONMENT)
        given = {name: getattr(options, name) for name in ("writes", "rounds", "spread", "seed", "delays")}
        return Sweep(cluster, **given, tell=tell).measure(options.quorums)
    finally:
        subject.destroy(
            directory
        )  # also one that was not ready yet: its supervisor is a daemon, and outlives who started it


def _show(found: Found) -> None:
    console.print(f"the followers apply after {', '.join(map(str, found.delays_ms))} ms")
    title = f"{found.writes:,} clients: milliseconds until committed"
    table = Table(
        "quorum",
        "keys",
        "load",
        "mean",
        "p50",
        "p95",
        "p99",
        "writes/s",
        "mismatched keys",
        "followers compared",
        title=title,
    )
    for step in found.steps:
        for one in step.latencies:
            figures = [f"{number:,.0f}" for number in (one.mean_ms, one.p50_ms, one.p95_ms, one.p99_ms, one.throughput)]
            table.add_row(
                str(step.quorum),
                f"{one.keys:,}",
                one.load,
                *figures,
                str(step.mismatched_keys),
                str(step.followers_compared),
            )
    console.print(table)
    for step in found.steps:
        for trouble in step.troubles:
            console.print(f"quorum {step.quorum}: {trouble}", markup=False)


def _range(text: str) -> tuple[int, int]:
    least, dots, most = text.partition("..")
    if not dots or not (least.isdigit() and most.isdigit()) or int(least) > int(most):
        raise argparse.ArgumentTypeError(f"{text!r} is no range of milliseconds like 50..500")
    return int(least), int(most)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="manage.py quorum_report", description=__doc__)
    parser.add_argument("--writes", type=int, default=2000, help="clients, each with one write (default: 2000)")
    parser.add_argument("--rounds", type=int, default=3, help="bursts for each quorum and number of keys (default: 3)")
    parser.add_argument(
        "--spread", type=float, default=10.0, help="seconds over which a steady load is spread (default: 10)"
    )
    parser.add_argument(
        "--delays",
        type=_range,
        default=(50, 500),
        metavar="MIN..MAX",
        help="of the followers, in ms (default: 50..500)",
    )
    parser.add_argument("--seed", type=int, default=7, help="of the random delays (default: 7)")
    parser.add_argument(
        "--quorums", type=int, nargs="+", default=list(range(FOLLOWERS + 1)), choices=range(FOLLOWERS + 1), metavar="K"
    )
    parser.add_argument(
        "--trial",
        type=Path,
        metavar="DIR",
        help="write figures and picture there, and leave the documentation as it is",
    )
    return parser


if __name__ == "__main__":
    sys.exit(main())
