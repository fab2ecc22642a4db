"""What /status shows: to whom, what counts as trouble, and how figures are drawn."""

from __future__ import annotations

import re
from typing import Any

import msgspec
import pytest
from django.db import OperationalError
from django.http import HttpRequest, HttpResponse

from counters.api import status as page
from counters.api.status import HEIGHT, WIDTH, chart, short
from counters.operators import status
from counters.operators.health import Component, Redundancy, ShardCopies, View
from counters.operators.history import Change, History
from counters.operators.queues import LaneQueue, Queues
from counters.operators.status import Figure, Order, Recorded, Snapshot
from runtime.balancing import State
from runtime.looks import Late
from runtime.pulses import Heard, Pulse

NOW = 1_000_000.0
SERVERS = [
    Component("shard-0-node-1", "up", "", 0, "primary", "running"),
    Component("shard-0-node-2", "down", "it does not stream", 0, "replica", "stopped"),
]
VIEW = View([Component("journal", "up"), *SERVERS], Redundancy(1, 1, [ShardCopies(0, 1, 2)]), "")
QUEUES = Queues(
    {0: {"fresh": 5, "excess": 2, "stale": 0}},
    [LaneQueue("0.0", 1, 0.5, 0, ""), LaneQueue("0.1", 2, 3.5, 0, "worker-0-1@host")],
    [0],
    {"worker shard-0 worker-0-1@host": 1.0, "consumer shard-0 worker-0-1@host": 1.0, "beat": 1.0},
    State("round_robin", ["api-1", "api-2"], {}),
)


def recorded() -> Recorded:
    history = History()
    history.add([Heard(NOW - 60, Pulse("api", "api-2")), Heard(NOW - 60, Pulse("api", "api-9"))])
    history.add(Heard(NOW - ago, Pulse("worker", "worker-0-1@host")) for ago in range(59, 1, -1))
    history.add(Heard(NOW - ago, Pulse("api", "api-1")) for ago in range(60, 1, -1))
    last = Pulse("api", "api-1", gains={"requests": 3.0, "refused": 0.0}, hot={"secret:key": 2.0})
    history.add([Heard(NOW - 1, last)])
    return Recorded(NOW, history, [Change(NOW, "cache", "up", "down")])


def snapshot(**results: Any) -> Snapshot:
    whole = {
        "health": VIEW,
        "queues": QUEUES,
        "recorded": recorded(),
        "breakers": [("shard-0:primary", "closed", False)],
        "orders": [Order(NOW, 0, "switchover", "shard-0-node-2", "user ann", "her reason", "done")],
        "written": {"secret:key": 9.0},
        "lags 0": {},
    }
    return status.of(whole | results, NOW)


def test_trouble_is_what_is_down_and_wanted() -> None:
    found = snapshot()
    assert found.parts[0] == status.Part("nginx", "up", "round robin")
    assert [one.name for one in found.troubles] == ["shard-0-copies", "shard-0-node-2", "api-2"]
    assert not found.is_down
    assert found.apis == [
        status.Part("api-1", "up", figures="3 requests/s"),
        status.Part("api-2", "down", "silent for 60 s"),
    ]


def test_an_api_process_that_was_not_asked_is_not_silent() -> None:
    """They tell only while somebody watches: who opens the page sees none of them as down."""
    history = History()
    history.add(Heard(NOW - ago, Pulse("api", name)) for ago in (100, 99) for name in ("api-1", "api-2"))
    unheard = snapshot(recorded=Recorded(NOW, history, []))
    history.add([Heard(NOW - 1, Pulse("api", "api-1"))])
    heard = snapshot(recorded=Recorded(NOW, history, []))
    for found in (unheard, heard):
        assert [(one.name, one.status) for one in found.apis or ()] == [("api-1", "up"), ("api-2", "up")]


def test_an_api_process_that_does_not_run_is_down() -> None:
    balancer = State("round_robin", ["api-1", "api-2"], {}, stopped=["api-2"])
    found = snapshot(queues=msgspec.structs.replace(QUEUES, balancer=balancer), recorded=Late())
    assert found.apis == [status.Part("api-1", "up"), status.Part("api-2", "down", "it does not run")]


def test_what_nobody_tells_is_not_nothing() -> None:
    """A worker's look does not ask the API processes."""
    found = snapshot(recorded=Recorded(NOW, History(), []))
    assert {one.name: one.now for one in found.figures if one.name in ("requests", "refused")} == {
        "requests": None,
        "refused": None,
    }
    assert "limits" not in status.states(found)
    assert status.states(found)["limits of shard 0"] == ("spilling", "2 increments in the excess queue")


def test_the_journal_away_is_down() -> None:
    found = snapshot(health=VIEW._replace(components=[Component("journal", "down", "no answer in time")]))
    assert found.is_down


@pytest.mark.parametrize("source", status.SOURCES)
@pytest.mark.parametrize("error", [Late(), OSError("10.0.0.1 refuses")])
def test_what_does_not_answer_is_said_and_all_else_is_shown(source: str, error: Exception) -> None:
    found = snapshot(**{source: error})
    assert len(found.missing) == 1
    assert found.missing[0].startswith(status.SOURCES[source])
    assert "10.0.0.1" not in found.missing[0]
    assert found.parts or source == "health"
    assert (found.lanes is None) == (source == "queues")
    assert (found.events is None) == (source == "recorded")
    assert (found.orders is None) == (source == "orders")


def test_nobody_answers() -> None:
    found = snapshot(**dict.fromkeys((*status.SOURCES, "written", "lags 0"), Late()))
    assert (len(found.missing), found.shards, found.hottest) == (len(status.SOURCES), [], [])
    assert {figure.now for figure in found.figures} == {None}
    assert status.states(found) == {}
    assert status.levels(found) == {}


def test_what_anybody_sees_has_no_names_of_people_workers_and_counters() -> None:
    shown = msgspec.json.encode(status.public(snapshot())).decode()
    for private in ("secret:key", "ann", "her reason", "worker-0-1@host", "switchover"):
        assert private in msgspec.json.encode(snapshot()).decode()
        assert private not in shown
    assert "shard-0-node-2" in shown


class Request(HttpRequest):
    """Of a browser with these cookies, while the control database does not answer."""

    def __init__(self, cookies: dict[str, str]) -> None:
        super().__init__()
        self.COOKIES = cookies

    def __getattribute__(self, name: str) -> Any:
        if name == "user":
            raise OperationalError("connection refused")
        return super().__getattribute__(name)


def test_staff_are_known_while_the_control_database_is_away() -> None:
    kept = HttpResponse()
    page.keep_proof(kept, Request({"sessionid": "s" * 32}))
    proof = {page.COOKIE: kept.cookies[page.COOKIE].value}
    assert page.is_staff(Request({"sessionid": "s" * 32, **proof}))
    for cookies in ({}, proof, {"sessionid": "s" * 32}, {"sessionid": "t" * 32, **proof}):
        assert not page.is_staff(Request(cookies)), cookies
    forged = {page.COOKIE: f"forged{proof[page.COOKIE]}"}
    assert not page.is_staff(Request({"sessionid": "s" * 32, **forged}))


def test_lanes_that_wait_longest_come_first() -> None:
    assert [one.lane for one in snapshot().lanes or ()] == ["0.1", "0.0"]


def test_states_whose_change_is_an_event() -> None:
    found = status.states(snapshot())
    assert found["primary of shard 0"] == ("shard-0-node-1", "")
    assert found["shard-0-node-2"] == ("down", "it does not stream")
    assert found["journal entries of shard 0"][0] == "degraded"
    assert found["breaker of shard-0:primary"][0] == "closed"
    assert found["limits"][0] == "quiet"


def test_a_chart_stays_in_its_box_and_has_gaps() -> None:
    drawn = chart(Figure("x", "Title", "/s", 3.0, [None, 0.0, 12.5, None, 100.0]))
    assert (drawn.now, drawn.most) == ("3/s", "100/s")
    assert drawn.line.count("M") == 2
    points = re.findall(r"([\d.]+) ([\d.]+)", drawn.line + drawn.area)
    assert {(0 <= float(x) <= WIDTH, 0 <= float(y) <= HEIGHT) for x, y in points} == {(True, True)}


def test_the_highest_value_may_be_that_of_now() -> None:
    drawn = chart(Figure("x", "Title", "s", 4.0, [0.0, 1.0]))
    assert (drawn.now, drawn.most) == ("4 s", "4 s")
    assert drawn.line == "M0 62 L300 47"


def test_a_chart_of_what_nobody_knows() -> None:
    assert chart(Figure("x", "Title", "", None, [None] * 3)) == ("Title", "unknown", "unknown", "", "")


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0, "0"),
        (0.25, "0.25"),
        (1.98, "2.0"),
        (7.0, "7"),
        (1234.6, "1,235"),
        (123_456, "123 k"),
        (12_345_678, "12.3 M"),
    ],
)
def test_numbers_for_people(value: float, text: str) -> None:
    assert short(value) == text


@pytest.mark.parametrize(
    ("url", "address"),
    [
        ("redis://:secret@10.0.0.1:6379/0", "10.0.0.1:6379"),
        ("rediss://cache", "cache"),
        ("amqp://tally:secret@rabbit:5672//", "rabbit:5672"),
        ("unix:///run/redis.sock", "/run/redis.sock"),
        ("sentinel://:secret@a:1;sentinel://:secret@b:2", ""),
    ],
)
def test_an_address_has_no_password(url: str, address: str) -> None:
    assert status.address_of(url) == address
