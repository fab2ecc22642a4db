"""Log lines that a stranger can cause are few, and say how many were left out."""

from __future__ import annotations

from typing import Any

from runtime.seldom import Seldom


def test_lines_of_an_event_are_few_and_the_next_window_counts_the_others() -> None:
    lines: list[tuple[str, dict[str, Any]]] = []
    seldom = Seldom(most=2, seconds=0.0)

    def write(event: str, **fields: Any) -> None:
        lines.append((event, fields))

    bounded = Seldom(most=2, seconds=3600)
    for number in range(10):
        bounded.log(write, "a", number=number)
    bounded.log(write, "b")
    assert lines == [("a", {"number": 0}), ("a", {"number": 1}), ("b", {})]
    lines.clear()
    bounded._windows["a"] = (bounded._windows["a"][0] - 7200, 10)  # two hours later
    bounded.log(write, "a", number=10)
    assert lines == [("a", {"number": 10, "left_out": 8})]
    lines.clear()
    for _ in range(3):
        seldom.log(write, "a")
    assert lines == [("a", {})] * 3, "windows that have ended left nothing out"
