"""The servers that the settings name: shards, their nodes, and a connection to one given node, which libpq does not
choose."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Protocol

import psycopg
from django.conf import settings
from pydantic import BaseModel, Field

from sharding import databases


class Node(BaseModel):
    """One PostgreSQL server of a shard."""

    host: str
    port: Annotated[int, Field(ge=1, le=65535)]
    patroni: str | None = None  # base URL of this node's Patroni REST API
    # Its patroni.yml, if this host can write it (the local cluster): for apply delays.
    patroni_config: Path | None = None

    @property
    def address(self) -> str:
        """Its name where Patroni's is not known, and for `manage.py disks`."""
        return f"{self.host}:{self.port}"


class Shard(BaseModel):
    """One PostgreSQL cluster. Any node may be the primary; libpq finds it (`target_session_attrs`)."""

    nodes: Annotated[list[Node], Field(min_length=1)]

    @property
    def replicas(self) -> int:
        """The number of nodes that are not the primary."""
        return len(self.nodes) - 1


def of(shard: int) -> list[Node]:
    """The nodes of a shard."""
    nodes: list[Node] = settings.TALLY.shards[shard].nodes
    return nodes


class Address(Protocol):
    """Where a server listens."""

    @property
    def host(self) -> str: ...

    @property
    def port(self) -> int: ...


def connect(shard: int, node: Address, *, timeout: float) -> psycopg.Connection[Any]:
    """Connect to a node, whatever its role, in autocommit; no statement takes longer than `timeout` seconds.

    Raises `psycopg.OperationalError`.
    """
    address = {"host": node.host, "port": str(node.port), "target_session_attrs": "any"}
    return databases.connect(databases.primary(shard), timeout=timeout, autocommit=True, **address)
