"""The single servers of a shard: their names, and a connection to a certain one, not to whichever libpq would choose."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import psycopg
from django.conf import settings

from replication import patroni
from sharding import databases

if TYPE_CHECKING:
    from counter_project.config import Node

_names: dict[str, str] = {}  # by the address of the Patroni that told it; a node keeps its name


def name(node: Node) -> str:
    """Patroni's name of a member; `host:port` where no Patroni tells it."""
    address = node.patroni or ""
    if address not in _names and (told := patroni.server(node)):
        _names[address] = told.patroni.name
    return _names.get(address, f"{node.host}:{node.port}")


def connect(shard: int, node: Node, *, timeout: float) -> psycopg.Connection[Any]:
    """A connection to this server, whatever its role, in autocommit; no statement takes longer than `timeout` seconds.

    Raises `psycopg.OperationalError`.
    """
    address = {"host": node.host, "port": str(node.port), "target_session_attrs": "any"}
    return databases.connect(databases.primary(shard), timeout=timeout, autocommit=True, **address)


def all_of(shard: int) -> list[Node]:
    """The servers that the settings name."""
    nodes: list[Node] = settings.TALLY.shards[shard].nodes
    return nodes
