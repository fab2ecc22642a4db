"""What a trial showed: a table for people, chaos.json for machines.

`python -m benchmarks.chaos.report FILE…` prints the table of several rounds together, as docs/reliability.md has it.
"""

from __future__ import annotations

import json
import os
import platform
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from statistics import median
from typing import Any

import psutil
from rich.console import Console
from rich.table import Table

from benchmarks.chaos.trial import Cost, Trial
from benchmarks.chaos.verdict import Verdict

OVERTAKEN = "-"  # the next fault always came before all was whole
ROOT = Path(__file__).resolve().parent.parent.parent


def table(costs: Sequence[Cost]) -> Table:
    """What each fault cost."""
    shown = Table(title="Faults: seconds, median / most", title_justify="left")
    shown.add_column("fault", no_wrap=True)
    shown.add_column("count", justify="right")
    for name in ("until whole", "no write accepted", "no result", "no read"):
        shown.add_column(name, justify="right", no_wrap=True)
    for cost in costs:
        count = f"{cost.count}" + (f" (+{cost.skipped} not possible)" if cost.skipped else "")
        pairs = [
            f"{middle:.2f} / {most:.2f}" for middle, most in (cost.recovery, cost.writes, cost.results, cost.reads)
        ]
        if cost.overtaken == cost.count:
            pairs[0] = OVERTAKEN
        shown.add_row(cost.name, count, *pairs, end_section=cost.name == "(no fault)")
    return shown


def beside(setups: Mapping[str, Mapping[str, int]]) -> Table:
    """Losses and doubles of several setups."""
    shown = Table(title="The same kills of workers", title_justify="left")
    shown.add_column("")
    for name in ("kills", "acknowledged", "lost", "doubled"):
        shown.add_column(name, justify="right")
    for setup, figures in setups.items():
        shown.add_row(setup, *(f"{figures[name]:,}" for name in ("kills", "acknowledged", "lost", "doubled")))
    return shown


def show(console: Console, verdict: Verdict, costs: Sequence[Cost]) -> None:
    """Table, figures, verdict."""
    console.print(table(costs))
    for name, figure in verdict.figures.items():
        console.print(f"  {figure:>12,}  {name}", highlight=False)
    for finding in verdict.findings:
        console.print(f"  [red]difference[/red]: {finding}", highlight=False, soft_wrap=True)
    word = (
        "[bold green]exact[/bold green]"
        if verdict.exact
        else f"[bold red]NOT EXACT[/bold red] ({len(verdict.findings)} findings)"
    )
    console.print(f"verdict: {word}")


def document(
    verdict: Verdict, costs: Sequence[Cost], trial: Trial, *, seed: int, stock: Mapping[str, Any] | None
) -> dict[str, Any]:
    """All of it."""
    return {
        "at": datetime.now(UTC).isoformat(timespec="seconds"),
        "commit": _git("describe", "--always", "--dirty"),
        "machine": machine(),
        "seed": seed,
        "minutes": round((trial.stopped - trial.started) / 60, 2),
        "faults": sum(not one.skipped for one in trial.struck),
        "verdict": "exact" if verdict.exact else "not exact",
        "findings": verdict.findings,
        "figures": verdict.figures,
        "seconds": "median and most: until whole, and the longest times without an accepted write, without a result, without a read",
        "table": [asdict(cost) for cost in costs],
        "order": [
            [one.name, one.victim, round(one.at - trial.started, 1), None if one.overtaken else round(one.recovery, 1)]
            for one in trial.struck
        ],
        "stock": stock,
    }


def save(path: Path, found: Mapping[str, Any]) -> None:
    """Write a document."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(found, indent=1) + "\n")


def machine() -> dict[str, Any]:
    """Where it ran."""
    return {
        "system": f"{platform.system()} {platform.release()} {platform.machine()}",
        "cores": os.cpu_count(),
        "memory_gib": round(psutil.virtual_memory().total / 2**30),
        "python": platform.python_version(),
    }


def _git(*arguments: str) -> str:
    done = subprocess.run(["git", *arguments], cwd=ROOT, capture_output=True, text=True, check=False)  # noqa: S603, S607
    return done.stdout.strip() or "unknown"


def together(rounds: Sequence[Mapping[str, Any]]) -> list[str]:
    """The table of several documents in Markdown: the median of their medians, and the most of all."""
    lines = [
        "| fault | times | until whole | no write accepted | no result | no read |",
        "| --- | --- | --- | --- | --- | --- |",
    ]
    for name in dict.fromkeys(row["name"] for one in rounds for row in one["table"]):
        rows = [row for one in rounds for row in one["table"] if row["name"] == name and row["count"]]
        if not rows:
            continue
        recovered = [row for row in rows if row.get("overtaken", 0) < row["count"]]
        pairs = [_pair(recovered, "recovery"), *(_pair(rows, kind) for kind in ("writes", "results", "reads"))]
        lines.append(f"| {name} | {sum(row['count'] for row in rows)} | {' | '.join(pairs)} |")
    return lines


def _pair(rows: Sequence[Mapping[str, Any]], kind: str) -> str:
    return (
        f"{median(row[kind][0] for row in rows):.1f} / {max(row[kind][1] for row in rows):.1f}" if rows else OVERTAKEN
    )


if __name__ == "__main__":
    sys.stdout.write("\n".join([*together([json.loads(Path(name).read_text()) for name in sys.argv[1:]]), ""]))
