"""Each limit of docs/limits.md has a test that says so: `@pytest.mark.limit("TALLY_…")`."""

from __future__ import annotations

import ast
from collections.abc import Iterator

from counter_project.config import PREFIX, Config
from tests.support.commands import ROOT


def marked(source: str) -> Iterator[str]:
    """The settings that tests of a module are marked with."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.FunctionDef) and node.name.startswith("test_"):
            for mark in node.decorator_list:
                if isinstance(mark, ast.Call) and ast.unparse(mark.func) == "pytest.mark.limit":
                    yield from map(ast.literal_eval, mark.args)


def test_each_limit_has_a_test_that_fails_without_it() -> None:
    """Whoever marks a test has seen that: take the limit out of the code, and run it."""
    sources = [path.read_text() for path in (ROOT / "tests").rglob("test_*.py")]
    found = {setting for source in sources if "mark.limit" in source for setting in marked(source)}
    assert found == {
        f"{PREFIX}{name.upper()}" for name, field in Config.model_fields.items() if field.json_schema_extra
    }


def test_only_marks_count() -> None:
    source = """
# @pytest.mark.limit("TALLY_A")
@pytest.mark.limit("TALLY_B", "TALLY_C")
def test_of_it():
    "TALLY_D"  # not @pytest.mark.limit("TALLY_E")

@pytest.mark.limit("TALLY_F")
def helper():
    pass
"""
    assert list(marked(source)) == ["TALLY_B", "TALLY_C"]
