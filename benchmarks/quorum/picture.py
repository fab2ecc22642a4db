"""The picture: latency to commit against the quorum, beside the delay of the follower that decides it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import matplotlib as mpl

mpl.use("Agg")
import matplotlib.pyplot as plt
from matplotlib.axes import Axes

from benchmarks.quorum.report import FOLLOWERS, Found, Latency

INK, MUTED, GRID, BLUE, ORANGE = "#1f2933", "#66737f", "#e3e7eb", "#0b6e99", "#c2571a"
STYLE: dict[str, Any] = {
    "font.family": "DejaVu Sans",
    "font.size": 9.5,
    "axes.edgecolor": GRID,
    "text.color": INK,
    "axes.labelcolor": MUTED,
    "xtick.color": MUTED,
    "ytick.color": MUTED,
}


def draw(found: Found, path: Path) -> None:
    """Write the picture: one half for few keys, one for many."""
    with mpl.rc_context(STYLE):  # type: ignore[arg-type]
        figure, halves = plt.subplots(1, 2, sharey=True, figsize=(11, 4.9), gridspec_kw={"wspace": 0.06})
        for number, axes in enumerate(halves):
            steady, burst = ([one for step in found.steps for one in step.latencies if one.load == load] for load in ("steady", "burst"))
            keys = sorted({one.keys for one in steady})[number]
            _half(axes, found, [one for one in steady if one.keys == keys], [one for one in burst if one.keys == keys])
        halves[0].set_ylim(0, 1.05 * max(one.quantiles_ms[-1] for step in found.steps for one in step.latencies if one.load == "steady"))
        note = (
            "quorum: followers that confirm before a commit returns; beneath it, writes committed in a second when all clients come at once"
        )
        figure.text(0.525, 0.03, note, ha="center", color=MUTED, fontsize=8.5)
        halves[0].set_ylabel("milliseconds until committed")
        halves[0].legend(*halves[0].get_legend_handles_labels(), loc="upper left", frameon=False)
        figure.suptitle("What a larger quorum costs", x=0.065, y=0.975, ha="left", fontsize=13, fontweight="bold")
        word = "every follower equal to the leader, every count exact" if found.exact else "NOT EXACT: see quorum.json"
        delays = ", ".join(map(str, found.delays_ms))
        text = f"{FOLLOWERS} followers that apply after {delays} ms; {found.writes:,} clients within {found.spread_seconds:g} s; {word}."
        figure.text(0.065, 0.895, text, color=MUTED)
        figure.subplots_adjust(left=0.065, right=0.985, top=0.82, bottom=0.17)
        path.parent.mkdir(parents=True, exist_ok=True)
        figure.savefig(path, dpi=150, facecolor="white")
        plt.close(figure)


def _half(axes: Axes, found: Found, latencies: Sequence[Latency], bursts: Sequence[Latency]) -> None:
    quorums = [step.quorum for step in found.steps]
    parts = axes.violinplot([one.quantiles_ms for one in latencies], quorums, widths=0.7, showextrema=False)
    for body in parts["bodies"]:  # type: ignore[attr-defined]
        body.set(facecolor=BLUE, alpha=0.18, linewidth=0)
    axes.plot(quorums, [one.p99_ms for one in latencies], color=BLUE, lw=1, ls=":", marker="_", ms=9, label="p99")
    axes.plot(quorums, [one.mean_ms for one in latencies], color=BLUE, lw=1.7, marker="o", ms=4.5, label="mean")
    decided = [(step.quorum, step.delay_ms) for step in found.steps if step.delay_ms is not None]
    label = "delay of the k-th fastest follower"
    axes.plot([k for k, _ in decided], [delay for _, delay in decided], color=ORANGE, lw=1.2, marker="D", ms=4, label=label)
    for quorum, one in zip(quorums, latencies, strict=True):
        axes.annotate(
            f"{one.mean_ms:,.0f}", (quorum, one.mean_ms), xytext=(-6, 6), textcoords="offset points", ha="right", color=BLUE, fontsize=8.5
        )
    axes.set_title(f"{latencies[0].keys:,} keys", loc="left", fontsize=10.5)
    names = ["0 (async.)" if not quorum else str(quorum) for quorum in quorums]
    axes.set_xticks(quorums, [f"{name}\n{one.throughput:,.0f}/s" for name, one in zip(names, bursts, strict=True)])
    axes.grid(axis="y", color=GRID, lw=0.7)
    axes.set_axisbelow(True)
    axes.spines[["top", "right", "left"]].set_visible(False)
    axes.tick_params(length=0)
