"""The single servers of a shard: their names, and a connection to a certain one, not to whichever libpq would choose."""

from __future__ import annotations

import http.client
import json
from functools import cache
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import psycopg
from django.conf import settings

from sharding import databases

if TYPE_CHECKING:
    from counter_project.config import Node

_SECONDS = 2.0


def name(node: Node) -> str:
    """Patroni's name of a member; `host:port` where no Patroni tells it."""
    return (node.patroni and _member(node.patroni)) or f"{node.host}:{node.port}"


def _member(patroni: str) -> str | None:
    try:
        return _asked(patroni)
    except (OSError, http.client.HTTPException, ValueError, LookupError, TypeError):
        return None  # away: asked again next time, as an exception is not cached


@cache
def _asked(patroni: str) -> str:
    connection = http.client.HTTPConnection(urlsplit(patroni).netloc, timeout=_SECONDS)
    try:
        connection.request("GET", "/patroni")
        member: str = json.loads(connection.getresponse().read())["patroni"]["name"]
        return member
    finally:
        connection.close()


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
