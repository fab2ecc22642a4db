"""The copies of a shard, from what its primary and each Patroni say."""

from __future__ import annotations

import pytest

from replication import copies
from replication.copies import Primary, Said
from replication.patroni import Server, _About
from sharding.nodes import Node

NODES = [Node(host="10.0.0.1", port=5432 + n, patroni=f"http://10.0.0.1:{8008 + n}") for n in range(3)]


def said(number: int, role: str, state: str = "running") -> Said:
    return Said(f"node-{number}", Server(_About(f"node-{number}"), state, role))


def silent(number: int) -> Said:
    return Said(f"node-{number}", None)


ALL = [said(0, "primary"), said(1, "replica"), said(2, "replica")]


@pytest.mark.parametrize(
    ("streaming", "answers", "count", "told"),
    [
        (["node-1", "node-2"], ALL, 3, ["running", "streaming", "streaming"]),
        (["node-2"], [*ALL[:1], said(1, "replica", "starting"), ALL[2]], 2, ["running", "starting!", "streaming"]),
        (["node-2"], [ALL[0], silent(1), ALL[2]], 2, ["running", "unreachable!", "streaming"]),
        (["node-1", "node-2"], [silent(0), silent(1), ALL[2]], 3, ["unreachable!", "unreachable!", "streaming"]),
        ([], ALL, 1, ["running", "running!", "running!"]),
        (None, [silent(0), *ALL[1:]], 0, ["unreachable!", "running!", "running!"]),
    ],
    ids=["whole", "one starts", "one is gone", "streams, but its Patroni is gone", "none follows", "no primary"],
)
def test_each_server(streaming: list[str] | None, answers: list[Said], count: int, told: list[str]) -> None:
    """`!` marks a server that cannot be relied on."""
    primary = None if streaming is None else Primary(NODES[0].host, NODES[0].port, streaming)
    found = copies.of(7, primary, list(zip(NODES, answers, strict=True)))
    assert (found.copies, found.wanted) == (count, 3)
    assert [f"{one.state}{'!' if one.trouble else ''}" for one in found.servers] == told
    assert sum(one.is_copy for one in found.servers) == count
    assert [one.role for one in found.servers] == ["primary" if primary else "replica", "replica", "replica"]


def test_without_patroni_nobody_has_a_name() -> None:
    nodes = [Node(host=node.host, port=node.port) for node in NODES]
    answers = [(node, Said(copies.name_of(node), None)) for node in nodes]
    whole = copies.of(0, Primary(nodes[1].host, nodes[1].port, ["walreceiver", "other"]), answers)
    assert [(one.node, one.role, one.is_copy, one.trouble) for one in whole.servers] == [
        ("10.0.0.1:5432", "replica", True, ""),
        ("10.0.0.1:5433", "primary", True, ""),
        ("10.0.0.1:5434", "replica", True, ""),
    ]
    fewer = copies.of(0, Primary(nodes[1].host, nodes[1].port, ["walreceiver"]), answers)
    assert fewer.copies == 2
