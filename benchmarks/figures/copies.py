"""What a second copy of the journal costs: the same load on two clusters, one of them with a replica of the journal."""

from __future__ import annotations

from dataclasses import replace
from functools import partial

from benchmarks.chaos import subject
from benchmarks.context import LIMITS, SHARES, WARM_SECONDS, Context
from benchmarks.document import Part, figure
from benchmarks.figures.bulk import BODY, Bulk
from benchmarks.figures.single import Single
from benchmarks.load import keys

TITLE = "Journal on two disks"
SECONDS = 6.0
ONE, TWO = "journal on one disk", "journal on two disks"


def run(context: Context) -> Part:
    """Single increments and Arrow bodies, on each cluster in turn."""
    part = Part()
    context.tell("a cluster with a replica of the journal")
    directory = context.directory / "copies"
    directory.mkdir()
    other = subject.start(directory, journal_replicas=1, environment=LIMITS)
    try:
        contexts = {ONE: context, TWO: replace(context, subject=other)}
        singles = {name: Single(one, part, "d") for name, one in contexts.items()}
        bulks = {name: Bulk(one, part, prefix="e") for name, one in contexts.items()}
        context.tell("warm-up")
        for name in contexts:
            singles[name].tally(WARM_SECONDS)
            bulks[name].measure(keys.ARROW, WARM_SECONDS, size=BODY)
        rates = context.interleaved({name: partial(single.tally, SECONDS) for name, single in singles.items()})
        bulk = context.interleaved(
            {name: partial(one.measure, keys.ARROW, SECONDS, size=BODY) for name, one in bulks.items()}
        )
        context.tell("every count")
        for name in contexts:
            singles[name].expected.compare()
            bulks[name].expected.compare()
    finally:
        subject.put_away(other, keep=False)
    part.figures = [
        figure(f"{TITLE}: one increment a request", "increments/s", rates[TWO], peer=ONE, peer_samples=rates[ONE]),
        figure(f"{TITLE}: Arrow bodies of {BODY:,}", "increments/s", bulk[TWO], peer=ONE, peer_samples=bulk[ONE]),
    ]
    part.details = {
        SHARES: {name: single.shares.medians() for name, single in singles.items()},
        "p99 in seconds": {name: single.latencies for name, single in singles.items()},
    }
    return part
