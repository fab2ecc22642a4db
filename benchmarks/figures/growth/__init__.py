"""What stays as it is while the service grows: cost by counters, by shards, by API processes.

cost    processor time of the whole cluster for one operation        counters    10³ to 10⁷ of them
shards  1 to 8                                                       processes   1 to 4 API processes
"""

from __future__ import annotations

from collections.abc import Callable

from benchmarks.context import Context
from benchmarks.document import Part
from benchmarks.figures.growth import counters, processes, shards

TITLE = "Growth"


def run(context: Context) -> Part:
    """All of it; each measures once, as a curve of several points shows its own noise."""
    part = Part()
    measures: tuple[Callable[[Context, Part], None], ...] = (counters.run, processes.run, shards.run)
    for measure in measures:
        measure(context, part)
    return part
