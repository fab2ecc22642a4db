"""What the doctor makes of what it has seen."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import msgspec
import pytest
from django.core.management import get_commands

from counters.operators import diagnosis, health, status
from counters.operators.diagnosis import ADVICE, Facts, Finding
from counters.operators.health import Component, Redundancy, ShardCopies, View
from counters.operators.queues import LaneQueue, Queues
from counters.operators.status import Snapshot
from replication.archiving import Archiving
from runtime.looks import Late
from sharding.topology import NoTopology

BEFORE_DJANGO = {"cluster", "backup", "restore"}
WELL = Facts({"default": 0, "shard-0": 0}, {0: 0}, 0, {"0-0": None}, {0: 60.0}, {0: True}, None)
SERVER = Component("shard-0-node-1", "up", "", 0, "primary", "running")


def snapshot(*components: Component, age: float = 0.0, held: bool = False, copies: int = 1, **results: Any) -> Snapshot:
    """Of a system that is well, but for these components."""
    usual = {one.name: one for one in (Component("journal", "up"), Component("shard-0", "up", shard=0), SERVER)}
    view = View(
        [*(usual | {one.name: one for one in components}).values()], Redundancy(1, 1, [ShardCopies(0, copies, 1)]), ""
    )
    whole = {
        "health": view,
        "queues": Queues({0: {"fresh": 0, "excess": 0, "stale": 0}}, [LaneQueue("0.1", 1, age, 0, "")], [], {}, None),
        "recorded": None,
        "breakers": [("shard-0", "open" if held else "closed", held)],
    }
    return status.of(whole | results, 0.0)


def found(seen: Snapshot, facts: Facts = WELL) -> list[tuple[str, str]]:
    return [(one.subject, one.severity) for one in diagnosis.of(seen, facts).findings]


def test_nothing_is_wrong_with_what_is_well() -> None:
    whole = diagnosis.of(snapshot(), WELL)
    assert (whole.findings, whole.exit_status, whole.components) == ([], 0, 3)


@pytest.mark.parametrize(
    ("seen", "subject", "severity"),
    [
        (lambda: snapshot(Component("cache", "down", "no answer in time")), "cache", "broken"),
        (lambda: snapshot(Component("shard-0-worker", "down", "no worker runs", 0)), "shard-0-worker", "broken"),
        (lambda: snapshot(msgspec.structs.replace(SERVER, name="10.0.0.7:5432", status="down")), "10.0.0.7:5432", "broken"),
        (lambda: snapshot(age=3600.0), "shard-0-lanes", "warning"),
        (lambda: snapshot(held=True), "breaker shard-0", "warning"),
        (lambda: snapshot(Component("disks", "unknown", "nobody watches: the journal")), "disks", "unknown"),
        (lambda: snapshot(breakers=Late()), "status", "unknown"),
    ],
)  # fmt: skip
def test_what_the_status_shows(seen: Callable[[], Snapshot], subject: str, severity: str) -> None:
    assert found(seen()) == [(subject, severity)]


@pytest.mark.parametrize(
    ("facts", "subject", "severity"),
    [
        (WELL._replace(migrations={"default": 0, "shard-0": 2}), "tables of shard-0", "broken"),
        (WELL._replace(topology=NoTopology()), "topology", "broken"),
        (WELL._replace(set_aside={0: 3}), "shard-0-set-aside", "warning"),
        (WELL._replace(dead_letters=1), "dead letters", "warning"),
        (WELL._replace(archivers={"0-0": Archiving("shard-0-node-1", 9, True)}), "archive of shard-0-node-1", "broken"),
        (WELL._replace(maintained={0: 40 * 3600.0}), "shard-0-partitions", "warning"),
        (WELL._replace(equal={0: False}), "shard-0-comparison", "broken"),
    ],
)
def test_what_else_an_operator_would_look_up(facts: Facts, subject: str, severity: str) -> None:
    assert found(snapshot(), facts) == [(subject, severity)]


def test_a_question_that_nobody_answers_is_not_a_finding() -> None:
    """The component that did not answer is one already."""
    late = Late()
    facts = Facts({"shard-0": late}, {0: late}, late, {"0-0": late}, {0: late}, {0: None}, late)
    assert found(snapshot(Component("shard-0", "down", shard=0)), facts) == [("shard-0", "broken")]


def test_the_worst_comes_first_and_decides_the_exit_status() -> None:
    seen = snapshot(Component("disks", "unknown"), Component("beat", "down"), held=True)
    assert [severity for _, severity in found(seen)] == ["broken", "warning", "unknown"]
    assert diagnosis.of(seen, WELL).exit_status == 1
    assert diagnosis.of(snapshot(Component("disks", "unknown")), WELL).exit_status == 2


def test_a_cluster_that_does_not_run_is_one_finding() -> None:
    silent = (Component("journal", "down"), Component("cache", "down"), Component("shard-0", "down", shard=0))
    assert found(snapshot(*silent)) == [("everything", "broken")]


def test_every_component_has_advice_of_its_own() -> None:
    late = Late()
    view = health.of(dict.fromkeys(health._looks()._checks, late), 0.0)
    names = {one.name for one in view.components} | {"nginx", "api-1", "journal-copies", "disks", "shard-0-copies"}
    assert len(names) > 10
    for name in names:
        assert diagnosis.advice(name).consequence, name


def test_every_command_that_is_named_exists() -> None:
    advised = [diagnosis.advice(re.sub(r"\(\?P<shard>\\d\+\)|\\d\+|\.\+", "0", pattern)) for pattern, _ in ADVICE]
    facts = WELL._replace(
        migrations={"default": 1}, set_aside={0: 1}, dead_letters=1, maintained={0: 1e9}, equal={0: False}
    )
    findings: list[Finding] = diagnosis.of(snapshot(age=3600.0, held=True), facts).findings
    texts = [*(one.remedy for one in advised), *(one.remedy for one in findings)]
    named = {name for text in texts for name in re.findall(r"manage\.py (\w+)", text)}
    assert len(named) >= 5
    assert named <= get_commands().keys() | BEFORE_DJANGO
    assert not any("{" in text for text in texts)
