"""The table of all metrics of Tally's own processes, for docs/metrics.md."""

from __future__ import annotations

import pkgutil
from collections.abc import Iterable, Iterator
from importlib import import_module
from typing import NamedTuple

from prometheus_client import REGISTRY, Metric

ROOMS = ("runtime", "sharding", "replication", "counters", "likes")
OWN = "tally_"


class Row(NamedTuple):
    """A metric: its name as Prometheus has it, its type, its labels and its help."""

    name: str
    type: str
    labels: tuple[str, ...]
    help: str


def rows() -> list[Row]:
    """Every metric of Tally, by name. Django must be set up."""
    for room in ROOMS:
        for module in pkgutil.walk_packages(import_module(room).__path__, f"{room}."):
            if ".migrations" not in module.name:
                import_module(module.name)
    import_module("counter_project.asgi")  # it registers the collectors of API processes
    return sorted(set(_rows(REGISTRY._collector_to_names)))


def _rows(collectors: Iterable[object]) -> Iterator[Row]:
    for collector in collectors:
        families: Iterable[Metric] = getattr(collector, "describe", tuple)()
        for family in families:
            if family.name.startswith(OWN):
                labels = getattr(collector, "_labelnames", ()) or getattr(family, "_labelnames", ())
                suffix = "_total" if family.type == "counter" else ""
                yield Row(family.name + suffix, family.type, tuple(labels), family.documentation)


def markdown() -> str:
    """The table."""
    lines = ["| metric | type | labels | meaning |", "| --- | --- | --- | --- |"]
    for row in rows():
        labels = ", ".join(f"`{label}`" for label in row.labels)
        lines.append(f"| `{row.name}` | {row.type} | {labels} | {row.help} |")
    return "\n".join(lines) + "\n"
