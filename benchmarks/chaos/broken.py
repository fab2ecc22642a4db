"""Builds broken on purpose, to see that the bench notices: a copy of the work tree with one change, and the faults that expose it.

The product has no switch for any of this. Each must be caught within two minutes of `--break NAME`.
"""

from __future__ import annotations

import shutil
import subprocess
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console

from benchmarks.chaos import kills, report, subject
from benchmarks.chaos.fault import Fault

QUIET_SECONDS = 20.0  # a broken build may never come to rest, and that is a finding as well


@dataclass(frozen=True)
class Break:
    """A change of one file, and what brings it to light."""

    invariant: str
    path: str
    changes: Sequence[tuple[str, str]]
    faults: Sequence[Fault]


BREAKS = {
    "ledger": Break(
        "I2: a batch counts once",
        "counters/apply/transaction.py",
        [
            ("fresh = [placed for placed, id in zip(window.batches, ids, strict=True) if id in new]", "fresh = list(window.batches)"),
            ('%s::bigint[], %s::bigint[], %s::text[])"""', '%s::bigint[], %s::bigint[], %s::text[]) ON CONFLICT DO NOTHING"""'),
        ],
        [kills.CUT_OFF_AND_KILL_WORKER],
    ),
    "completion": Break(
        "I3: completed is replicated",
        "counters/apply/completion.py",
        [("flush.flushed(conn, settings.TALLY.replicas_required_of(self.shard))", "self._commits[-1].written")],
        [kills.CUT_OFF_AND_KILL_PRIMARY],
    ),
    "answer": Break(
        "I1: acknowledged is durable",
        "counters/intake/writes.py",
        [
            ("    try:\n        appended = journal.append", "{early}    try:\n        appended = journal.append"),
            ("{answer}    ACCEPTED.inc", "    ACCEPTED.inc"),
        ],
        [kills.KILL_JOURNAL],
    ),
}
_ANSWER = """    for write, write_id in zip(writes, ids, strict=True):
        write.accepted.resolve(Accepted(write_id))
"""
_EARLY = """    for write, write_id in zip(writes, ids, strict=True):
        if not write.accepted.done:
            write.accepted.resolve(Accepted(write_id))
"""


def copy_of_the_tree(target: Path) -> None:
    """All that git knows or would add."""
    command = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    names = subprocess.run(command, cwd=report.ROOT, check=True, capture_output=True, text=True).stdout.split("\0")  # noqa: S603
    for name in filter(None, names):
        if (report.ROOT / name).is_file():
            (target / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(report.ROOT / name, target / name)


def apply(one: Break, tree: Path) -> None:
    """Make the change; raises `SystemExit` if the code is not what the change was written for."""
    path = tree / one.path
    text = path.read_text()
    for old, new in one.changes:
        wanted, given = (part.replace("{answer}", _ANSWER).replace("{early}", _EARLY) for part in (old, new))
        if text.count(wanted) != 1:
            raise SystemExit(f"{one.path} has changed: benchmarks/chaos/broken.py must be changed with it ({wanted.strip()!r})")
        text = text.replace(wanted, given)
    path.write_text(text)


def main(name: str, seed: int, console: Console) -> int:
    """Build it, break it, run it: exit status 0 if it was caught."""
    from benchmarks.chaos.__main__ import run_trial  # noqa: PLC0415 - the command imports this module

    one, began = BREAKS[name], time.monotonic()
    with tempfile.TemporaryDirectory(prefix=f"tally-broken-{name}-") as temporary:
        tree, directory = Path(temporary) / "tree", Path(temporary) / "cluster"
        copy_of_the_tree(tree)
        apply(one, tree)
        console.print(f"a build without {one.invariant}, in {tree}")
        directory.mkdir()
        cluster = subject.start(directory, tree)
        try:
            outcome = run_trial(cluster, one.faults, seed=seed, minutes=0.1, count=2, quiet_seconds=QUIET_SECONDS)
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
