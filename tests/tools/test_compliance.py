"""docs/compliance.md: every file and test that it names exists, and no promise of the README is missing."""

from __future__ import annotations

import re
from functools import cache

import pytest

from tests.support.commands import ROOT

PAGE = (ROOT / "docs" / "compliance.md").read_text(encoding="utf-8")
ROWS = [
    cells
    for line in PAGE.splitlines()
    if line.startswith("| ")
    and (cells := [cell.strip() for cell in line.strip("|").split(" | ")])[0] not in {"requirement", "promise", "---"}
]


@cache
def defined_in(path: str) -> set[str]:
    return set(re.findall(r"^(?:async )?def (test_\w+)\(", (ROOT / path).read_text(encoding="utf-8"), re.MULTILINE))


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row[0][:40])
def test_a_row_names_what_exists(row: list[str]) -> None:
    _, where, shown = row
    named = re.findall(r"`([^`]+)`", where)
    assert named or "](" in where
    assert [path for path in named if not (ROOT / path).exists()] == []
    tests = re.findall(r"`(tests/[^`:]+)::(\w+)`", shown)
    assert tests or shown == "as above"
    assert [f"{path}::{name}" for path, name in tests if name not in defined_in(path)] == []


def test_every_page_that_the_readme_lists_has_a_row() -> None:
    listed = set(
        re.findall(r"\(docs/(\w+\.md)\)", (ROOT / "README.md").read_text(encoding="utf-8").partition("## Read on")[2])
    )
    assert listed - {"compliance.md"} <= set(re.findall(r"\]\((\w+\.md)", PAGE))
