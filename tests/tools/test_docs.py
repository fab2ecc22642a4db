"""The documentation says what is so."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from counter_project import config
from tests.support.commands import ROOT

PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
SETTINGS = re.compile(r"(<!-- settings -->\n)(.*?)(<!-- /settings -->)", re.DOTALL)


def test_every_setting_is_documented() -> None:
    """To write it anew: python -c "import tests.tools.test_docs as t; t.write_settings()"."""
    found = SETTINGS.search((ROOT / "docs" / "settings.md").read_text())
    assert found
    assert found[2] == config.markdown()


def write_settings() -> None:
    page = ROOT / "docs" / "settings.md"
    page.write_text(SETTINGS.sub(lambda found: found[1] + config.markdown() + found[3], page.read_text()))


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_somewhere(page: Path) -> None:
    for target in re.findall(r"\]\(([^)#:]+)\)", page.read_text()):
        assert (page.parent / target).exists(), target


def test_the_modules_of_the_invariants_exist() -> None:
    """The table of docs/architecture.md names modules and tests that are there."""
    table = (ROOT / "docs" / "architecture.md").read_text().partition("## Invariants")[2].partition("## Choices")[0]
    for module in re.findall(r"`((?:intake|apply|api|reading|replication|sharding|counters)\.[a-z_]+)`", table):
        room = "" if module.startswith(("replication", "sharding", "counters")) else "counters/"
        assert (ROOT / f"{room}{module.replace('.', '/')}.py").exists(), module
    for test in re.findall(r"`(test_[a-z_]+)(?:\.(test_[a-z_]+))?`", table):
        source = next((ROOT / "tests").rglob(f"{test[0]}.py")).read_text()
        assert test[1] in source
