"""Recording of the last minutes, for /status, whether somebody watches or not: every few seconds one process looks at the
whole system and keeps the levels and the events.

One of the workers that do the odd jobs does so, and takes its turn again and again. While none of them runs, a process
does whose /status is watched (`stand_in`).
"""

from __future__ import annotations

from threading import Event, Thread

import structlog
from redis.exceptions import RedisError

from counters.operators import events, status
from counters.operators.status import Snapshot
from runtime import pulses
from runtime.pulses import Pulse
from runtime.resources import owned

LOOK_SECONDS = 4.0  # so that each step of the history has a look
_TURN_SECONDS = 10.0  # after its last look, in which nobody else looks
_STAND_IN_SECONDS = 3.0  # shorter than a look of a worker that comes back
log = structlog.get_logger(__name__)


class Recorder:
    """Of one worker, in a thread of its own, from `open` to `close`."""

    def __init__(self) -> None:
        self._name = ""
        self._closing = Event()
        self._thread = Thread(target=self._keep, name="recorder", daemon=True)

    def open(self, name: str) -> None:
        """Start, as the worker of this name."""
        self._name = name
        self._thread.start()

    def close(self) -> None:
        """Wait for the look that runs."""
        self._closing.set()
        if self._thread.is_alive():
            self._thread.join()

    def _keep(self) -> None:
        while not self._closing.wait(LOOK_SECONDS):
            try:
                if events.take_turn(self._name, _TURN_SECONDS):
                    _record(self._name, status.look_to_record().result())
            except RedisError as error:  # nothing is recorded while the cache is down
                log.debug("status_unrecorded", error=str(error))
            except Exception:
                log.exception("recording_failed")


@owned(close=Recorder.close)
def recorder() -> Recorder:
    """That of this process."""
    return Recorder()


def stand_in(name: str, found: Snapshot) -> None:
    """Record what a process sees whose page is watched, if no worker records."""
    try:
        if events.take_turn(name, _STAND_IN_SECONDS):
            _record(name, found)
    except RedisError as error:
        log.debug("status_unrecorded", error=str(error))


def _record(name: str, found: Snapshot) -> None:
    """Raises `RedisError`."""
    pulses.tell(Pulse("look", name, levels=status.levels(found)))
    events.note(status.states(found), found.at)
