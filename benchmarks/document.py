"""What a run found: figures, curves and checks, kept in `results/bench.json`; a part of a run replaces its own figures
only."""

from __future__ import annotations

import json
import os
import platform
import statistics
import subprocess
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal

import msgspec
import psutil

ROOT = Path(__file__).resolve().parent.parent
PATH = ROOT / "benchmarks/results/bench.json"


class Goal(msgspec.Struct, frozen=True):
    """What is to be reached: the figure's value, or its ratio to the peer, at least or at most so much."""

    of: Literal["ratio", "value"]
    bound: Literal["≥", "≤"]
    number: float

    def __str__(self) -> str:
        return f"{self.of} {self.bound} {self.number:g}"

    def met(self, value: float, ratio: float | None) -> bool:
        """Whether it is."""
        found = ratio if self.of == "ratio" else value
        return found is not None and (found >= self.number if self.bound == "≥" else found <= self.number)


class Figure(msgspec.Struct, kw_only=True):
    """One line of the table. `value` and `peer_value` are medians in `unit`, `ratio` the first by the second.

    `spread`: (most - least) of the samples in percent of the median. `of`: what was measured for it, by the name of
    `ONLY=`.
    """

    name: str
    value: float
    unit: str
    peer: str | None = None
    peer_value: float | None = None
    ratio: float | None = None
    goal: str | None = None
    met: bool | None = None
    of: str = ""
    spread: float = 0.0
    peer_spread: float = 0.0
    samples: list[float] = []
    peer_samples: list[float] = []
    note: str = ""
    commit: str = ""
    at: str = ""


class Part(msgspec.Struct, kw_only=True):
    """What one figure module found. `curves`: for pictures, by name. `checks`: a line for each comparison of counts.

    `wrong`: counts that differ, each a sentence; any of them makes the run invalid.
    """

    figures: list[Figure] = []
    curves: dict[str, Any] = {}
    details: dict[str, Any] = {}
    checks: list[str] = []
    wrong: list[str] = []


def figure(  # noqa: PLR0913
    name: str,
    unit: str,
    samples: Sequence[float],
    *,
    peer: str | None = None,
    peer_samples: Sequence[float] = (),
    goal: Goal | None = None,
    note: str = "",
) -> Figure:
    """A figure out of its samples, one at least."""
    value, spread = median_and_spread(samples)
    peer_value, peer_spread = median_and_spread(peer_samples) if peer_samples else (None, 0.0)
    ratio = value / peer_value if peer_value else None
    return Figure(
        name=name,
        value=value,
        unit=unit,
        peer=peer,
        peer_value=peer_value,
        ratio=ratio,
        goal=str(goal) if goal else None,
        met=goal.met(value, ratio) if goal else None,
        spread=spread,
        peer_spread=peer_spread,
        samples=list(samples),
        peer_samples=list(peer_samples),
        note=note,
    )


def median_and_spread(samples: Sequence[float]) -> tuple[float, float]:
    """The median, and (most - least) in percent of it."""
    median = statistics.median(samples)
    return median, 100 * (max(samples) - min(samples)) / median if median else 0.0


def machine() -> dict[str, Any]:
    """Where it ran."""
    return {
        "system": f"{platform.system()} {platform.release()} {platform.machine()}",
        "processor": _processor(),
        "cores": os.cpu_count(),
        "memory_gib": round(psutil.virtual_memory().total / 2**30),
        "python": platform.python_version(),
    }


def where(machine: dict[str, Any]) -> str:
    """The machine in a line."""
    return f"{machine['cores']} cores ({machine['processor']}), {machine['memory_gib']} GiB, {machine['system']}"


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor() or "unknown"
    return next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), "unknown")


def commit() -> str:
    """The commit of the work tree; `-dirty` if it has changes."""
    done = subprocess.run(
        ["git", "describe", "--always", "--dirty", "--exclude", "*"],  # noqa: S607
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    return done.stdout.strip() or "unknown"


def load(path: Path = PATH) -> dict[str, Any]:
    """The document as it is; an empty one where there is none."""
    try:
        found: dict[str, Any] = json.loads(path.read_text())
    except FileNotFoundError:
        return {"figures": []}
    return found


def merge(old: dict[str, Any], parts: dict[str, Part], order: Sequence[str], minutes: float) -> dict[str, Any]:
    """The document after a run: `parts` replace what was there of the same name, the rest stays with its commit and
    time."""
    now, this = datetime.now(UTC).isoformat(timespec="seconds"), commit()
    figures = [one for one in old["figures"] if one["of"] not in parts]
    for name, part in parts.items():
        for one in part.figures:
            one.of, one.at, one.commit = name, now, this
            figures.append(msgspec.to_builtins(one))
    figures.sort(key=lambda one: order.index(one["of"]) if one["of"] in order else len(order))
    kept: dict[str, Any] = {
        "figures": figures,
        "machine": machine(),
        "commit": this,
        "at": now,
        "minutes": round(minutes, 1),
    }
    for kind in ("curves", "details", "checks", "wrong"):
        kept[kind] = {**old.get(kind, {}), **{name: getattr(part, kind) for name, part in parts.items()}}
    return kept


def save(document: dict[str, Any], path: Path = PATH) -> None:
    """Write it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(_rounded(document), indent=1, ensure_ascii=False) + "\n")


def _rounded(value: Any) -> Any:
    """Five digits are more than a measurement has."""
    if isinstance(value, float):
        return float(f"{value:.5g}")
    if isinstance(value, dict):
        return {key: _rounded(one) for key, one in value.items()}
    return [_rounded(one) for one in value] if isinstance(value, list) else value
