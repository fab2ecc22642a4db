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
from benchmarks.quorum import deployment, picture, report, steer
from benchmarks.quorum.deployment import Deployment
from benchmarks.quorum.report import Found, Sweep

FOLLOWERS = 5
DELAYS = (50, 500)  # ms
RESULTS = ROOT / "benchmarks/results"
PICTURES = ROOT / "docs/img"
PAGE = ROOT / "docs/replication.md"
console = Console(width=None if sys.stdout.isatty() else 140)


def main(arguments: Sequence[str] | None = None) -> int:
    """The command: on a cluster of its own, which is removed, or on a deployment that runs, which is left as it was."""
    parser = _parser()
    options = parser.parse_args(arguments)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that the cluster is put away
    try:
        running = _running(options)
    except (OSError, ValueError, KeyError) as error:
        parser.error(str(error))
    if running:
        return _main_on(running, options, parser)
    with console.status("a leader and five followers are started") as status:
        found = measure(options, status.update)
    _show(found)
    _keep(found, options.trial or RESULTS, options.trial or PICTURES)
    if not options.trial:
        pages.between(PAGE, "quorum", report.markdown(found))
    return 0 if found.exact else 1


def _main_on(running: Deployment, options: argparse.Namespace, parser: argparse.ArgumentParser) -> int:
    count = len(steer.followers(running))
    quorums = list(range(count + 1)) if options.quorums is None else options.quorums
    if max(quorums) > count:
        parser.error(f"--quorums: {max(quorums)} can never be met; followers of shard {running.shard}: {count}")
    left = steer.left_as_found(running, with_delays=options.delays is not None)
    with console.status("measuring") as status, left:
        found = _sweep(running, options, options.delays, status.update).measure(quorums)
    _show(found)
    if options.trial:
        _keep(found, options.trial, options.trial)
    return 0 if found.exact else 1


def _running(options: argparse.Namespace) -> Deployment | None:
    """The deployment that the options name, if they name one. Raises `OSError`, `ValueError`, `KeyError`."""
    if options.dir:
        return deployment.of_cluster(subject.Subject(options.dir.resolve()), options.shard)
    if options.url:
        return deployment.at(options.url, options.api_key_file.read_text().strip(), options.shard)
    return None


def _keep(found: Found, results: Path, pictures: Path) -> None:
    report.save(found, results / "quorum.json")
    picture.draw(found, pictures / "quorum_vs_latency.png")


def measure(options: argparse.Namespace, tell: report.Tell) -> Found:
    """The sweep on a cluster of its own."""
    directory = Path(tempfile.mkdtemp(prefix="tally-quorum-"))
    try:
        cluster = subject.start(directory, shards=1, replicas=FOLLOWERS, api=report.API, environment=report.ENVIRONMENT)
        sweep = _sweep(deployment.of_cluster(cluster), options, options.delays or DELAYS, tell)
        return sweep.measure(list(range(FOLLOWERS + 1)) if options.quorums is None else options.quorums)
    finally:
        subject.destroy(
            directory
        )  # also one that was not ready yet: its supervisor is a daemon, and outlives who started it


def _sweep(
    running: Deployment, options: argparse.Namespace, delays: tuple[int, int] | None, tell: report.Tell
) -> Sweep:
    given = {name: getattr(options, name) for name in ("writes", "rounds", "spread", "seed")}
    return Sweep(running, **given, delays=delays, tell=tell)


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
        for who, keys in step.mismatched.items():
            console.print(f"quorum {step.quorum}: differ on {who}: {', '.join(keys)}", markup=False)


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
        metavar="MIN..MAX",
        help="of the followers, in ms (default: 50..500; with --dir or --url as they are)",
    )
    parser.add_argument("--seed", type=int, default=7, help="of the random delays (default: 7)")
    parser.add_argument(
        "--quorums", type=int, nargs="+", choices=range(100), metavar="K", help="default: from 0 to all followers"
    )
    where = parser.add_mutually_exclusive_group()
    where.add_argument("--dir", type=Path, help="measure the local cluster that runs in this directory")
    where.add_argument("--url", help="measure the deployment that answers there (http://HOST:PORT)")
    parser.add_argument(
        "--api-key-file",
        type=Path,
        default=ROOT / ".cluster/api-key",
        metavar="FILE",
        help="with --url: a file with an API key of every scope (default: the local cluster's)",
    )
    parser.add_argument(
        "--shard", type=int, default=0, metavar="N", help="with --dir or --url: this shard (default: 0)"
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
