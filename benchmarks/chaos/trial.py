"""A trial: faults under load, one after the other. Each is followed by a wait until the cluster is whole again, or, at a
pace, by the next one."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from statistics import median

from benchmarks.chaos.chance import stream
from benchmarks.chaos.fault import Fault, NotPossible, Scene, deck
from benchmarks.chaos.load import Load
from benchmarks.chaos.probes import Successes
from benchmarks.chaos.subject import Subject
from runtime import polling

QUIET_SECONDS = 4.0  # before the first fault: what the probes show without any
WHOLE_SECONDS = 120.0  # within which the cluster must be whole again
LOOK_SECONDS = 0.3


@dataclass(slots=True)
class Struck:
    """A fault that was done. Times are seconds of the monotonic clock; `missing` is what never came back. `overtaken`: the
    next fault came before all was whole, at `whole_at`."""

    name: str
    victim: str
    at: float
    whole_at: float
    missing: str = ""
    skipped: str = ""
    overtaken: bool = False

    @property
    def recovery(self) -> float:
        """Seconds until every process runs, every API answers, every replica follows and every shard gives results."""
        return self.whole_at - self.at


@dataclass(frozen=True, slots=True)
class Cost:
    """What one kind of fault cost, in seconds: (median, most) of each. `overtaken`: how often the next one came before
    all was whole; these have no time until whole."""

    name: str
    count: int
    skipped: int
    overtaken: int
    recovery: tuple[float, float]
    writes: tuple[float, float]
    results: tuple[float, float]
    reads: tuple[float, float]


@dataclass(slots=True)
class Trial:
    """What happened."""

    started: float
    stopped: float
    quiet: tuple[float, float]
    struck: list[Struck]
    timelines: list[int]  # of each shard, before the first fault


def run(  # noqa: PLR0913
    subject: Subject,
    load: Load,
    faults: Sequence[Fault],
    seed: int,
    *,
    minutes: float,
    count: int,
    tell: Callable[[str, int], None],
    pace: float = WHOLE_SECONDS,
    failovers: int = 1,
) -> Trial:
    """Start the load and strike until both `minutes` and `count` are reached; the load goes on. `tell` gets what is
    done and how many.

    `pace`: seconds after which the next fault strikes although the cluster is not whole; one that loses data waits until
    it is. `failovers`: see `fault.deck`.
    """
    rng = stream(seed, "faults")
    scene = Scene(subject, rng, load.epoch)
    timelines = [subject.timeline(shard) for shard in range(len(subject.shards))]
    started = time.monotonic()
    load.start()
    tell("quiet", 0)
    time.sleep(QUIET_SECONDS)
    quiet = (started + 1, time.monotonic() - 0.5)
    struck: list[Struck] = []
    cards = deck(faults, rng, failovers)
    while time.monotonic() - started < minutes * 60 or sum(not one.skipped for one in struck) < count:
        fault = next(cards)
        tell(fault.name, sum(not one.skipped for one in struck))
        struck.append(_strike(fault, scene, load.waits, pace))
        time.sleep(rng.uniform(0.3, 1.2))
    return Trial(started, time.monotonic(), quiet, struck, timelines)


def _strike(fault: Fault, scene: Scene, waits: Sequence[Successes], pace: float) -> Struck:
    still = wait_until(scene.subject.is_whole) if fault.loses_data else ""
    at = time.monotonic()
    if still:
        return Struck(fault.name, "", at, at, missing=still, skipped=f"{still} was not back")
    try:
        one = Struck(fault.name, fault.strike(scene), at, at)
    except NotPossible as reason:
        return Struck(fault.name, "", at, at, skipped=str(reason))
    undone = time.monotonic()

    def missing() -> str:
        silent = (
            f"the result of any write on shard {shard}" for shard, wait in enumerate(waits) if wait.last <= undone
        )
        return scene.subject.is_whole() or next(silent, "")

    still = wait_until(missing, min(pace, WHOLE_SECONDS))
    one.overtaken = bool(still) and pace < WHOLE_SECONDS
    one.missing = "" if one.overtaken else still
    one.whole_at = time.monotonic()
    return one


def wait_until(missing: Callable[[], str], seconds: float = WHOLE_SECONDS) -> str:
    """Wait until nothing is missing, at most `seconds`. Returns what is still missing."""
    for _ in polling.attempts(seconds, pause=LOOK_SECONDS):
        if not (still := missing()):
            break
    return still


def costs(trial: Trial, load: Load) -> list[Cost]:
    """One row for each kind of fault, and first the time without faults as the machine's baseline."""
    kinds: dict[str, list[Struck]] = {"(no fault)": [Struck("(no fault)", "", trial.quiet[0], trial.quiet[1])]}
    for one in trial.struck:
        kinds.setdefault(one.name, []).append(one)
    first, *rest = [_cost(name, group, load) for name, group in kinds.items()]
    return [first, *sorted(rest, key=lambda cost: cost.name)]


def _cost(name: str, group: list[Struck], load: Load) -> Cost:
    done = [one for one in group if not one.skipped]

    def gaps(probes: Sequence[Successes]) -> tuple[float, float]:
        return _middle_and_most([max(probe.longest_gap(one.at, one.whole_at) for probe in probes) for one in done])

    recoveries = [one.recovery if name != "(no fault)" else 0.0 for one in done if not one.overtaken]
    return Cost(
        name,
        len(done),
        len(group) - len(done),
        sum(one.overtaken for one in done),
        recovery=_middle_and_most(recoveries),
        writes=gaps([load.pulse.successes]),
        results=gaps(load.waits),
        reads=gaps(load.reads),
    )


def _middle_and_most(values: list[float]) -> tuple[float, float]:
    return (round(median(values), 2), round(max(values), 2)) if values else (0.0, 0.0)
