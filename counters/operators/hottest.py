"""Which counters are written most, as the limit by key counts them: `counters.intake.admission`."""

from __future__ import annotations

from heapq import nlargest

from django.conf import settings

from counters.intake import journal
from runtime import redis

_MOST_READ = 2000  # counters of a window that are read; of more, a sample: the journal has other things to do


def written(most: int) -> dict[str, float]:
    """Increments a second of the counters that get most, over about a window. Only those that get many are counted.
    Raises `RedisError`."""
    window = settings.TALLY.key_rate_window_seconds
    if not settings.TALLY.key_rate:
        return {}
    with redis.journal().pipeline(transaction=False) as pipe:
        pipe.time()
        for key in journal.rates_keys(window):
            pipe.hget(key, "")
            pipe.hrandfield(key, _MOST_READ, withvalues=True)
        now, turn, current, _, before = pipe.execute()
    through = (now[0] + now[1] / 1e6) / window
    if turn is None or int(turn) != int(through):  # no counter with many in this window yet
        return {}
    rates: dict[str, float] = {}
    for counts, share in ((current, 1.0), (before, 1.0 - through % 1)):
        for key, count in zip(counts[::2], counts[1::2], strict=True):
            if key:
                rates[key.decode()] = rates.get(key.decode(), 0.0) + int(count) * share / window
    return dict(nlargest(most, rates.items(), key=lambda item: item[1]))
