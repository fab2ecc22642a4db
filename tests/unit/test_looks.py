"""Looks: bounded, shared, and a check that hangs is not begun again."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from threading import Event
from typing import Any

import pytest

from runtime.looks import Late, Looks

SECONDS = 0.2


def kept(results: Mapping[str, Any], _began: float) -> dict[str, Any]:
    return dict(results)


def looks(checks: Mapping[str, Callable[[], Any]], fresh: float = 60.0) -> Looks[dict[str, Any]]:
    return Looks(checks, kept, seconds=SECONDS, fresh_seconds=fresh)


def test_each_check_has_its_result() -> None:
    def broken() -> None:
        raise ValueError("of a test")

    found = looks({"one": lambda: 1, "broken": broken}).look().result()
    assert found["one"] == 1
    assert isinstance(found["broken"], ValueError)


def test_a_check_that_hangs_is_late_and_holds_one_thread() -> None:
    begun, go_on = [0], Event()

    def hangs() -> str:
        begun[0] += 1
        go_on.wait(60)
        return "done"

    shared = looks({"hangs": hangs, "one": lambda: 1}, fresh=0.0)
    try:
        for _ in range(3):
            started = time.monotonic()
            found = shared.look().result()
            while time.monotonic() - started < SECONDS:  # until the answer is too old to be shared
                time.sleep(0.01)
            assert isinstance(found["hangs"], Late)
            assert found["one"] == 1
        assert begun == [1]
    finally:
        go_on.set()
    until = time.monotonic() + 30
    while shared.look().result()["hangs"] != "done" and time.monotonic() < until:
        time.sleep(0.01)
    assert shared.look().result()["hangs"] == "done"


def test_all_who_ask_share_a_look() -> None:
    begun = [0]

    def counts() -> int:
        begun[0] += 1
        time.sleep(0.05)
        return begun[0]

    shared = looks({"counts": counts})
    with ThreadPoolExecutor(16) as pool:
        found = list(pool.map(lambda _: shared.look().result()["counts"], range(200)))
    assert found == [1] * 200


def test_nobody_waits_for_a_look_while_the_last_one_will_do() -> None:
    go_on = Event()
    shared = looks({"slow": lambda: go_on.wait(60)}, fresh=0.0)
    shared.look().result()
    assert shared.look().done(), "the next one has begun, and the last one answers meanwhile"
    go_on.set()


def test_an_error_of_the_assembly_is_raised_and_does_not_last() -> None:
    broken = [True]

    def assemble(_results: Mapping[str, Any], _began: float) -> str:
        if broken.pop():
            raise ZeroDivisionError
        return "whole"

    shared = Looks({"one": lambda: 1}, assemble, seconds=SECONDS, fresh_seconds=0.0)
    broken.insert(0, False)
    with pytest.raises(ZeroDivisionError):
        shared.look().result()
    until = time.monotonic() + 30
    while time.monotonic() < until:
        look = shared.look()
        if look.exception() is None:
            break
        time.sleep(0.05)
    assert look.result() == "whole"
