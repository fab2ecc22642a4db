"""docs/tutorial.md: every file is written and every command run as the page has them, in a folder of the test's own."""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from uuid import uuid4

from markdown_it import MarkdownIt

from benchmarks.demo import __main__ as demo
from benchmarks.demo.page import Block
from benchmarks.demo.shell import Shell
from tests.support.cluster import Cluster
from tests.support.commands import ROOT

PAGE = ROOT / "docs" / "tutorial.md"
ADDRESS, KEYS = "http://127.0.0.1:8000", "shop:views:"  # on the page; the test's cluster has others


def samples(text: str) -> Iterator[tuple[str, str] | Block]:
    """What the page tells to do: (path, text) of a file, whose name ends the paragraph before it; commands with what
    they print."""
    tokens = MarkdownIt().parse(text)
    fences = [number for number, token in enumerate(tokens) if token.type == "fence"]
    for number in fences:
        token = tokens[number]
        if token.info == "python":
            named = re.search(r"`([^`]+)`:$", tokens[number - 2].content)
            assert named, f"no path before {token.content}"
            yield named[1], token.content
        elif token.info.startswith("sh"):
            after = tokens[number + 1] if number + 1 in fences else None
            sees = after.content if after and after.info == "text" else "…"
            assert token.map
            yield Block(token.content, sees, token.map[0] + 1, token.info == "sh repeat")
        else:
            assert token.info == "text", token.info


def test_a_hot_row_moves_as_the_page_says(cluster: Cluster, tmp_path: Path) -> None:
    secret = tmp_path / "tally" / ".cluster" / "api-key"
    secret.parent.mkdir(parents=True)
    secret.write_text(cluster.key)
    text = PAGE.read_text(encoding="utf-8")
    assert ADDRESS in text
    assert KEYS in text
    text = text.replace(ADDRESS, cluster.url).replace(KEYS, f"tutorial-{uuid4()}:")
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    inherited = {name: value for name, value in os.environ.items() if not name.startswith(("DJANGO_", "PYTHON"))}
    with Shell(tmp_path, {**demo.environment(inherited), "PATH": path}) as shell:
        for sample in samples(text):
            if isinstance(sample, Block):
                output, wrong = demo.check(sample, shell)
                assert not wrong, f"line {sample.line}: {wrong}\n{output}"
            else:
                (tmp_path / "shop" / sample[0]).write_text(sample[1], encoding="utf-8")
