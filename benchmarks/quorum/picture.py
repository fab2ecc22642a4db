"""The picture: latency to commit against the quorum, beside the delay of the follower that decides it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import matplotlib as mpl
import matplotlib.pyplot as plt
from matplotlib.axes import Axes
from matplotlib.patheffects import withStroke

from benchmarks.quorum.report import Found, Latency
from benchmarks.style import BLUE, GRID, MUTED, ORANGE, STYLE

NOTE = (
    "quorum: followers that confirm before a commit returns; beneath it, writes committed in a second when all clients come at once;"
    " shaded: how the writes are distributed"
)
HALO = [withStroke(linewidth=2.5, foreground="white")]


def draw(found: Found, path: Path) -> None:
    """Write the picture: one half for few keys, one for many."""
    with mpl.rc_context(STYLE):  # type: ignore[arg-type]
        figure, halves = plt.subplots(1, 2, sharey=True, figsize=(11, 4.9), gridspec_kw={"wspace": 0.06})
        for number, axes in enumerate(halves):
            steady, burst = (
                [one for step in found.steps for one in step.latencies if one.load == load]
                for load in ("steady", "burst")
            )
            keys = sorted({one.keys for one in steady})[number]
            _half(axes, found, [one for one in steady if one.keys == keys], [one for one in burst if one.keys == keys])
        halves[0].set_ylim(
            0,
            1.05 * max(one.quantiles_ms[-1] for step in found.steps for one in step.latencies if one.load == "steady"),
        )
        figure.text(0.525, 0.03, NOTE, ha="center", color=MUTED, fontsize=8.5)
        halves[0].set_ylabel("milliseconds until committed")
        halves[0].legend(*halves[0].get_legend_handles_labels(), loc="upper left", frameon=False)
        figure.suptitle("What a larger quorum costs", x=0.065, y=0.975, ha="left", fontsize=13, fontweight="bold")
        word = "every follower equal to the leader, every count exact" if found.exact else "NOT EXACT: see quorum.json"
        delays = ", ".join(map(str, found.delays_ms))
        text = f"Followers that apply after {delays} ms; {found.writes:,} clients within {found.spread_seconds:g} s; {word}."
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
    axes.plot(
        [k for k, _ in decided], [delay for _, delay in decided], color=ORANGE, lw=1.2, marker="D", ms=4, label=label
    )
    beside: dict[str, Any] = {"xytext": (-6, 6), "textcoords": "offset points", "ha": "right", "path_effects": HALO}
    for quorum, one in zip(quorums, latencies, strict=True):
        axes.annotate(f"{one.mean_ms:,.0f}", (quorum, one.mean_ms), color=BLUE, fontsize=8.5, **beside)
    axes.set_title(f"{latencies[0].keys:,} keys", loc="left", fontsize=10.5)
    names = ["0 (async.)" if not quorum else str(quorum) for quorum in quorums]
    axes.set_xticks(quorums, [f"{name}\n{one.throughput:,.0f}/s" for name, one in zip(names, bursts, strict=True)])
    axes.grid(axis="y", color=GRID, lw=0.7)
    axes.set_axisbelow(True)
    axes.spines[["top", "right", "left"]].set_visible(False)
    axes.tick_params(length=0)
