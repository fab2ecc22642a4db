"""Deliberately broken builds that the bench must catch: a copy of the work tree with one change, and the faults that
expose it.

The product has no switch for any of this. `--break NAME` must catch each within two minutes.

`ledger`: doubled messages and lost leases make two shifts of a lane read the same batches. Without the ledger both
count them.

`lock`: even without the lane's lock, the ledger keeps two shifts apart if each transaction inserts into it first. The
second shift's window starts where the lane's committed batches end, so it contains every batch that the first shift has
not committed yet. Its insert into the ledger waits for that commit, and the rows it reads afterwards are current. So
this build also reverses the order: it reads rows first and inserts into the ledger last, which is equally safe under a
lock. Without the lock, the second shift computes a value from a row that the first has changed meanwhile, and overwrites
the first shift's value. Increments without a waiting client stay correct, because they are added in place. So a crowd
increments one key of each shard and waits for the results. Every shift gets the lease, so that the shifts that doubled
messages start overlap.

`likes`: a window with several events of a user and an item counts each of them against the state before the window.
`quick-look`: the cache's Redis knows an event of a user and an item, so every later one of theirs counts as a repeat.

`spill`, `stale`: limits are small, so that increments are spilled. The spill queues have a completion of their own, and a
deferred batch is twice in the ledger: once for what was applied, once for what was deferred.
"""

from __future__ import annotations

import shutil
import subprocess
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console

from benchmarks.chaos import kills, limits, report, subject
from benchmarks.chaos.fault import Fault
from benchmarks.chaos.freezes import FREEZE_WORKER
from benchmarks.chaos.messages import DOUBLE_MESSAGES

QUIET_SECONDS = 20.0  # a broken build may never become quiet, which is also a finding
CROWD = 8


@dataclass(frozen=True)
class Break:
    """A broken build. `missing`: what it lacks. `changes`: (old text, new text) pairs by file path. `faults` expose it.

    `crowd`: see `Load`. `small_limits`: see `limits`.
    """

    missing: str
    changes: Mapping[str, Sequence[tuple[str, str]]]
    faults: Sequence[Fault]
    crowd: int = 0
    small_limits: bool = False


_ANSWER = """        for one, write_id in zip(writes, ids, strict=True):
            one.answer(Accepted(write_id, one.shed, version=appended.position + write_id.index))
"""
_ANSWER_EARLY = _ANSWER.replace("appended.position", "0")
_APPEND = """        try:
            appended = await self._appender.append(flush)
"""
_ENTERED = """        entered = conn.execute(LEDGER, (lane.place, ids, positions, writes, left))
"""
_ROWS = """        rows = conn.execute(READ_ROWS, wanted(reads)) if reads else ()
"""

BREAKS = {
    "ledger": Break(
        "I2: a batch counts once",
        {
            "counters/apply/transaction.py": [
                (
                    "fresh = [placed for placed in window.batches if placed.batch.id in new]",
                    "fresh = list(window.batches)",
                ),
                (
                    '%s::bigint[], %s::bigint[], %s::text[], %s::integer[])"""',
                    '%s::bigint[], %s::bigint[], %s::text[], %s::integer[]) ON CONFLICT DO NOTHING"""',
                ),
            ]
        },
        [DOUBLE_MESSAGES],
        crowd=CROWD,
    ),
    "lock": Break(
        "I2: one transaction of a lane at a time",
        {
            "counters/apply/transaction.py": [
                (
                    "SELECT pg_advisory_xact_lock(%s, %s), {flush.MISSING}",
                    "SELECT %s::integer + %s::integer, {flush.MISSING}",
                ),
                (_ENTERED, ""),
                (_ROWS, _ROWS + _ENTERED),
            ],
            "counters/intake/lua/hold.lua": [("if live and held[2] and held[2] ~= ARGV[1] then return 0 end", "")],
        },
        [DOUBLE_MESSAGES],
        crowd=CROWD,
    ),
    "completion": Break(
        "I3: completed is replicated",
        {
            "counters/apply/completion.py": [
                (
                    "flush.flushed(conn, settings.TALLY.replicas_required_of(self.lane.shard))",
                    "self._commits[-1].written",
                )
            ]
        },
        [kills.CUT_OFF_AND_KILL_PRIMARY],
    ),
    "answer": Break(
        "I1: acknowledged is durable",
        {
            "counters/intake/intake.py": [
                (_APPEND, _ANSWER_EARLY + _APPEND),
                (f"{_ANSWER}        ACCEPTED.inc", "        ACCEPTED.inc"),
            ]
        },
        [kills.KILL_JOURNAL],
    ),
    "likes": Break(
        "the count of an item is the number of its likers",
        {
            "likes/applying.py": [
                (
                    "was_liked = state is not None and state.liked",
                    "was_liked = before is not None and before.liked",
                )
            ]
        },
        [DOUBLE_MESSAGES],
    ),
    "quick-look": Break(
        "an event is answered without a write only if it changes nothing",
        {"likes/recent.py": [("        if event.id != self.id:\n            return False\n", "")]},
        [DOUBLE_MESSAGES],
    ),
    "spill": Break(
        "I3: what was spilled is replicated before it is forgotten",
        {
            "counters/apply/completion.py": [
                (
                    "flush.flushed(conn, settings.TALLY.replicas_required_of(self.lane.shard))",
                    "self._commits[-1].written if self.lane.spills else "
                    "flush.flushed(conn, settings.TALLY.replicas_required_of(self.lane.shard))",
                )
            ]
        },
        [kills.CUT_OFF_AND_KILL_PRIMARY],
        small_limits=True,
    ),
    "stale": Break(
        "I2: what is deferred is counted in the stale queue alone",
        {
            "counters/apply/loading.py": [
                ("after._take(Placed(placed.position, placed.batch.conditional))", "after._take(placed)")
            ]
        },
        [FREEZE_WORKER],
        small_limits=True,
    ),
}


def copy_of_the_tree(target: Path) -> None:
    """All that git knows or would add."""
    command = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    names = subprocess.run(command, cwd=report.ROOT, check=True, capture_output=True, text=True).stdout.split("\0")  # noqa: S603
    for name in filter(None, names):
        if (report.ROOT / name).is_file():
            (target / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(report.ROOT / name, target / name)


def apply(one: Break, tree: Path) -> None:
    """Make the changes; raises `SystemExit` if the code is not what the change was written for."""
    for name, changes in one.changes.items():
        text = (tree / name).read_text()
        for old, new in changes:
            if text.count(old) != 1:
                raise SystemExit(
                    f"{name} has changed: benchmarks/chaos/broken.py must be changed with it ({old.strip()!r})"
                )
            text = text.replace(old, new)
        (tree / name).write_text(text)


def main(name: str, seed: int, console: Console) -> int:
    """Build it, break it, run it: exit status 0 if it was caught."""
    from benchmarks.chaos.__main__ import run_trial  # noqa: PLC0415 - the command imports this module

    one, began = BREAKS[name], time.monotonic()
    with tempfile.TemporaryDirectory(prefix=f"tally-broken-{name}-") as temporary:
        tree, directory = Path(temporary) / "tree", Path(temporary) / "cluster"
        copy_of_the_tree(tree)
        apply(one, tree)
        console.print(f"a build without {one.missing}, in {tree}")
        directory.mkdir()
        cluster = subject.start(directory, tree, environment=limits.environment(directory, small=one.small_limits))
        try:
            outcome = run_trial(
                cluster, one.faults, seed=seed, minutes=0.1, count=2, crowd=one.crowd, quiet_seconds=QUIET_SECONDS
            )
        finally:
            subject.put_away(cluster, keep=False)
    for figure in ("increments acknowledged", "increments lost", "increments counted twice"):
        console.print(f"  {outcome.verdict.figures.get(figure, 0):>10,}  {figure}", highlight=False)
    findings = sorted(outcome.verdict.findings, key=lambda finding: ": counted " not in finding)
    for finding in findings[:5]:
        console.print(f"  difference: {finding}", highlight=False, soft_wrap=True)
    caught = not outcome.verdict.exact
    seconds = time.monotonic() - began
    console.print(f"verdict: {'caught' if caught else 'NOT CAUGHT'} in {seconds:.0f} s ({len(findings)} findings)")
    return 0 if caught else 1
