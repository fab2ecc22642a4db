"""The commands of `manage.py cluster …`: their options, and one function for each. Each returns the exit status."""

from __future__ import annotations

import argparse
import asyncio
import functools
import json
import os
import re
import shutil
import signal
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

from rich.console import Group
from rich.text import Text

from replication.apply_delay import RULE, ApplyDelay
from runtime import polling, showing
from runtime.balancing import STRATEGIES
from runtime.showing import UNSEEN, WELL, WRONG, Showing, Unseen

from . import (
    ClusterError,
    autoscaling,
    background,
    console,
    lanes,
    layout,
    leftovers,
    prepare,
    processes,
    state,
    takeover,
)
from .layout import FLOWER_USER, MONITORING_USER, Asked, Directory, Layout
from .plan import Planner
from .supervisor import Supervisor

STOP_SECONDS = 150.0
DESTROY_SECONDS = (0.3, 1.0, STOP_SECONDS)  # after each signal of `destroy`; two that come at once count as one
TAKEOVER_SECONDS = 10.0  # of an upgrade's supervisor, from having the lock until the state names it
SCALE_SECONDS = 120.0
LOOK_SECONDS = 1.0  # between two looks of `autoscale`
# Of `autoscale`, in parts of a processor. One process less of two has at most twice `low`, still less than `high`.
API = autoscaling.Rule(least=2, most=4, high=0.7, low=0.3)
BROKERS = ("amqp://", "amqps://", "redis://", "rediss://")
PAGES = (  # with a log-in: role, what it is, user
    ("flower", "Flower, each task", FLOWER_USER),
    ("prometheus", "Prometheus", MONITORING_USER),
    ("grafana", "Grafana", MONITORING_USER),
)
NAMES = "up | status | down | destroy | scale | autoscale | upgrade"
SERVES = "serves"  # an API process that nginx sends requests to
NO_GRAFANA = "neither `grafana` nor `grafana-server` is on PATH: Prometheus runs without dashboards"
SCALED = f"{', '.join(layout.SCALABLE)} or, for one shard, worker-SHARD"


def run(argv: list[str]) -> int:
    """Run `cluster ARGV…`. Raises `ClusterError` with the sentence to show."""
    options = _parser().parse_args(argv)
    command: Callable[[argparse.Namespace, Directory], int] = options.command
    return command(options, _directory(options))


def run_loadbalancer(argv: list[str]) -> int:
    """Run `loadbalancer ARGV…`. Raises `ClusterError` with the sentence to show."""
    parser = argparse.ArgumentParser(prog="manage.py loadbalancer", description=balance.__doc__)
    parser.add_argument("strategy", nargs="?", choices=STRATEGIES, metavar="STRATEGY", help=" or ".join(STRATEGIES))
    _add_directory(parser)
    showing.add_arguments(parser)
    options = parser.parse_args(argv)
    return balance(options, _directory(options))


def up(options: argparse.Namespace, directory: Directory) -> int:
    """Start the cluster and stay until it is told to stop; with --detach return as soon as it is ready."""
    directory.prepare()
    if options.detach:
        names = ("shards", "replicas", "api", "port", "broker", "journal_replicas", "apply_delay", "quorum")
        given = {name: getattr(options, name) for name in (*names, "archive", "shared_buffers")}
        words = [f"--{name.replace('_', '-')}={value}" for name, value in given.items() if value is not None]
        if options.monitoring is not None:
            words.append("--monitoring" if options.monitoring else "--no-monitoring")
        return background.up(directory, words)
    with prepare.lock(directory):
        if left := leftovers.stop(directory):
            console.Console().say(f"stopped what was left of the last run: {', '.join(left)}")
        plan = prepare.planner(
            directory,
            Asked(
                shards=options.shards,
                replicas=options.replicas,
                api=options.api,
                port=options.port,
                broker=options.broker,
                journal_replicas=options.journal_replicas,
                apply_delay=options.apply_delay,
                quorum=options.quorum,
                archive=options.archive,
                monitoring=options.monitoring,
                shared_buffers=options.shared_buffers,
            ),
        )
        if plan.layout.monitoring and plan.programs.grafana is None:
            console.Console().say(NO_GRAFANA)
        asyncio.run(_supervise(plan))
    return 0


def upgrade(options: argparse.Namespace, directory: Directory) -> int:
    """Replace the running processes by those of this code, one after the other, while clients write and read."""
    _current(directory)
    takeover.supervisor_of(directory)
    if not options.stay:
        return background.upgrade(directory, ["--all"] if options.all else [])
    found = takeover.take_over(directory)
    with found.lock:
        asyncio.run(_supervise(found.plan, found.rows, every=options.all))
    return 0


async def _supervise(plan: Planner, running: Sequence[Mapping[str, Any]] = (), *, every: bool = False) -> None:
    await Supervisor(plan, console.Console(), running, every=every).run()


def status(options: argparse.Namespace, directory: Directory) -> int:
    """Show what runs. Exit status 1: the cluster does not run. 2: there is none."""
    return _show(_Status(directory), options)


def _show(shown: Showing[Any], options: argparse.Namespace) -> int:
    try:
        return shown.show(vars(options), sys.stdout)
    except Unseen as error:
        print(error, file=sys.stderr)
        return UNSEEN


class _Status(Showing[tuple[state.State, dict[str, list[int]]]]):
    """What runs: the state, and the lanes that each worker applies."""

    def __init__(self, directory: Directory) -> None:
        self._directory = directory

    def look(self) -> tuple[state.State, dict[str, list[int]]]:
        try:
            now = _current(self._directory)
        except ClusterError as error:
            raise Unseen(f"cluster: {error}") from error
        return now, lanes.read(self._directory) if state.supervisor(now) else {}

    def document(self, found: tuple[state.State, dict[str, list[int]]]) -> dict[str, Any]:
        now, applied = found
        return now.public(applied)

    def exit_status(self, found: tuple[state.State, dict[str, list[int]]]) -> int:
        """A process that begins again is no matter of this one: the supervisor sees to it, and `doctor` says what follows."""
        return WELL if state.supervisor(found[0]) else WRONG

    def page(self, found: tuple[state.State, dict[str, list[int]]]) -> Group:
        now, applied = found
        lines: list[str] = []
        if state.supervisor(now) and now.url:
            ports = {row["role"]: row["port"] for row in now.processes}
            lines += [
                f"{name}: http://127.0.0.1:{ports[role]}/, user {user}, password in secrets.json"
                for role, name, user in PAGES
                if role in ports
            ]
        if now.connections:
            lines.append(
                "connections at most: {most} of {limit}, to the primary of shard {shard}".format(**now.connections)
            )
        heading = Text(f"{now.phase}: {now.url or self._directory.root}")
        return Group(heading, console.table(now.processes, now.primary_names, applied), *map(Text, lines))


def down(_: argparse.Namespace, directory: Directory) -> int:
    """Stop the cluster, or what is left of it; its data stay."""
    _stop(directory, console.Console())
    return 0


def destroy(options: argparse.Namespace, directory: Directory) -> int:
    """Stop the cluster and delete its directory. It is killed, unless an archive is still to get the last of its data."""
    if not directory.root.exists():
        raise ClusterError(f"{directory.root} does not exist: nothing to destroy")
    if not (directory["layout.json"].exists() or directory["secrets.json"].exists() or directory["lock"].exists()):
        raise ClusterError(f"{directory.root} is no directory of a cluster: nothing was deleted")
    if not options.yes:
        if not sys.stdin.isatty():
            raise ClusterError(f"this deletes {directory.root} and all counts in it: say so with --yes")
        if input(f"Delete {directory.root} and all counts in it? [y/N] ").strip().lower() not in ("y", "yes"):
            return 1
    _stop(directory, console.Console(), at_once=not _is_archived(directory))
    shutil.rmtree(directory.root)
    console.Console().say(f"deleted {directory.root}")
    return 0


def scale(options: argparse.Namespace, directory: Directory) -> int:
    """Run another number of processes of a role, or of workers of one shard, now and at later starts."""
    name, number = options.count
    wanted = layout.scaled(_stored(directory), name, number)
    now = _order(directory, wanted, f"{name}={number}", {"counts": {name: number}})
    if now is not None:
        console.Console().table(now.processes, now.primary_names)
    return 0


def autoscale(options: argparse.Namespace, directory: Directory) -> int:
    """Run as many workers of each shard as it needs, by the age of its journal, and as many API processes, by the processor
    time that they use, until Ctrl-C."""
    waits = {"up_seconds": options.up, "down_seconds": options.down}
    try:
        workers = _rule(options.worker, high=options.late, low=options.early, **waits)
        api = _rule(options.api, high=options.busy, low=options.idle, **waits)
    except ValueError as error:
        raise ClusterError(str(error)) from error
    screen, usage = console.Console(), autoscaling.Usage()
    courses: dict[str, autoscaling.Course] = {}

    def look(name: str, rule: autoscaling.Rule, running: int, load: float | None, why: str) -> None:
        course = courses.get(name)
        if course is None or course.running != running:  # of `cluster scale`, or an order that failed
            course = autoscaling.Course(running, since=time.monotonic())
        courses[name] = autoscaling.look(rule, course, time.monotonic(), load)
        if (wanted := courses[name].running) == running:
            return
        try:
            wish = layout.scaled(_stored(directory), name, wanted)
            _order(directory, wish, f"{name}={wanted}", {"counts": {name: wanted}})
            screen.say(f"{name}={wanted}: {why}")
        except ClusterError as error:
            screen.say(str(error))

    while state.supervisor(now := _current(directory)) is not None:
        stored, ages = _stored(directory), lanes.ages(directory)
        for shard in range(stored.shards):
            age = ages[shard] if ages else None
            why = f"the journal's oldest entry waits for {age or 0:.1f} s"
            look(f"worker-{shard}", workers, stored.workers(shard), age, why)
        part = usage.look(time.monotonic(), state.processor_seconds(now, "api"))
        look("api", api, stored.scale["api"], part, f"each uses {part or 0:.0%} of a processor")
        time.sleep(LOOK_SECONDS)
    raise ClusterError("the cluster does not run")


def _rule(bounds: tuple[int, int], **more: float) -> autoscaling.Rule:
    least, most = bounds
    return autoscaling.Rule(least=least, most=most, **more)


def balance(options: argparse.Namespace, directory: Directory) -> int:
    """Show how nginx spreads requests over the API processes. With STRATEGY, change that, now and at later starts. Exit
    status 1: a process is left out. 2: there is no cluster."""
    if options.strategy:
        wanted = replace(_stored(directory), balancing=options.strategy)
        order = {"counts": {}, "balancing": options.strategy}
        _order(directory, wanted, f"the strategy {options.strategy}", order)
    shown = _show(_Balancing(directory), options)
    return WELL if options.strategy and shown == WRONG else shown


class _Balancing(Showing[tuple[str, dict[str, str]]]):
    """The strategy, and what nginx does with each API process: `serves`, or why it is left out."""

    def __init__(self, directory: Directory) -> None:
        self._directory = directory

    def look(self) -> tuple[str, dict[str, str]]:
        try:
            stored, now = _stored(self._directory), _current(self._directory)
        except ClusterError as error:
            raise Unseen(f"loadbalancer: {error}") from error
        out = now.front.get("left_out", {}) if state.supervisor(now) is not None else {}
        names = [str(row["name"]) for row in now.processes if row["role"] == "api"]
        return stored.balancing, {name: out.get(name, SERVES) for name in names}

    def document(self, found: tuple[str, dict[str, str]]) -> dict[str, Any]:
        strategy, processes = found
        return {"strategy": strategy, "processes": processes}

    def exit_status(self, found: tuple[str, dict[str, str]]) -> int:
        return WELL if all(what == SERVES for what in found[1].values()) else WRONG

    def page(self, found: tuple[str, dict[str, str]]) -> Group:
        strategy, processes = found
        return showing.lines([f"nginx: {strategy}", *(f"{name}: {what}" for name, what in processes.items())])


def _order(directory: Directory, wanted: Layout, what: str, order: Mapping[str, Any]) -> state.State | None:
    """Have the supervisor do this; the state afterwards. Where the cluster does not run, remember the wanted layout and
    return None."""
    now = _current(directory)
    if now.phase == "upgrading":
        raise ClusterError("the cluster is being upgraded: do this afterwards")
    if (supervisor := state.supervisor(now)) is None:
        prepare.check_connections(wanted, os.environ)
        layout.save(directory, wanted)
        console.Console().say(f"the cluster does not run; it will have {what} at the next `cluster up`")
        return None
    revision = now.revision + 1
    layout.write_private(directory["scale.json"], json.dumps({"revision": revision, **order}))
    supervisor.send_signal(background.RESCALE_SIGNAL)
    for _ in polling.attempts(SCALE_SECONDS, pause=0.1):
        now = _current(directory)
        if now.revision >= revision or state.supervisor(now) is None:
            break
    if now.revision < revision:
        raise ClusterError(f"the cluster does not get {what}: `cluster status`, and logs in {directory.logs}")
    if now.error:
        raise ClusterError(now.error)
    return now


def _stored(directory: Directory) -> Layout:
    stored = layout.load(directory)
    if stored is None:
        raise ClusterError(f"there is no cluster in {directory.root}: `cluster up` makes one")
    return stored


def _current(directory: Directory) -> state.State:
    if not directory["state.json"].exists():
        raise ClusterError(f"there is no cluster in {directory.root}: `cluster up` makes one, --dir names another")
    return state.current(directory)


def _is_archived(directory: Directory) -> bool:
    """Whether the cluster has an archive, as far as can be told."""
    with suppress(ClusterError):
        stored = layout.load(directory)
        return stored is not None and bool(stored.archive)
    return False


def _stop(directory: Directory, screen: console.Console, *, at_once: bool = False) -> None:
    if not directory.root.exists():
        raise ClusterError(f"there is no cluster in {directory.root}: nothing to stop")
    stopped = False
    for _ in polling.attempts(TAKEOVER_SECONDS, pause=0.1):
        stopped |= _stop_supervisor(directory, DESTROY_SECONDS if at_once else (STOP_SECONDS,))
        with suppress(ClusterError):  # another supervisor is taking over: stop that one
            lock = prepare.lock(directory)
            break
    else:
        lock = prepare.lock(directory)
    with lock:
        left = leftovers.stop(directory)
    screen.say("stopped" if stopped or left else "nothing was running")


def _stop_supervisor(directory: Directory, waits: Sequence[float]) -> bool:
    """Stop the supervisor that the state names, if it runs. Returns whether it did. It stops the cluster in order, and kills
    all at a second signal: there is one before each of the `waits` (seconds)."""
    supervisor = state.supervisor(state.read(directory))
    if supervisor is None:
        return False
    for seconds in waits:
        processes.send([supervisor], signal.SIGTERM)
        if not processes.wait([supervisor], seconds):
            return True
    raise ClusterError(f"pid {supervisor.pid} does not stop: see {directory.log('supervisor')}, or kill it")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="manage.py cluster", description="The local cluster of Tally.")
    commands = parser.add_subparsers(required=True, metavar=NAMES)

    def add(name: str, command: Callable[[argparse.Namespace, Directory], int]) -> argparse.ArgumentParser:
        sub = commands.add_parser(name, help=(command.__doc__ or "").splitlines()[0], description=command.__doc__)
        _add_directory(sub)
        sub.set_defaults(command=command)
        return sub

    starting = add("up", up)
    starting.add_argument(
        "--shards", type=_whole(1, 64), help="PostgreSQL clusters to spread counters over (default: 2)"
    )
    starting.add_argument("--replicas", type=_whole(0, 8), help="streaming replicas of each shard (default: 1)")
    starting.add_argument("--api", type=_whole(*layout.SCALABLE["api"]), help="API processes (default: 2)")
    starting.add_argument(
        "--port", type=_whole(0, 65535), help="port of the API on 127.0.0.1 (default: 8000; 0: any free)"
    )
    starting.add_argument(
        "--broker", type=_broker, metavar="URL", help="Celery's broker for this run (default: a Redis of its own)"
    )
    starting.add_argument(
        "--journal-replicas",
        type=_whole(0, 2),
        help="servers with a copy of the journal, all of which have a write before it is accepted (default: 0)",
    )
    starting.add_argument(
        "--apply-delay", type=_delay, metavar="TIME", help=f"lag of each replica: {RULE} (default: as it was)"
    )
    starting.add_argument(
        "--quorum",
        type=_whole(0, 8),
        metavar="N",
        help="replicas that must confirm a commit before it returns; kept for later starts (a new cluster: 0)",
    )
    starting.add_argument(
        "--archive",
        type=_archive,
        metavar="DIR",
        help="archive all WAL and the journal to this directory, for `manage.py backup`; kept for later starts, `none` ends it",
    )
    starting.add_argument(
        "--monitoring",
        action=argparse.BooleanOptionalAction,
        help="start Prometheus as well, and Grafana if it is installed; kept for later starts (a new cluster: neither)",
    )
    starting.add_argument(
        "--shared-buffers",
        type=_size,
        metavar="SIZE",
        help="memory in which each PostgreSQL server keeps pages, such as 512MB; kept for later starts (a new cluster: 128MB)",
    )
    starting.add_argument(
        "--detach", action="store_true", help="return when ready; the cluster stays in the background"
    )
    showing.add_arguments(add("status", status))
    add("down", down)
    add("destroy", destroy).add_argument("--yes", action="store_true", help="do not ask")
    add("scale", scale).add_argument(
        "count", type=_role_count, metavar="ROLE=N", help=f"{SCALED}; `worker` is for every shard"
    )
    scaling = add("autoscale", autoscale)
    for role, bounds, what in (
        ("worker", (1, 4), "workers of each shard"),
        ("api", (API.least, API.most), "API processes"),
    ):
        scaling.add_argument(
            f"--{role}",
            type=functools.partial(_bounds, role),
            default=bounds,
            metavar="N-M",
            help=f"{what}, at least and at most (default: {bounds[0]}-{bounds[1]})",
        )
    for name, value, what in (
        ("busy", API.high, "API processes that each use more than this part of a processor ask for one more"),
        ("idle", API.low, "API processes that each use less may be one less"),
    ):
        scaling.add_argument(
            f"--{name}", type=_seconds, default=value, metavar="PART", help=f"{what} (default: {value:g})"
        )
    usual = autoscaling.Rule(least=1, most=1)
    for name, value, what in (
        ("late", usual.high, "an entry that waits for so many seconds asks for a worker more"),
        ("early", usual.low, "with entries that wait for less there may be a worker less"),
        ("up", usual.up_seconds, "seconds of too much before there is a process more"),
        ("down", usual.down_seconds, "seconds of too little before there is a process less"),
    ):
        scaling.add_argument(
            f"--{name}", type=_seconds, default=value, metavar="SECONDS", help=f"{what} (default: {value:g})"
        )
    upgrading = add("upgrade", upgrade)
    upgrading.add_argument(
        "--all", action="store_true", help="replace also what runs this code, with these programs and settings, already"
    )
    upgrading.add_argument("--stay", action="store_true", help=argparse.SUPPRESS)  # the new supervisor itself
    return parser


def _add_directory(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--dir", default=str(layout.PROJECT / ".cluster"), help="the cluster's directory (default: .cluster)"
    )


def _directory(options: argparse.Namespace) -> Directory:
    return Directory(Path(options.dir).expanduser().resolve())


def _whole(least: int, most: int) -> Callable[[str], int]:
    def parse(text: str) -> int:
        if not text.isascii() or not text.isdigit() or not least <= int(text) <= most:
            raise argparse.ArgumentTypeError(f"{text!r} is not a whole number from {least} to {most}")
        return int(text)

    return parse


def _bounds(role: str, text: str) -> tuple[int, int]:
    least, _, most = text.partition("-")
    whole = _whole(1, layout.SCALABLE[role][1])
    return whole(least), whole(most or least)


def _seconds(text: str) -> float:
    if not re.fullmatch(r"\d+(\.\d+)?", text, re.ASCII):
        raise argparse.ArgumentTypeError(f"{text!r} is no number of seconds")
    return float(text)


def _broker(text: str) -> str:
    if not text.startswith(BROKERS):
        raise argparse.ArgumentTypeError(f"{text!r} does not begin with one of {', '.join(BROKERS)}")
    return text


def _archive(text: str) -> str:
    return "" if text in {"", "none"} else str(Path(text).expanduser().resolve())


def _size(text: str) -> str:
    if not re.fullmatch(r"[1-9][0-9]{0,5}(kB|MB|GB)", text):
        raise argparse.ArgumentTypeError(f"{text!r} is not a number of kB, MB or GB, such as 512MB")
    return text


def _delay(text: str) -> ApplyDelay:
    try:
        return ApplyDelay.parse(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(f"{text!r} is not {error}") from error


def _role_count(text: str) -> tuple[str, int]:
    name, _, number = text.partition("=")
    role = layout.role_of(name)
    if role is None:
        raise argparse.ArgumentTypeError(f"{text!r} is not ROLE=N with ROLE one of {SCALED}")
    return name, _whole(*layout.SCALABLE[role])(number)
