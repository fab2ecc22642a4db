"""The current state of a shard's servers: each node as Patroni sees it, as it reports itself, and as the primary's
walsenders see it.

Values are None if their source does not answer.
"""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any, Literal, NamedTuple

import msgspec
import psycopg
import structlog
from django.conf import settings

from replication import apply_delay, comparisons, copies, patroni, steering
from replication.comparisons import Comparison
from replication.patroni import Member, PatroniUnavailable, Server
from replication.steering import Quorum
from sharding import databases, topology
from sharding.databases import ShardUnavailable

# One row per connected replica; lag in seconds is NULL while nothing is in flight.
SENDERS = """
SELECT application_name, sync_state,
       pg_wal_lsn_diff(now.lsn, write_lsn)::bigint, extract(epoch FROM write_lag)::float8,
       pg_wal_lsn_diff(now.lsn, flush_lsn)::bigint, extract(epoch FROM flush_lag)::float8,
       pg_wal_lsn_diff(now.lsn, replay_lsn)::bigint, extract(epoch FROM replay_lag)::float8
FROM pg_stat_replication, (SELECT pg_current_wal_lsn() AS lsn) AS now"""
log = structlog.get_logger(__name__)


class Lag(msgspec.Struct, frozen=True):
    """How far a replica is behind the primary, in bytes of WAL and in seconds, as last reported to the primary."""

    bytes: int | None
    seconds: float | None


class Replica(msgspec.Struct, frozen=True):
    """One server of a shard; `write`, `flush` and `replay` are lags, None for the primary and for servers not connected
    to it.

    `equal` and `differing_keys` are from the last reconciliation, None before the first.
    """

    node: str
    role: Literal["primary", "replica"]
    state: str
    timeline: int | None
    lsn: str | None
    write: Lag | None
    flush: Lag | None
    replay: Lag | None
    sync_state: str | None
    uptime_seconds: float | None
    apply_delay_ms: int
    host: str
    port: int
    equal: bool | None = None
    differing_keys: list[str] | None = None


class ShardStatus(msgspec.Struct, frozen=True):
    """A shard at a glance. `copies`: its primary and the replicas that stream from it, 0 while no primary answers;
    `copies_wanted`: what the settings name. `quorum` is None while unknown."""

    shard: int
    slots: int
    primary: str | None
    replicas: int
    following: int
    copies: int
    copies_wanted: int
    quorum: Quorum | None


class _Sender(NamedTuple):
    sync_state: str
    write: Lag
    flush: Lag
    replay: Lag


def shards() -> list[ShardStatus]:
    """Every shard. Raises `NoTopology`."""
    owners = topology.current().owners
    return [_shard(shard, owners.count(shard)) for shard in range(settings.TALLY.shard_count)]


def _shard(shard: int, slots: int) -> ShardStatus:
    members: list[Member] = []
    quorum, count = None, 0
    try:
        members = patroni.members(shard)
        quorum = steering.get_quorum(shard)
        count = 1 + len({member.name for member in members}.intersection(copies.ask_primary(shard).streaming))
    except (PatroniUnavailable, ShardUnavailable, psycopg.Error) as error:
        log.warning("shard_unseen", shard=shard, error=str(error).strip())
    primary = next((member.name for member in members if member.is_leader), None)
    following = [member for member in members if not member.is_leader and member.state == "streaming"]
    replicas = settings.TALLY.shards[shard].replicas
    return ShardStatus(shard, slots, primary, replicas, len(following), count, replicas + 1, quorum)


def replicas(shard: int) -> list[Replica]:
    """Every server of a shard, by name, the primary among them. Raises `PatroniUnavailable`."""
    members = patroni.members(shard)
    servers, senders = patroni.servers(shard), _senders(shard)
    compared = comparisons.latest(shard)
    known = [
        _replica(member, servers.get(member.name), senders.get(member.name), compared.get(member.name))
        for member in members
    ]
    seen = {(member.host, member.port) for member in members}
    gone = [
        _gone(node.host, node.port) for node in settings.TALLY.shards[shard].nodes if (node.host, node.port) not in seen
    ]
    return known + gone


def lags(shard: int, seconds: float | None = None) -> dict[str, Lag]:
    """How far each connected replica is behind in replaying, by name. An answer takes `seconds` at most. Raises
    `psycopg.Error`."""
    return {name: sender.replay for name, sender in _ask_senders(shard, seconds).items()}


def _senders(shard: int) -> dict[str, _Sender]:
    try:
        return _ask_senders(shard)
    except psycopg.Error as error:
        log.warning("senders_unseen", shard=shard, error=str(error).strip())
        return {}


def _ask_senders(shard: int, seconds: float | None = None) -> dict[str, _Sender]:
    with databases.connection(databases.primary(shard), seconds) as conn:
        return {name: _sender(sync_state, *lags) for name, sync_state, *lags in conn.execute(SENDERS)}


def _sender(sync_state: str, *lags: Any) -> _Sender:
    pairs = zip(lags[::2], lags[1::2], strict=True)
    return _Sender(sync_state, *(Lag(behind, (seconds or 0.0) if behind else 0.0) for behind, seconds in pairs))


def _replica(member: Member, server: Server | None, sender: _Sender | None, compared: Comparison | None) -> Replica:
    started = server.started if server else None
    position = (server.xlog.location or server.xlog.replayed_location or 0) if server else 0
    return Replica(
        node=member.name,
        role="primary" if member.is_leader else "replica",
        state=member.state if server else "unreachable",
        timeline=member.timeline,
        lsn=f"{position >> 32:X}/{position & 0xFFFFFFFF:X}" if position else None,
        write=sender.write if sender else None,
        flush=sender.flush if sender else None,
        replay=sender.replay if sender else None,
        sync_state=sender.sync_state if sender else None,
        uptime_seconds=round((datetime.now(UTC) - started).total_seconds(), 1) if started else None,
        apply_delay_ms=int(member.tags.get(apply_delay.TAG, 0)),
        host=member.host,
        port=member.port,
        equal=compared.equal if compared else None,
        differing_keys=list(compared.keys) if compared else None,
    )


def _gone(host: str, port: int) -> Replica:
    """A server that the settings name but Patroni no longer knows."""
    nothing: dict[str, Any] = dict.fromkeys(
        ("timeline", "lsn", "write", "flush", "replay", "sync_state", "uptime_seconds")
    )
    return Replica(
        node=f"{host}:{port}", role="replica", state="gone", apply_delay_ms=0, host=host, port=port, **nothing
    )
