"""The commands of `manage.py`: those that show something do it in one style, and the page has all of them."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from django.core.management import get_commands, load_command_class
from django.core.management.base import BaseCommand, CommandError

from cluster import cli, state
from cluster import commands as of_cluster
from cluster.layout import Directory
from runtime.commands import ShowCommand
from tests.support.cluster import Cluster, eventually, in_process
from tests.support.commands import ROOT, clean

OURS = {"counters", "likes", "replication"}
NOT_DJANGO = {*cli.COMMANDS, "quorum_report"}
SHOWING = ["audit", "breakers", "doctor", "journal", "lanes", "limits", "quorum", "reconcile", "replicas"]
CLOSED = "127.0.0.1:1"
NOWHERE = {
    "TALLY_SECRET_KEY": "of a test, and as long as it has to be for the checks to pass",
    "TALLY_DATABASE_PASSWORD": "none",
    "TALLY_SHARDS": json.dumps([{"nodes": [{"host": "127.0.0.1", "port": 1, "patroni": f"http://{CLOSED}"}]}]),
    **{f"TALLY_{name}_URL": f"redis://{CLOSED}/0" for name in ("JOURNAL", "CACHE", "BROKER")},
}
# Each command in this process, as `in_process`: a process for each would cost a second.
ALL_IN_ONE = """
import json, os, sys
os.environ["DJANGO_SETTINGS_MODULE"] = "counter_project.settings"
import django
from runtime.resources import Resources
with Resources():
    django.setup()
    from django.core.management import CommandError
    from tests.support.cluster import in_process
    for name in sys.argv[1:]:
        try:
            said, status, error = *in_process(name, "--json"), ""
        except CommandError as refused:
            said, status, error = "", refused.returncode, str(refused)
        print(json.dumps([name, said, status, error]), flush=True)
"""


@cache
def own() -> dict[str, BaseCommand]:
    """The commands of Tally that Django runs."""
    return {name: load_command_class(app, name) for name, app in get_commands().items() if app in OURS}


@cache
def documented() -> dict[str, list[str]]:
    """The cells of each command in the tables of the page."""
    page = (ROOT / "docs/operating.md").read_text(encoding="utf-8")
    section = page.partition("\n## Commands\n")[2].partition("\n## ")[0]
    rows = [
        [cell.strip() for cell in line.strip("|").split(" | ")] for line in section.splitlines() if line[:3] == "| `"
    ]
    return {first.strip("| `"): cells for first, *cells in rows}


def test_every_command_is_on_the_page() -> None:
    inner = {f"cluster {name}" for name in re.findall(r"[a-z]+", of_cluster.NAMES)} | {"likes replay"}
    assert documented().keys() == (own().keys() | NOT_DJANGO | inner) - {"cluster", "likes"}
    assert [name for name, command in sorted(own().items()) if isinstance(command, ShowCommand)] == SHOWING
    assert [name for name, cells in sorted(documented().items()) if len(cells) == 3 and name in own()] == SHOWING


@pytest.mark.parametrize("name", SHOWING)
def test_a_healthy_cluster_is_shown_as_one_document_with_the_keys_of_the_page(cluster: Cluster, name: str) -> None:
    def seen() -> tuple[Any, int]:
        said, status = in_process(name, "--json")
        return json.loads(said), status

    # Other tests leave batches set aside, dead letters and the like, which these three find.
    allowed = {0, 1} if name in {"doctor", "journal", "reconcile"} else {0}
    document, status = eventually(lambda: (found := seen())[1] in allowed and found, 60, pause=1)
    assert is_well(name, document) == (status == 0)
    (first, *_) = document if isinstance(document, list) else [document]
    keys = set(re.findall(r"`(\w+)`", re.sub(r"\(.*?\)", "", documented()[name][1])))
    assert first.keys() == keys - ({"error"} if name == "replicas" else set())
    page, status = in_process(name) if name != "reconcile" else ("seen", 0)
    assert page.strip()
    assert "\x1b" not in page


IS_WELL: dict[str, Callable[[Any], bool]] = {
    "audit": lambda document: document["broken"] is None,
    "breakers": lambda document: all(one["state"] == "closed" for one in document),
    "doctor": lambda document: not document["findings"],
    "journal": lambda document: not any(one["set_aside"] for one in document),
    "quorum": lambda document: all(one["in_force"] for one in document),
    "reconcile": lambda document: all(one["equal"] for one in document),
}


def is_well(name: str, document: Any) -> bool:
    """Whether a document of a whole cluster names nothing that is wrong."""
    return IS_WELL.get(name, bool)(document)


def test_what_cannot_be_seen_ends_with_two_and_says_what_to_do() -> None:
    """The doctor says so itself, and its time-outs are long; a comparison that was not possible has a document."""
    names = [one for one in SHOWING if one != "doctor"]
    done = subprocess.run(
        [sys.executable, "-c", ALL_IN_ONE, *names],
        cwd=ROOT,
        env=clean(**NOWHERE),
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    found = [json.loads(line) for line in done.stdout.splitlines()]
    assert [one[0] for one in found] == names
    for name, said, status, error in found:
        assert status == 2, (name, error)
        if name == "reconcile":
            assert [one["equal"] for one in json.loads(said)] == [None]
        else:
            assert said == ""
            assert re.search("manage.py|TALLY_", error), (name, error)


def test_the_local_cluster_is_shown_in_the_same_style(
    cluster: Cluster, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert of_cluster.run(["status", "--json", "--dir", str(cluster.dir)]) == 0
    keys = set(re.findall(r"`(\w+)`", documented()["cluster status"][1]))
    assert json.loads(capsys.readouterr().out).keys() == keys
    assert of_cluster.run_loadbalancer(["--json", "--dir", str(cluster.dir)]) == 0
    keys = set(re.findall(r"`(\w+)`", documented()["loadbalancer"][1]))
    assert (balanced := json.loads(capsys.readouterr().out)).keys() == keys
    assert set(balanced["processes"].values()) == {"serves"}
    (stopped := Directory(tmp_path / "stopped")).root.mkdir()
    state.write(stopped, state.State(phase="ready"))
    assert of_cluster.run(["status", "--dir", str(stopped.root)]) == 1
    assert capsys.readouterr().out.startswith(f"stopped: {stopped.root}\n")
    assert of_cluster.run(["status", "--json", "--dir", str(tmp_path / "none")]) == 2
    assert "`cluster up` makes one" in (said := capsys.readouterr()).err
    assert not said.out
    assert of_cluster.run_loadbalancer(["--dir", str(tmp_path / "none")]) == 2
    assert "`cluster up` makes one" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "complaint"),
    [
        (("quorum", "--shard", "7"), "there is no shard 7"),
        (("quorum", "-1"), "no number of replicas"),
        (("replicas", "--shard", "-1"), "there is no shard -1"),
        (("journal", "--retry", "x"), "an id has 32 hexadecimal digits"),
        (("limits", "--key", "none"), "there is no API key none"),
    ],
)
def test_a_wrong_command_line_is_a_sentence_and_ends_with_two(
    cluster: Cluster, words: tuple[str, ...], complaint: str
) -> None:
    with pytest.raises(CommandError, match=complaint) as raised:
        cluster.command(*words)
    assert raised.value.returncode == 2
