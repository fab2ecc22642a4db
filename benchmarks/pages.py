"""The table of figures: on the console, in docs/performance.md, and the short one in README.md, each between its
markers."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from benchmarks import document
from benchmarks.document import ROOT

PAGE, README = ROOT / "docs/performance.md", ROOT / "README.md"
HEAD = ("figure", "Tally", "peer", "peer's", "ratio", "goal", "")


def number(value: float | None) -> str:
    """Three digits: 1,230,000; 12.3; 0.0123."""
    if value is None:
        return ""
    if abs(value) >= 1000:
        digits = len(f"{abs(value):.0f}") - 3
        return f"{round(value / 10**digits) * 10**digits:,}"
    return f"{value:.3g}" if abs(value) < 100 else f"{value:.0f}"


def cells(one: dict[str, Any]) -> tuple[str, ...]:
    """A line of the table."""
    spread = f" ±{one['spread'] / 2:.0f} %" if len(one["samples"]) > 1 else ""
    peer_spread = f" ±{one['peer_spread'] / 2:.0f} %" if len(one["peer_samples"]) > 1 else ""
    met = {True: "met", False: "**not met**", None: ""}[one["met"]]
    ratio = f"{one['ratio']:.2f}" if one["ratio"] is not None else ""
    value = f"{number(one['value'])} {one['unit']}{spread}"
    return (
        one["name"],
        value,
        one["peer"] or "",
        f"{number(one['peer_value'])}{peer_spread}",
        ratio,
        one["goal"] or "",
        met,
    )


def markdown(figures: Sequence[dict[str, Any]]) -> str:
    """The whole table."""
    rows = [HEAD, ("---", "---:", "---", "---:", "---:", "---", "---"), *map(cells, figures)]
    return "".join(f"| {' | '.join(row)} |\n" for row in rows)


def show(console: Console, found: dict[str, Any], names: Sequence[str]) -> None:
    """What this run measured, and what comparing the counts found."""
    table = Table(*HEAD)
    for one in found["figures"]:
        if one["of"] in names:
            table.add_row(*(cell.replace("**", "") for cell in cells(one)))
    console.print(table)
    for name in names:
        for line in found["checks"].get(name, []):
            console.print(f"  {line}", highlight=False)
        for line in found["wrong"].get(name, []):
            console.print(f"  [red]wrong count[/red]: {line}", highlight=False)


def write(found: dict[str, Any]) -> None:
    """Into the pages, where they have the markers."""
    where = document.where(found["machine"])
    commits = sorted({one["commit"] for one in found["figures"]})
    told = f"\nMedians of one run each, ± half of the spread between repeats; {where}; commit {', '.join(commits)}.\n"
    names = dict.fromkeys(one["of"] for one in found["figures"])
    between(
        PAGE,
        "bench",
        markdown(found["figures"]) + told + "".join(f"\n![{name}](img/bench-{name}.png)\n" for name in names),
    )
    leading = [one for one in found["figures"] if one["goal"] and one["peer"]]
    picture = (
        "\n![Increments a second until they are on the replicas](docs/img/bench-bulk.png)\n" if "bulk" in names else ""
    )
    between(README, "bench", _short(leading) + picture)


def _short(figures: Sequence[dict[str, Any]]) -> str:
    """Figure, value, and how many times the peer."""
    rows = [("figure", "Tally", "beside it, in the same run"), ("---", "---:", "---")]
    for one in figures:
        beside = f"{number(one['ratio'])} times {one['peer']} ({number(one['peer_value'])})"
        rows.append((one["name"].partition(", beside")[0], f"{number(one['value'])} {one['unit']}", beside))
    return "".join(f"| {' | '.join(row)} |\n" for row in rows)


def between(page: Path, name: str, text: str) -> None:
    """Replace what stands between the markers of this name on a page."""
    marked = re.compile(rf"(<!-- {name} -->\n)(.*?)(<!-- /{name} -->)", re.DOTALL)
    page.write_text(marked.sub(lambda found: found[1] + text + found[3], page.read_text()))
