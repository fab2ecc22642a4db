"""The copies of a shard: each of its servers as its primary and its own Patroni see it now, and how many copies there
are.

A copy is a server that has every commit or is receiving it: the primary, and each replica that streams from it. Which
these are, the primary says (`ask_primary`). What a server does instead, its Patroni says (`ask_server`). Each question
is for one server, so that one that hangs delays no other answer; `of` puts the answers together.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from typing import Literal, NamedTuple

import msgspec

from replication import patroni
from replication.flush import FOLLOWS
from replication.patroni import PatroniUnavailable, Server
from sharding import databases
from sharding.nodes import Node

# Replicas connect under their Patroni name.
STREAMING = f"SELECT array(SELECT application_name FROM pg_stat_replication WHERE {FOLLOWS})"  # noqa: S608 - a constant
Role = Literal["primary", "replica"]
SECONDS = 0.8  # for a connection, and for each answer


class Primary(NamedTuple):
    """The server that takes a shard's queries now, and the names of those that stream from it."""

    host: str
    port: int
    streaming: list[str]


class Said(NamedTuple):
    """A node's name, and its report on itself; None if its Patroni does not answer or is not known."""

    name: str
    report: Server | None


class Copy(msgspec.Struct, frozen=True):
    """One server of a shard. `state` is Patroni's word, or "unreachable" if it does not answer. `trouble`: why the
    server cannot be relied on, "" if it can."""

    node: str
    role: Role
    state: str
    is_copy: bool
    trouble: str = ""


class Copies(msgspec.Struct, frozen=True):
    """The servers of a shard. `copies` is 0 while no primary answers, as nothing is known then; `wanted` is what the
    settings name."""

    shard: int
    copies: int
    wanted: int
    servers: list[Copy]


def ask_primary(shard: int) -> Primary:
    """Raises `psycopg.Error`."""
    with databases.connection(databases.primary(shard), SECONDS) as conn:
        ((streaming,),) = conn.execute(STREAMING).fetchall()
        return Primary(conn.info.host, conn.info.port, streaming)


def ask_server(shard: int, node: Node) -> Said:
    """The name and report of a node."""
    report = patroni.server(node, SECONDS)
    if not patroni.known_name(node):
        with suppress(PatroniUnavailable):
            patroni.learn_names(shard)
    return Said(name_of(node), report)


def name_of(node: Node) -> str:
    """A node's name as far as it is known, without asking."""
    return patroni.known_name(node) or node.address


def of(shard: int, primary: Primary | None, servers: Sequence[tuple[Node, Said]]) -> Copies:
    """The copies of a shard from the answers; `primary` is None if it did not answer."""
    found = [_copy(node, said, primary, len(servers) - 1) for node, said in servers]
    count = sum(one.is_copy for one in found)
    if primary and not any(node.patroni for node, _ in servers):
        count = 1 + min(len(primary.streaming), len(servers) - 1)
    return Copies(shard, count, len(servers), found)


def _copy(node: Node, said: Said, primary: Primary | None, replicas: int) -> Copy:
    """`replicas`: how many there are; where Patroni is not known, neither are names, and it counts whether all
    follow."""
    report = said.report
    state = report.state if report else "unreachable"
    if primary is None:
        role: Role = "primary" if report and report.role == "primary" else "replica"
        return Copy(said.name, role, state, False, f"no primary answers; this server is {state}")
    if (node.host, node.port) == (primary.host, primary.port):
        return Copy(said.name, "primary", state, True, _silent(node, report))
    if said.name in primary.streaming or (not node.patroni and len(primary.streaming) >= replicas):
        return Copy(said.name, "replica", "streaming" if report else state, True, _silent(node, report))
    return Copy(said.name, "replica", state, False, f"it does not stream from its primary; it is {state}")


def _silent(node: Node, report: Server | None) -> str:
    return "its Patroni does not answer" if node.patroni and report is None else ""
