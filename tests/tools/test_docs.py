"""The documentation says what is so."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from cluster import configs, sentinels
from counter_project import config
from monitoring import dashboards, reference
from tests.support.commands import ROOT

PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
ROOMS = ("runtime", "sharding", "replication", "counters", "counter_project")


TABLES = {
    "settings": config.markdown,
    "limits": config.limits_markdown,
    "metrics": reference.markdown,
    "dashboards": dashboards.markdown,
}  # by page, and by the marks around it


@pytest.mark.parametrize("name", TABLES)
def test_every_setting_limit_and_metric_is_documented(name: str) -> None:
    """To write it anew: python -c "import tests.tools.test_docs as t; t.write_settings()"."""
    found = table(name).search((ROOT / "docs" / f"{name}.md").read_text())
    assert found
    assert found[2] == TABLES[name]()


def table(name: str) -> re.Pattern[str]:
    return re.compile(rf"(<!-- {name} -->\n)(.*?)(<!-- /{name} -->)", re.DOTALL)


def write_settings() -> None:
    for name, text in TABLES.items():
        page = ROOT / "docs" / f"{name}.md"
        start, _, end = page.read_text().partition(f"<!-- {name} -->\n")
        page.write_text(f"{start}<!-- {name} -->\n{text()}<!-- /{name} -->{end.partition(f'<!-- /{name} -->')[2]}")


def test_the_journals_configuration_in_production_is_the_one_that_is_tested() -> None:
    """To write it anew: python -c "import tests.tools.test_docs as t; t.write_journal()"."""
    for path, text in journal_in_production().items():
        assert path.read_text() == text


def journal_in_production() -> dict[Path, str]:
    """What the local cluster's servers and Sentinels have, with names of settings in place of their values."""
    secrets = {"redis-journal": "@JOURNAL_PASSWORD@", "sentinel": "@SENTINEL_PASSWORD@"}
    port, primary, down_after, home = 1111, 2222, 3333, Path("@DIRECTORY@")
    server = configs.redis_journal_copy(port, secrets["redis-journal"], home)
    sentinel = sentinels.text(port, primary, down_after, home, secrets)
    names = {"127.0.0.1 2222": "@PRIMARY_HOST@ @PRIMARY_PORT@", "127.0.0.1": "@HOST@", "1111": "@PORT@"}
    names |= {"maxmemory 1gb": "maxmemory @MAXMEMORY@", "3333": "@DOWN_AFTER_MS@"}
    files = configs.Tls(Path("@CERTIFICATE@"), Path("@KEY@"), Path("@AUTHORITY@"))
    texts = {"journal": server, "sentinel": sentinel, "tls": configs.redis_tls(port, files)}
    for value, name in names.items():
        texts = {one: text.replace(value, name) for one, text in texts.items()}
    return {ROOT / "deploy" / "journal" / f"{one}.conf.in": text for one, text in texts.items()}


def write_journal() -> None:
    for path, text in journal_in_production().items():
        path.write_text(text)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_somewhere(page: Path) -> None:
    for target in re.findall(r"\]\(([^)#:]+)\)", page.read_text()):
        assert (page.parent / target).exists(), target


def test_the_house_is_as_the_page_says() -> None:
    """Each row of the table in docs/architecture.md is a folder; what its second column names is a module, file or
    folder there."""
    table = (
        (ROOT / "docs" / "architecture.md").read_text().partition("## The house")[2].partition("## A write's way")[0]
    )
    rows = re.findall(r"^\| `([a-z_/]+)` \| (.*) \|$", table, re.MULTILINE)
    assert len(rows) > 10
    for folder, told in rows:
        for name in re.findall(r"`([a-z_./]+)`", told):
            there = ROOT / folder / name
            assert there.exists() or there.with_name(f"{there.name}.py").exists(), f"{folder} {name}"
    folders = {f"{path.parent.relative_to(ROOT)}/" for room in ROOMS for path in (ROOT / room).glob("*/__init__.py")}
    named = {folder for folder, _ in rows} | {
        f"{folder}{name}/" for folder, told in rows for name in re.findall(r"`([a-z_]+)/?`", told)
    }
    assert folders - {f"{room}/{name}/" for room in ROOMS for name in ("management", "migrations")} <= named


def test_every_path_on_the_page_leads_somewhere() -> None:
    """A path in code marks: from the top, or from a folder of `counters`."""
    page = (ROOT / "docs" / "architecture.md").read_text().partition("## A write's way")[2]
    paths = re.findall(r"`([a-z_]+(?:/[a-z_]+)*/[a-z_]+\.(?:py|lua|sql|md))`", page)
    assert paths
    for path in paths:
        assert (ROOT / path).exists() or list((ROOT / "counters").rglob(path)), path


def test_every_module_on_the_page_is_there() -> None:
    """A dotted name in code marks is a module, from the top or from `counters`, or a name in one."""
    page = (ROOT / "docs" / "architecture.md").read_text().partition("## A write's way")[2]
    inner = {path.parent.name for path in ROOT.glob("counters/*/__init__.py")}
    names = [one for one in re.findall(r"`((?:[a-z_]+\.)+[A-Za-z_]+)`", page) if one.split(".")[0] in {*ROOMS, *inner}]
    assert len(names) > 10
    for name in names:
        path = ROOT / ("" if name.split(".")[0] in ROOMS else "counters") / name.replace(".", "/")
        module = path.parent.with_name(f"{path.parent.name}.py")
        is_there = path.with_name(f"{path.name}.py").exists() or (module.exists() and path.name in module.read_text())
        assert is_there, name


def test_the_tests_of_the_invariants_are_there() -> None:
    table = (ROOT / "docs" / "architecture.md").read_text().partition("## Invariants")[2].partition("## Choices")[0]
    tests = re.findall(r"`(test_[a-z_]+)(?:\.(test_[a-z_]+))?`", table)
    assert len(tests) > 5
    for module, test in tests:
        assert any(test in path.read_text() for path in (ROOT / "tests").rglob(f"{module}.py")), f"{module}.{test}"
