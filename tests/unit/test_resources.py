"""What a process holds: one of each, closed in order, and nothing of it in the child of a fork."""

from __future__ import annotations

import os
import socket
from collections.abc import Callable
from threading import Thread
from typing import Any
from urllib.error import HTTPError
from urllib.request import urlopen

import pytest

from runtime import metrics, resources
from runtime.resources import NotOpen, Resources, owned


def part_of(name: str, said: list[str], uses: Callable[[], object] = bool) -> Callable[[], object]:
    """A part that says when it is made and closed, and uses another while it closes."""

    def make() -> object:
        said.append(f"made {name}")
        return object()

    def close(_part: object) -> None:
        uses()
        said.append(f"closed {name}")

    return owned(close=close)(make)


def test_a_part_is_made_once_and_only_if_it_is_used() -> None:
    said: list[str] = []
    used, _unused = part_of("used", said), part_of("unused", said)
    with Resources():
        assert used() is used()
    assert said == ["made used", "closed used"]


def test_resources_that_are_opened_again_are_empty() -> None:
    said: list[str] = []
    part, held = part_of("it", said), Resources()
    found = []
    for _ in range(2):
        held.open()
        found.append(part())
        held.close()
    assert found[0] is not found[1]
    assert said == ["made it", "closed it"] * 2


def test_the_part_declared_last_is_closed_first() -> None:
    """Whichever was made first; and one that closes may still use those declared before it."""
    said: list[str] = []
    low = part_of("low", said)
    high = part_of("high", said, uses=low)
    with Resources():
        high()
    assert said == ["made high", "made low", "closed high", "closed low"]


def test_a_part_that_fails_to_close_keeps_no_other_open() -> None:
    said: list[str] = []

    def fail() -> None:
        raise OSError("of a test")

    low, high = part_of("low", said), part_of("high", said, uses=fail)
    with Resources():
        low()
        high()
    assert said[-1] == "closed low"


def test_resources_within_others_have_their_own_parts() -> None:
    part = owned(object)
    with Resources():
        outer = part()
        with Resources():
            assert part() is not outer
        assert part() is outer


def test_nothing_is_made_while_nothing_is_open(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(resources, "_open", [])
    with pytest.raises(NotOpen):
        owned(object)()


def test_all_threads_get_the_same_part() -> None:
    part, found = owned(object), []
    with Resources():
        threads = [Thread(target=lambda: found.append(part())) for _ in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert len(found) == 8
    assert len(set(map(id, found))) == 1


@pytest.mark.filterwarnings("ignore:.*multi-threaded:DeprecationWarning")
def test_the_child_of_a_fork_has_no_part_of_its_parent() -> None:
    said: list[str] = []
    part = part_of("it", said)
    with Resources():
        part()
        child = os.fork()
        if not child:
            part()
            os._exit(0 if said == ["made it", "made it"] else 1)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
        assert part() is part()
    assert said == ["made it", "closed it"]


def test_a_server_of_metrics_gives_its_port_back() -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port: int = free.getsockname()[1]
    for _ in range(2):
        server: Any = metrics.Server("127.0.0.1", port, "token")
        server.open()
        with pytest.raises(HTTPError, match="401"):
            urlopen(f"http://127.0.0.1:{port}/metrics", timeout=30)
        server.close()
