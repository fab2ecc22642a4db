"""What Celery's tasks say they have done, by the events that Flower shows, too."""

from __future__ import annotations

import ast
import contextlib
import threading
from collections.abc import Iterator
from typing import Any

from celery import Celery

from benchmarks.chaos.subject import Subject
from benchmarks.document import Part
from runtime import polling

FIRST_SECONDS = 15.0  # for the first event: a worker sends a heartbeat every two seconds
LAST_SECONDS = 10.0  # for a report: a task sends it when its shift is over


class Reports:
    """The sum of what tasks of `counters.apply` have reported. `operations`: the folded operations that were new."""

    def __init__(self) -> None:
        self.tasks = self.operations = 0
        self.heard = threading.Event()  # any event of any worker
        self._failure = ""

    def capture(self, receiver: Any) -> None:
        """A thread's target: take events until the receiver is told to stop."""
        try:
            receiver.capture(wakeup=False)
        except Exception as error:
            self._failure = f"; then no event was received any more: {error!r}"

    def take(self, event: dict[str, Any]) -> None:
        """A task has succeeded. Only those that apply a lane have a result."""
        result = str(event.get("result"))
        if "'operations'" in result:
            self.operations += ast.literal_eval(result)["operations"]
            self.tasks += 1
        self.heard.set()

    def wait(self, operations: int) -> None:
        """Until so many are reported, or for some seconds."""
        polling.until(lambda: self.operations >= operations, LAST_SECONDS, pause=0.05)

    def compare(self, part: Part, accepted: int) -> None:
        """Note in the part whether the reports add up to what was accepted."""
        whose = "Tasks of Celery, by their results"
        found = "exact" if self.operations == accepted else f"{self.operations - accepted:+,}"
        part.checks.append(f"{whose}: {self.tasks:,} tasks, {self.operations:,} of {accepted:,} operations: {found}")
        if self.operations != accepted:
            part.wrong.append(f"{whose}: counted {self.operations:,}, accepted {accepted:,}{self._failure}")


@contextlib.contextmanager
def reports(subject: Subject) -> Iterator[Reports]:
    """What is reported while the block runs. Raises `TimeoutError` if no worker sends events."""
    found = Reports()
    handlers = {"task-succeeded": found.take, "*": lambda _event: found.heard.set()}
    with (
        Celery(broker=subject.env["TALLY_BROKER_URL"], set_as_current=False) as app,
        app.connection_for_read() as connection,
    ):
        receiver = app.events.Receiver(connection, handlers=handlers)
        thread = threading.Thread(target=found.capture, args=(receiver,), daemon=True)
        thread.start()
        try:
            if not found.heard.wait(FIRST_SECONDS):
                raise TimeoutError(f"no worker has sent an event for {FIRST_SECONDS:g} s")
            yield found
        finally:
            receiver.should_stop = True
            thread.join()
