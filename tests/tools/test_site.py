"""The documentation site of `make docs`: what its menu has, what its reference has, and that Sphinx has no complaint."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path
from typing import Any

import pytest
from drf_spectacular.generators import SchemaGenerator

from docs.site import pages
from tests.support.commands import ROOT

README = (ROOT / "README.md").read_text(encoding="utf-8")
SPHINX = ROOT / ".venv-docs" / "bin" / "python"


@pytest.fixture(scope="module")
def openapi() -> dict[str, Any]:
    schema: dict[str, Any] = SchemaGenerator().get_schema(public=True)  # type: ignore[no-untyped-call]
    return schema


def test_the_menu_has_every_page_once() -> None:
    menu = pages.menu(README)
    there = {f"docs/{page.stem}" for page in (ROOT / "docs").glob("*.md")} | {"CHANGELOG", "SECURITY"}
    assert set(menu) == there
    assert len(menu) == len(there)


def test_the_reference_has_every_call_and_body(openapi: dict[str, Any]) -> None:
    reference = pages.reference_pages(openapi)
    headings = {name: re.findall(r"^## (.+)$", text, re.MULTILINE) for name, text in reference.items()}
    bodies = headings.pop("bodies")
    calls = {f"{method.upper()} {path}" for path, methods in openapi["paths"].items() for method in methods}
    assert sorted(one for ones in headings.values() for one in ones) == sorted(calls)
    assert sorted(bodies) == sorted(openapi["components"]["schemas"])
    assert "[ProblemDocument](bodies.md#problemdocument)" in "".join(reference.values())


def test_it_is_built_without_a_warning(openapi: dict[str, Any], tmp_path: Path) -> None:
    if not SPHINX.exists():
        pytest.skip("`make docs` has not installed Sphinx")
    pages.lay_out(openapi, tmp_path / "source")
    build = [str(SPHINX), "-m", "sphinx", "-q", "-W", "--keep-going", "-b", "html", "-c", str(ROOT / "docs" / "site")]
    done = subprocess.run(
        [*build, str(tmp_path / "source"), str(tmp_path / "html")], check=False, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert "Tally" in (tmp_path / "html" / "index.html").read_text(encoding="utf-8")
