"""A clock for tests of what waits: it stands still but for what is slept and for what is added."""

from __future__ import annotations

from types import ModuleType

import pytest


class Clock:
    """`now` in seconds; `pauses` are those that were slept."""

    def __init__(self) -> None:
        self.now = 100.0
        self.pauses: list[float] = []

    def sleep(self, seconds: float) -> None:
        self.pauses.append(seconds)
        self.now += seconds

    @classmethod
    def of(cls, module: ModuleType, monkeypatch: pytest.MonkeyPatch) -> Clock:
        """The clock of a module that imports `monotonic` and `sleep`."""
        clock = cls()
        monkeypatch.setattr(module, "monotonic", lambda: clock.now)
        monkeypatch.setattr(module, "sleep", clock.sleep)
        return clock
