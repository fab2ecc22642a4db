"""The last minutes, from the pulses of all processes: rates and levels over time, which processes tell, what they read
most. No I/O: times are handed in, in Unix time of whoever kept the pulses."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from heapq import nlargest

import msgspec

from runtime.pulses import Heard, Pulse

BUCKET_SECONDS = 5
BUCKETS = 60
TELLS_SECONDS = 4.0  # after its last pulse, in which a process counts as telling
_HOT_SECONDS = 15.0  # for which a process' list of counters counts; it comes with some pulses


class Process(msgspec.Struct, frozen=True):
    """A process that tells, or has told within the last minutes. `silent`: seconds since its last pulse. `rates`: what it
    does in a second."""

    kind: str
    name: str
    silent: float
    rates: dict[str, float]

    @property
    def tells(self) -> bool:
        return self.silent < TELLS_SECONDS


class History:
    """Keeps sums, not pulses. Not thread-safe."""

    def __init__(self) -> None:
        self._gains: dict[int, Counter[str]] = {}  # by bucket
        self._levels: dict[int, dict[str, float]] = {}
        self._last: dict[tuple[str, str], Heard] = {}  # by kind and process
        self._hot: dict[str, Heard] = {}
        self._newest: dict[str, float] = {}  # by kind
        self._resumed: dict[str, float] = {}

    def add(self, heard: Iterable[Heard]) -> None:
        """Take pulses, in their order."""
        for at, pulse in heard:
            if at - self._newest.get(pulse.kind, -TELLS_SECONDS) > TELLS_SECONDS:
                self._resumed[pulse.kind] = at
            self._newest[pulse.kind] = at
            bucket = int(at // BUCKET_SECONDS)
            self._gains.setdefault(bucket, Counter()).update(pulse.gains)
            levels = self._levels.setdefault(bucket, {})
            for name, level in pulse.levels.items():
                levels[name] = max(level, levels.get(name, level))
            self._last[pulse.kind, pulse.process] = Heard(at, pulse)
            if pulse.hot:
                self._hot[pulse.process] = Heard(at, pulse)

    def forget(self, now: float) -> None:
        """Forget what no answer shows any more."""
        oldest = int(now // BUCKET_SECONDS) - BUCKETS
        self._gains = {bucket: gains for bucket, gains in self._gains.items() if bucket >= oldest}
        self._levels = {bucket: levels for bucket, levels in self._levels.items() if bucket >= oldest}
        since = now - BUCKETS * BUCKET_SECONDS
        self._last = {name: heard for name, heard in self._last.items() if heard.at > since}
        self._hot = {name: heard for name, heard in self._hot.items() if heard.at > now - _HOT_SECONDS}

    def rates(self, name: str, now: float) -> list[float | None]:
        """What was gained in a second, by bucket, the oldest first; the one that runs is left out. None where nobody has
        told."""
        gained = (self._gains.get(bucket, Counter()).get(name) for bucket in _buckets(now))
        return [None if gain is None else gain / BUCKET_SECONDS for gain in gained]

    def levels(self, name: str, now: float) -> list[float | None]:
        """The highest level by bucket, as `rates`."""
        return [self._levels.get(bucket, {}).get(name) for bucket in _buckets(now)]

    def rate(self, name: str, now: float) -> float | None:
        """What all processes gain in a second now; None if nobody tells."""
        last = (heard.pulse for heard in self._last.values() if now - heard.at < TELLS_SECONDS)
        found = [rate for pulse in last if (rate := _rates(pulse).get(name)) is not None]
        return sum(found) if found else None

    def listened(self, kind: str, now: float) -> float:
        """For how many seconds processes of a kind have told: none of them is silent for longer, as it could not tell
        before, or nobody asked it; 0 if none tells."""
        if now - self._newest.get(kind, -TELLS_SECONDS) > TELLS_SECONDS:
            return 0.0
        return max(0.0, now - self._resumed[kind])

    def processes(self, now: float) -> list[Process]:
        """Those that have told within the last minutes, by kind and name."""
        return [
            Process(kind, name, max(0.0, now - heard.at), _rates(heard.pulse))
            for (kind, name), heard in sorted(self._last.items())
        ]

    def hottest(self, most: int) -> dict[str, float]:
        """Reads a second of the counters that are read most."""
        sums: Counter[str] = Counter()
        for heard in self._hot.values():
            sums.update(heard.pulse.hot)
        return dict(nlargest(most, sums.items(), key=lambda item: item[1]))


def _buckets(now: float) -> range:
    running = int(now // BUCKET_SECONDS)
    return range(running - BUCKETS, running)


def _rates(pulse: Pulse) -> dict[str, float]:
    seconds = max(pulse.seconds, 0.1)
    return {name: gain / seconds for name, gain in pulse.gains.items()}


class Change(msgspec.Struct, frozen=True):
    """Something was so and is otherwise now; `at` is Unix time in seconds."""

    at: float
    name: str
    was: str
    now: str
    detail: str = ""


def changes(before: Mapping[str, str], states: Mapping[str, tuple[str, str]], at: float) -> list[Change]:
    """What differs from the states before, by name: state and detail. A name that is new is no change."""
    return [
        Change(at, name, before[name], state, detail)
        for name, (state, detail) in states.items()
        if name in before and before[name] != state
    ]
