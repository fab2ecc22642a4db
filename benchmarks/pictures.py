"""One picture for each figure: bars of throughput and ratio, latency against load, cost against growth."""

from __future__ import annotations

import textwrap
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import matplotlib as mpl
import matplotlib.pyplot as plt
from matplotlib.axes import Axes
from matplotlib.figure import Figure as Canvas
from matplotlib.ticker import MaxNLocator

from benchmarks.document import ROOT
from benchmarks.pages import number
from benchmarks.style import BLUE as TALLY
from benchmarks.style import GRID, INK, MUTED, STYLE
from benchmarks.style import ORANGE as THIRD
from benchmarks.style import PALE as PEER

FOLDER = ROOT / "docs/img"
Found = dict[str, Any]


def draw(found: Found, names: Sequence[str], folder: Path = FOLDER) -> None:
    """Write `bench-<name>.png` for each of the names that was measured."""
    folder.mkdir(parents=True, exist_ok=True)
    with mpl.rc_context(STYLE):  # type: ignore[arg-type]
        for name in names:
            figures = [one for one in found["figures"] if one["of"] == name]
            if not figures:
                continue
            canvas = PAINTERS.get(name, _only_bars)(figures, found["curves"].get(name, {}))
            canvas.savefig(
                folder / f"bench-{name}.png", dpi=150, facecolor="white", bbox_inches="tight", pad_inches=0.15
            )
            plt.close(canvas)


def bars(axes: Axes, figures: Sequence[Found]) -> None:
    """Tally, and each peer with its ratio to it; the spread of the repeats as a thin line."""
    first = figures[0]
    rows = [("Tally", first["samples"], first["value"], "")]
    rows += [
        (one["peer"], one["peer_samples"], one["peer_value"], f"   Tally: {one['ratio']:.2g} times")
        for one in figures
        if one["peer_value"]
    ]
    for place, (_, samples, value, text) in enumerate(rows):
        axes.barh(place, value, color=PEER if place else TALLY, height=0.62)
        axes.plot([min(samples), max(samples)], [place, place], color=INK, lw=1.2)
        axes.text(
            max([*samples, value]),
            place,
            f"  {number(value)}{text}",
            va="center",
            fontweight="normal" if place else "bold",
        )
    axes.set_yticks(range(len(rows)), [name for name, *_ in rows], color=INK)
    axes.invert_yaxis()
    axes.locator_params(axis="x", nbins=5)
    axes.set_xlim(0, 1.4 * max(value for _, _, value, _ in rows))
    axes.set_xlabel(first["unit"])
    axes.xaxis.set_major_formatter(lambda value, _place: number(value))
    axes.tick_params(length=0)
    axes.grid(axis="x", color=GRID, lw=0.7)
    axes.set_axisbelow(True)


def lines(axes: Axes, points: Sequence[Found], across: str, up: dict[str, str]) -> None:
    """Curves of `up` (column → label) over the column `across`, labelled at their ends."""
    for (column, label), colour in zip(up.items(), (TALLY, THIRD, MUTED), strict=False):
        x, y = [point[across] for point in points], [point[column] for point in points]
        axes.plot(x, y, color=colour, marker="o", ms=4, lw=1.6)
        axes.annotate(label, (x[-1], y[-1]), xytext=(7, 0), textcoords="offset points", va="center", color=colour)
    axes.set_ylim(0, 1.12 * max(point[column] for point in points for column in up))
    axes.grid(axis="y", color=GRID, lw=0.7)
    axes.tick_params(length=0)


def _canvas(title: str, parts: int, height: float = 2.6) -> tuple[Canvas, list[Axes]]:
    canvas, axes = plt.subplots(
        1, parts, figsize=(9.5 if parts > 1 else 8.0, height), squeeze=False, layout="constrained"
    )
    canvas.suptitle(title, x=0.01, ha="left", fontsize=12, fontweight="bold")
    return canvas, list(axes[0])


def _only_bars(figures: Sequence[Found], _curves: Found) -> Canvas:
    title = figures[0]["name"].partition(", beside")[0]
    beside = [one for one in figures if one["peer_value"]]
    canvas, (axes,) = _canvas(title, 1, 1.3 + 0.42 * len(beside))
    bars(axes, beside)
    return canvas


def _reads(figures: Sequence[Found], curves: Found) -> Canvas:
    canvas, (left, right) = _canvas("Cached reads", 2, 3.0)
    bars(left, figures[:1])
    pairs = zip(curves["latency"], curves["latency of an empty view"], strict=True)
    points = [{**mine, "empty_ms": its["p99_ms"]} for mine, its in pairs]
    _latency(right, points, "rate", "reads/s", empty_ms="p99, empty view")
    return canvas


def _warming(_figures: Sequence[Found], curves: Found) -> Canvas:
    """Second by second, warmed and not."""
    canvas, grid = plt.subplots(1, 3, figsize=(10.5, 3.0), layout="constrained")
    canvas.suptitle("The minute after FLUSHALL", x=0.01, ha="left", fontsize=12, fontweight="bold")
    labels = {
        "misses": "reads that missed, a second",
        "queries": "queries of shards, a second",
        "primaries": "cores of the primaries",
    }
    for axes, (column, label) in zip(grid, labels.items(), strict=True):
        for name, colour in (("warmed", TALLY), ("not warmed", THIRD)):
            points = curves[name]
            axes.plot(
                [one["second"] for one in points], [one[column] for one in points], color=colour, lw=1.5, label=name
            )
        axes.set(xlabel="seconds", ylabel=label)
        axes.set_xlim(left=0)
        axes.set_ylim(bottom=0)
        axes.grid(axis="y", color=GRID, lw=0.7)
        axes.tick_params(length=0)
    grid[0].legend(frameon=False)
    return canvas


def _convergence(_figures: Sequence[Found], curves: Found) -> Canvas:
    canvas, (axes,) = _canvas("From 202 to visible on the replica", 1, 3.0)
    _latency(axes, curves["latency"], "share", "bulk load beside it, as a share of the maximum")
    axes.xaxis.set_major_formatter(lambda value, _place: f"{value:.0%}")
    return canvas


def _latency(axes: Axes, points: Sequence[Found], across: str, label: str, **others: str) -> None:
    lines(axes, points, across, {"p99_ms": "p99", "p50_ms": "p50", **others})
    axes.set_xlim(left=0)
    axes.set_ylabel("ms")
    axes.set_xlabel(label)


def _reduction(figures: Sequence[Found], _curves: Found) -> Canvas:
    canvas, (axes,) = _canvas("Row writes for a thousand increments", 1, 2.0)
    rows = [
        *((one["name"].partition(", ")[2], 1000 * one["value"], TALLY) for one in figures),
        ("F() update", 1000.0, PEER),
    ]
    for place, (_, value, colour) in enumerate(rows):
        axes.barh(place, value, color=colour, height=0.62)
        axes.text(value, place, f"  {number(value)}", va="center")
    axes.set_yticks(range(len(rows)), [name for name, *_ in rows], color=INK)
    axes.invert_yaxis()
    axes.set_xlim(0, 1150)
    axes.tick_params(length=0)
    axes.grid(axis="x", color=GRID, lw=0.7)
    axes.set_axisbelow(True)
    return canvas


def _workers(_figures: Sequence[Found], curves: Found) -> Canvas:
    canvas, (left, right) = _canvas("Bulk with more workers", 2, 3.0)
    points = curves["workers"]
    lines(left, points, "workers", {"rate": "rate"})
    left.set_ylabel("increments/s")
    left.yaxis.set_major_formatter(lambda value, _place: number(value))
    lines(right, points, "workers", {"cpu_seconds": "cost"})
    right.set_ylabel("processor seconds for a million")
    for axes in (left, right):
        axes.set(xlabel="workers a shard", xticks=[point["workers"] for point in points])
    return canvas


def _autoscale(_figures: Sequence[Found], curves: Found) -> Canvas:
    """The load, what processes are counted by with the bounds, and how many there are, over time."""
    canvas, grid = plt.subplots(
        3, 2, figsize=(9.5, 5.2), sharex=True, height_ratios=(2, 3, 3), squeeze=False, layout="constrained"
    )
    canvas.suptitle("A load that rises and falls", x=0.01, ha="left", fontsize=12, fontweight="bold")
    course, bounds = curves["course"], curves["bounds"]
    seconds = [one["second"] for one in course]
    sides = (
        ("API processes", "api", "usage", "part of a processor, each", bounds["busy"], bounds["idle"]),
        ("Workers of both shards", "workers", "age", "age of the oldest entry, s", bounds["late"], bounds["early"]),
    )
    for (load, cause, count), (title, role, column, label, high, low) in zip(grid.T, sides, strict=True):
        load.fill_between(seconds, [one["share"] for one in course], color=PEER, step="post", lw=0)
        load.yaxis.set_major_formatter(lambda value, _place: f"{value:.0%}")
        load.set_title(title, loc="left", fontsize=10)
        values = [float("nan") if one[column] is None else one[column] for one in course]
        cause.plot(seconds, values, color=THIRD, lw=1.4)
        for bound, text in ((high, "one more"), (low, "one less")):
            cause.axhline(bound, color=MUTED, lw=0.9, ls="--")
            axis = cause.get_yaxis_transform()
            cause.text(1.01, bound, text, transform=axis, va="center", fontsize=8, color=MUTED)
        cause.set_ylabel(label, fontsize=8)
        count.step(seconds, [one[role] for one in course], color=TALLY, lw=1.8, where="post")
        count.set_ylabel("processes", fontsize=8)
        count.yaxis.set_major_locator(MaxNLocator(integer=True))
        count.set_xlabel("seconds")
        for axes in (load, cause, count):
            axes.set_ylim(bottom=0)
            axes.grid(axis="y", color=GRID, lw=0.7)
            axes.tick_params(length=0)
    grid[0][0].set_ylabel("load", fontsize=8)
    return canvas


def _growth(_figures: Sequence[Found], curves: Found) -> Canvas:
    canvas, grid = plt.subplots(1, 3, figsize=(10.5, 3.4), layout="constrained")
    canvas.suptitle("Growth: what one operation costs", x=0.01, ha="left", fontsize=12, fontweight="bold")
    counters, processes, shards = grid
    lines(
        counters,
        curves["counters"],
        "counters",
        {"increment_us": "increment", "primary_read_us": "read of primary", "read_us": "read"},
    )
    counters.set_xscale("log")
    counters.set(xlabel="counters", ylabel="µs of processor time")
    lines(processes, curves["processes"], "processes", {"flush_us": "flush"})
    processes.set(
        xlabel="API processes",
        ylabel="µs in the journal's Redis",
        xticks=[point["processes"] for point in curves["processes"]],
    )
    lines(shards, curves["shards"], "shards", {"increment_us": "increment"})
    shards.set(xlabel="shards", ylabel="µs of processor time", xticks=[point["shards"] for point in curves["shards"]])
    return canvas


def _memory(_figures: Sequence[Found], curves: Found) -> Canvas:
    """Of the five largest processes."""
    canvas, (axes,) = _canvas("Memory of the largest processes", 1, 3.4)
    samples = curves["memory"]
    names = (
        sorted((name for name in samples[-1] if name != "minutes"), key=lambda name: -samples[-1][name])[:5]
        if samples
        else []
    )
    for name, colour in zip(names, (TALLY, THIRD, "#2e7d32", "#7a3e9d", MUTED), strict=False):
        told = [(sample["minutes"], sample[name]) for sample in samples if name in sample]
        axes.plot(*zip(*told, strict=True), color=colour, lw=1.3, label=name)
    axes.set_ylim(bottom=0)
    axes.set(xlabel="minutes at half of the maximum load", ylabel="MiB of its own")
    axes.grid(axis="y", color=GRID, lw=0.7)
    axes.tick_params(length=0)
    if names:
        axes.legend(frameon=False, fontsize=8, ncols=2)
    return canvas


def _bulk(figures: Sequence[Found], _curves: Found) -> Canvas:
    """A bar for each format, and one for each peer."""
    peers = {one["peer"]: one for one in figures}
    rows = [
        (one["name"].split(", beside")[0], one["value"], TALLY) for one in figures if one["peer"] == figures[0]["peer"]
    ]
    rows += [(name, one["peer_value"], PEER) for name, one in peers.items()]
    canvas, (axes,) = _canvas("Bulk: increments a second until they are on the replicas", 1, 1.3 + 0.36 * len(rows))
    for place, (_, value, colour) in enumerate(rows):
        axes.barh(place, value, color=colour, height=0.62)
        axes.text(value, place, f"  {number(value)}", va="center")
    axes.set_yticks(range(len(rows)), [name for name, *_ in rows], color=INK, fontsize=8)
    axes.invert_yaxis()
    axes.locator_params(axis="x", nbins=4)
    axes.set_xlim(0, 1.25 * max(value for _, value, _ in rows))
    axes.xaxis.set_major_formatter(lambda value, _place: number(value))
    axes.tick_params(length=0)
    return canvas


def _copies(figures: Sequence[Found], _curves: Found) -> Canvas:
    """A part for each kind of write: their rates are far apart."""
    canvas, parts = _canvas("Journal on two disks, beside one", len(figures), 2.1)
    for axes, one in zip(parts, figures, strict=True):
        bars(axes, [one])
        axes.set_title(one["name"].partition(": ")[2], loc="left", fontsize=10)
        axes.set_yticks((0, 1), ("two disks", "one disk"), color=INK)
        axes.set_xlim(0, 1.9 * axes.get_xlim()[1] / 1.4)
    return canvas


def _likes(figures: Sequence[Found], _curves: Found) -> Canvas:
    """New likes beside the peers, and bodies of which most or all is known."""
    canvas, parts = _canvas("Likes", 2, 3.2)
    peers = {one["peer"]: one["peer_value"] for one in figures if one["peer"]}
    bulk = [one for one in figures if one["unit"].endswith("/s") and "Arrow" in one["name"]]
    own = {
        one["name"].split(", ")[1]: one for one in figures if one["unit"].endswith("/s") and "cached" not in one["name"]
    }
    sides = [(name, one["value"], TALLY) for name, one in own.items() if one["unit"] == "likes/s"]
    sides += [(name, value, PEER) for name, value in peers.items()]
    known = {one["name"].split(", ")[1]: one for one in bulk if one["unit"] == "events/s"}
    for axes, rows, unit in (
        (parts[0], sides, "likes/s"),
        (parts[1], [(name, one["value"], TALLY) for name, one in known.items()], "events/s, answered"),
    ):
        for place, (_, value, colour) in enumerate(rows):
            axes.barh(place, value, color=colour, height=0.62)
            axes.text(value, place, f"  {number(value)}", va="center")
        names = [textwrap.fill(name, 26) for name, *_ in rows]
        axes.set_yticks(range(len(rows)), names, color=INK, fontsize=8)
        axes.invert_yaxis()
        axes.locator_params(axis="x", nbins=4)
        axes.set_xlim(0, 1.35 * max(value for _, value, _ in rows))
        axes.set_xlabel(unit, fontsize=8)
        axes.xaxis.set_major_formatter(lambda value, _place: number(value))
        axes.tick_params(length=0)
    return canvas


def _likes_size(figures: Sequence[Found], _curves: Found) -> Canvas:
    """Speed at size, beside an empty table."""
    canvas, (axes,) = _canvas(figures[0]["name"], 1, 1.7)
    bars(axes, figures[:1])
    return canvas


def _overload(_figures: Sequence[Found], curves: Found) -> Canvas:
    """A column for each kind of request: what becomes of it, and how long a write takes."""
    canvas, grid = plt.subplots(
        2, len(curves), figsize=(9.5, 5.2), sharex="col", height_ratios=(3, 2), squeeze=False, layout="constrained"
    )
    canvas.suptitle("Three times the maximum, for a minute", x=0.01, ha="left", fontsize=12, fontweight="bold")
    shown = {"offered": MUTED, "refused": "#c0392b", "accepted": TALLY, "spilled": THIRD}
    for (top, bottom), (kind, points) in zip(grid.T, curves.items(), strict=True):
        seconds = [point["second"] for point in points]
        for name, colour in shown.items():
            top.plot(seconds, [point[name] for point in points], color=colour, lw=1.6, label=name)
        top.set_title(kind, loc="left", fontsize=10)
        top.yaxis.set_major_formatter(lambda value, _place: number(value))
        for column, colour, label in (("p99_ms", TALLY, "p99"), ("p50_ms", THIRD, "p50")):
            values = [float("nan") if point[column] is None else point[column] for point in points]
            bottom.plot(seconds, values, color=colour, lw=1.6, label=label)
        bottom.set_xlabel("seconds")
        for axes in (top, bottom):
            axes.set_ylim(bottom=0)
            axes.grid(axis="y", color=GRID, lw=0.7)
            axes.tick_params(length=0)
    grid[0][0].set_ylabel("increments/s")
    grid[1][0].set_ylabel("ms, accepted single increments")
    grid[0][0].legend(frameon=False, fontsize=8, ncols=2)
    grid[1][0].legend(frameon=False, fontsize=8, ncols=2)
    return canvas


PAINTERS: dict[str, Callable[[Sequence[Found], Found], Canvas]] = {
    "bulk": _bulk,
    "reads": _reads,
    "warming": _warming,
    "convergence": _convergence,
    "reduction": _reduction,
    "workers": _workers,
    "autoscale": _autoscale,
    "copies": _copies,
    "growth": _growth,
    "memory": _memory,
    "overload": _overload,
    "likes": _likes,
    "likes_size": _likes_size,
}
