"""The picture: throughput, copies and backlog over time, faults marked."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from statistics import fmean

import matplotlib as mpl
import matplotlib.pyplot as plt
from matplotlib.axes import Axes

from benchmarks.chaos.load import Load
from benchmarks.chaos.sampler import Copies, Sample
from benchmarks.chaos.trial import Trial
from benchmarks.chaos.verdict import Verdict
from benchmarks.style import BLUE as WRITES
from benchmarks.style import GRID, MUTED, STYLE
from benchmarks.style import ORANGE as BACKLOG

READS = "#8a9ba8"
FEWER, NONE = "#f0a030", "#c0392b"  # copies of a shard
FAMILIES = {  # what a fault hits → (label, colour, marker)
    "postgres": ("databases, etcd", "#7a3e9d", "v"),
    "redis": ("Redis", "#c0392b", "s"),
    "worker": ("workers, queue", "#2e7d32", "o"),
    "front": ("API, nginx", "#0b6e99", "D"),
}
ROOM = 1.25  # above the curves, for the legend
POINTS = 500  # of a curve, at most: more of them are a band
FEW = 150  # faults, of which each is seen by itself: its mark, and how long until the cluster was whole
_HITS = (
    *(
        (word, "postgres")
        for word in ("primary", "replica", "node", "patroni", "etcd", "directory", "page", "replication")
    ),
    *((word, "redis") for word in ("redis", "journal", "cache")),
    *((word, "worker") for word in ("worker", "beat", "queue", "message")),
)


def family_of(name: str) -> str:
    """What a fault of this name hits."""
    return next((family for word, family in _HITS if word in name), "front")


def thinned(samples: Sequence[Sample], points: int = POINTS) -> list[Sample]:
    """At most so many samples, each for several: the middle of the time, mean rates, and the largest backlog, None if the
    journal never answered."""
    size = -(-len(samples) // points)
    found = []
    for start in range(0, len(samples), size or 1):
        some = samples[start : start + size]
        depths = [sample.depth for sample in some if sample.depth is not None]
        found.append(
            Sample(
                fmean(sample.at for sample in some),
                fmean(sample.writes for sample in some),
                fmean(sample.reads for sample in some),
                max(depths, default=None),
            )
        )
    return found


def draw(path: Path, trial: Trial, load: Load, verdict: Verdict, title: str) -> None:
    """Write the picture."""
    every = load.sampler.samples
    samples = thinned(every)
    few = sum(not one.skipped for one in trial.struck) <= FEW
    with mpl.rc_context(STYLE):  # type: ignore[arg-type]
        figure, (top, marks, bottom) = plt.subplots(
            3, 1, sharex=True, figsize=(11, 6.2), height_ratios=(5, 1.5, 3), gridspec_kw={"hspace": 0.08}
        )
        minutes = [(sample.at - trial.started) / 60 for sample in samples]
        _throughput(top, minutes, samples)
        _faults(marks, trial, size=26 if few else 9)
        _copies(marks, trial, load.copies.samples)
        away = [(sample.at - trial.started) / 60 for sample in every if sample.depth is None]
        _backlog(bottom, minutes, samples, away)
        for axes in (top, marks, bottom):
            for one in trial.struck if few else ():
                if not one.skipped:
                    axes.axvspan(
                        (one.at - trial.started) / 60,
                        (one.whole_at - trial.started) / 60,
                        color="#f6f7f8",
                        lw=0,
                        zorder=0,
                    )
            axes.spines[["top", "right", "left"]].set_visible(False)
            axes.tick_params(length=0)
        bottom.set_xlabel("minutes")
        bottom.set_xlim(0, max(minutes, default=1))
        figure.suptitle(title, x=0.12, y=0.975, ha="left", fontsize=13, fontweight="bold")
        figure.text(0.12, 0.895, _subtitle(trial, load, verdict, few=few), color=MUTED, fontsize=9.5)
        figure.subplots_adjust(left=0.12, right=0.985, top=0.86, bottom=0.08)
        path.parent.mkdir(parents=True, exist_ok=True)
        figure.savefig(path, dpi=150, facecolor="white")
        plt.close(figure)


def _subtitle(trial: Trial, load: Load, verdict: Verdict, *, few: bool) -> str:
    done = sum(not one.skipped for one in trial.struck)
    writes, keys = verdict.figures.get("writes acknowledged", 0), verdict.figures.get("keys", 0)
    word = "every key exact, primary = replica" if verdict.exact else f"{len(verdict.findings)} differences"
    promoted = verdict.figures.get("primaries promoted", 0)
    told = f"{done} faults, {promoted} primaries promoted, {writes:,} acknowledged writes on {keys:,} keys: {word}."
    full = max((sample.least for sample in load.copies.samples), default=0)
    share = fmean(sample.least == full for sample in load.copies.samples) if load.copies.samples else 0
    redundancy = f"Every shard had all copies {share:.0%} of the time (orange: one had fewer; red: one took no writes)."
    return f"{told}\n{redundancy}{' Grey: until the cluster was whole again.' if few else ''}"


def _throughput(axes: Axes, minutes: Sequence[float], samples: Sequence[Sample]) -> None:
    axes.plot(minutes, [sample.reads for sample in samples], color=READS, lw=0.9, label="reads answered/s")
    axes.plot(minutes, [sample.writes for sample in samples], color=WRITES, lw=1.2, label="writes accepted/s")
    axes.set_ylim(0, axes.get_ylim()[1] * ROOM)
    axes.grid(axis="y", color=GRID, lw=0.7)
    axes.set_ylabel("requests/s")
    axes.legend(loc="upper right", frameon=True, framealpha=0.9, edgecolor="none", ncols=2)


def _faults(axes: Axes, trial: Trial, size: float) -> None:
    order = list(FAMILIES)
    for row, (family, (_, colour, marker)) in enumerate(FAMILIES.items()):
        at = [
            (one.at - trial.started) / 60 for one in trial.struck if not one.skipped and family_of(one.name) == family
        ]
        axes.axhline(row, color=GRID, lw=0.7, zorder=1)
        axes.scatter(at, [row] * len(at), s=size, color=colour, marker=marker, zorder=3, linewidths=0)
    axes.set_ylim(len(order) + 0.6, -0.6)
    axes.set_yticks(range(len(order) + 1), [*(label for label, _, _ in FAMILIES.values()), "copies, fewest"])


def _copies(axes: Axes, trial: Trial, samples: Sequence[Copies]) -> None:
    """A bar for the shard with the fewest copies: pale while it has all, red while it has none that takes writes."""
    full = max((sample.least for sample in samples), default=0)
    spans: dict[str, list[tuple[float, float]]] = {}
    for before, after in pairwise(samples):
        colour = GRID if before.least == full else FEWER if before.least else NONE
        spans.setdefault(colour, []).append(((before.at - trial.started) / 60, (after.at - before.at) / 60))
    for colour, bars in spans.items():
        axes.broken_barh(bars, (len(FAMILIES) - 0.3, 0.6), color=colour, lw=0)


def _backlog(axes: Axes, minutes: Sequence[float], samples: Sequence[Sample], away: Sequence[float]) -> None:
    depths = [float("nan") if sample.depth is None else float(sample.depth) for sample in samples]
    axes.fill_between(minutes, depths, color=BACKLOG, alpha=0.18, lw=0)
    axes.plot(
        minutes, depths, color=BACKLOG, lw=1.1, label="batches in the journal (accepted, not yet safe on a replica)"
    )
    axes.scatter(away, [0] * len(away), marker="x", s=12, color="#c0392b", zorder=4, label="journal away", linewidths=1)
    axes.set_ylim(0, axes.get_ylim()[1] * ROOM)
    axes.grid(axis="y", color=GRID, lw=0.7)
    axes.set_ylabel("batches")
    axes.legend(loc="upper right", frameon=True, framealpha=0.9, edgecolor="none")
