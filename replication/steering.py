"""What an operator can do with a shard: set a write quorum, change the primary, rejoin or reinitialise a node, delay a
replica.

Invariant: every operation goes through Patroni, and its result is stored where Patroni stores it (etcd, or a node's own
configuration). So it survives restarts and failovers, and no two processes can disagree about it. Every call is
recorded with its reason (`interventions`).

The write quorum is Patroni's quorum commit (`synchronous_mode: quorum`, `synchronous_node_count`). The same change adds
two settings of Tally to PostgreSQL's configuration: `tally.quorum`, from which completion takes the number of replicas
(`replication.flush`), and `tally.quorum_strict`. When replicas are gone, Patroni lowers the number that a commit waits
for (its own strict mode keeps one). That is right if writes should go on. If they should wait, each transaction checks
`tally.quorum_strict` before it commits.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Sequence
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Any, Literal

import msgspec
import psycopg
from django.conf import settings

from replication import apply_delay, flush, patroni, quorum
from replication.apply_delay import ApplyDelay
from replication.interventions import Order, recorded
from replication.patroni import Member, PatroniUnavailable, Refused
from runtime import polling
from sharding import breakers, databases, nodes
from sharding.databases import ShardUnavailable

SynchronousCommit = Literal["on", "remote_apply"]
IN_FORCE = f"""
SELECT current_setting('synchronous_standby_names'), current_setting('synchronous_commit'),
       {flush.QUORUM},
       coalesce(current_setting('tally.quorum_strict', true), '') = 'on',
       (SELECT count(*) FROM pg_stat_replication WHERE {flush.FOLLOWS})"""  # noqa: S608 - a constant
TRYING = ("restart", "starting", "changing")  # Patroni's first word while a node tries to start or to follow
DELAY = "SELECT setting::integer FROM pg_settings WHERE name = 'recovery_min_apply_delay'"
_FORCE_SECONDS = 5.0
_DELAY_SECONDS = 30.0  # Patroni rereads its configuration between two turns of its loop
_LOOK_SECONDS = 0.1


class Quorum(msgspec.Struct, frozen=True):
    """A shard's write quorum: what is requested, and what is in force.

    `quorum`: replicas that must confirm before a commit returns, 0 is asynchronous. `strict`: writes wait while fewer
    follow. `synchronous_commit`: what confirming means: flushed (`on`), or applied as well (`remote_apply`).
    `confirming`: how many replicas a commit waits for now. `following`: how many replicas stream now. `in_force`: the
    primary's settings are the requested ones.
    """

    shard: int
    quorum: int
    strict: bool
    synchronous_commit: str
    confirming: int
    following: int
    in_force: bool


def get_quorum(shard: int) -> Quorum:
    """The write quorum of a shard. Raises `PatroniUnavailable`, `ShardUnavailable`."""
    return _compare(shard, patroni.configuration(shard))


def _compare(shard: int, config: dict[str, Any]) -> Quorum:
    parameters = config.get("postgresql", {}).get("parameters", {})
    asked = int(parameters.get("tally.quorum", 0))
    strict = parameters.get("tally.quorum_strict") == "on"
    commit = str(parameters.get("synchronous_commit", "on"))
    try:
        with databases.connection(databases.primary(shard)) as conn:
            names, commit_now, asked_now, strict_now, following = conn.execute(IN_FORCE).fetchall()[0]
    except psycopg.OperationalError as error:
        raise ShardUnavailable(shard, f"its primary does not answer: {str(error).strip()}") from error
    confirming = quorum.confirming(names)
    in_force = (confirming, commit_now, asked_now, strict_now) == (asked, commit, asked, strict)
    return Quorum(shard, asked, strict, commit, confirming, following, in_force)


def set_quorum(
    shards: Sequence[int],
    number: int,
    order: Order,
    *,
    strict: bool | None = None,
    synchronous_commit: SynchronousCommit | None = None,
) -> list[Quorum]:
    """Request a write quorum and wait until it is in force, 5 seconds at most. Arguments that are None change nothing.

    Raises `Refused` if a shard has fewer replicas (nothing is changed then), `PatroniUnavailable`, `ShardUnavailable`.
    """
    with ExitStack() as stack:
        records = {shard: stack.enter_context(recorded(shard, f"quorum {number}", order)) for shard in shards}
        for shard in shards:
            check_quorum(shard, number)
        changes = _changes(number, strict, synchronous_commit)
        configs = {shard: patroni.configure(shard, changes) for shard in shards}
        for _ in polling.attempts(_FORCE_SECONDS, pause=_LOOK_SECONDS):
            found = [_compare(shard, config) for shard, config in configs.items()]
            if all(one.in_force for one in found):
                break
        for one in found:
            records[one.shard].outcome = "in force" if one.in_force else f"asked for; {one.confirming} confirm now"
    return found


def check_quorum(shard: int, number: int) -> None:
    """Raises `Refused` if the shard has fewer replicas than the quorum, `PatroniUnavailable`.

    A replica that is down counts: Patroni still lists it for some seconds, and the settings always name it.
    """
    known = [member.name for member in patroni.members(shard) if not member.is_leader]
    count = max(len(known), settings.TALLY.shards[shard].replicas)
    if number > count:
        have = f"{count} replica{'' if count == 1 else 's'}"
        raise Refused(
            f"shard {shard} has {have} (known now: {', '.join(known) or 'none'}): a quorum of {number} could never be met"
        )


def _changes(number: int, strict: bool | None, synchronous_commit: str | None) -> dict[str, Any]:
    parameters: dict[str, Any] = {"tally.quorum": str(number)}
    changes: dict[str, Any] = {
        "synchronous_mode": "quorum" if number else False,
        "synchronous_node_count": number or None,
    }
    if strict is not None:
        parameters["tally.quorum_strict"] = "on" if strict else "off"
    if synchronous_commit is not None:
        parameters["synchronous_commit"] = synchronous_commit
    return {**changes, "postgresql": {"parameters": parameters}}


def switchover(shard: int, candidate: str | None, order: Order) -> str:
    """Let a replica (`candidate`, or the best one) take over from a working primary. Returns the new primary's name.

    Raises `Refused`, `PatroniUnavailable`.
    """
    if candidate is not None:
        patroni.check_name(shard, candidate)
    with recorded(shard, "switchover", order, candidate or "") as record:
        primary = patroni.leader(shard)
        if candidate == primary.name:
            raise Refused(f"{candidate} is the primary already")
        if candidate:
            patroni.member(shard, candidate)
        body = {"leader": primary.name, **({"candidate": candidate} if candidate else {})}
        record.outcome = _acted(*patroni.act(shard, primary, "POST", "/switchover", body))
        return _new_leader(shard)


def failover(shard: int, candidate: str, order: Order) -> str:
    """Make a replica the primary, whether there is one or not. Returns the new primary's name. Raises `Refused`,
    `PatroniUnavailable`.

    For use when there is no primary and Patroni chooses none. Commits that the candidate lacks are applied again from
    the journal.
    """
    patroni.check_name(shard, candidate)
    with recorded(shard, "failover", order, candidate) as record:
        node = patroni.member(shard, candidate)
        if node.is_leader:
            raise Refused(f"{candidate} is the primary already")
        record.outcome = _acted(*patroni.act(shard, node, "POST", "/failover", {"candidate": candidate}))
        return _new_leader(shard)


def _new_leader(shard: int) -> str:
    """The name of the node that has taken over. Reads that wait for it need not wait for the breakers."""
    name = patroni.leader(shard).name
    breakers.close(shard)
    return name


def rejoin(shard: int, name: str, order: Order) -> str:
    """Restart a replica's PostgreSQL, which then follows the primary again (after `pg_rewind`, if it had diverged).

    Returns Patroni's answer. Raises `Refused`, `PatroniUnavailable`.
    """
    patroni.check_name(shard, name)
    with recorded(shard, "rejoin", order, name) as record:
        record.outcome = _acted(*patroni.act(shard, _replica(shard, name), "POST", "/restart", {}))
        return record.outcome


def reinitialise(shard: int, name: str, order: Order) -> str:
    """Delete a replica's data and copy them again from the primary: the repair for a replica that differs.

    Returns Patroni's answer once the copy has begun. Raises `Refused` (also if a copy is already running),
    `PatroniUnavailable`.
    """
    patroni.check_name(shard, name)
    with recorded(shard, "reinitialise", order, name) as record:
        node = _replica(shard, name)
        status, text = patroni.act(shard, node, "POST", "/reinitialize", {"from_leader": True})
        # The node tries to start, perhaps without success, and the copy is meant to repair that: cancel it.
        if status == 503 and text.startswith(TRYING):
            status, text = patroni.act(shard, node, "POST", "/reinitialize", {"from_leader": True, "force": True})
        record.outcome = _acted(status, text)
        return record.outcome


def _replica(shard: int, name: str) -> Member:
    node = patroni.member(shard, name)
    if node.is_leader:
        raise Refused(f"{name} is the primary: switch over to another node first")
    return node


def _acted(status: int, text: str) -> str:
    """Patroni's answer, if its status is a success. Raises `Refused`."""
    if status not in (200, 202):
        raise Refused(f"Patroni did not do it: {text or status}")
    return text


def set_apply_delay(shard: int, name: str, delay: ApplyDelay, order: Order) -> int:
    """Set a replica's apply delay and wait until it is in force. Returns the milliseconds chosen.

    Raises `Refused` (also if this host cannot write the node's configuration), `PatroniUnavailable`.
    """
    import yaml  # noqa: PLC0415 - most processes never need it

    patroni.check_name(shard, name)
    with recorded(shard, f"apply delay {delay}", order, name) as record:
        node, path = _configured(shard, name)
        milliseconds = delay.choose()
        config = yaml.safe_load(path.read_text())
        _replace(path, yaml.safe_dump(apply_delay.put(config, milliseconds), sort_keys=False))
        _acted(*patroni.act(shard, node, "POST", "/reload", {}))
        if not _has_delay(shard, node, milliseconds):
            raise PatroniUnavailable(
                shard, f"{name} has its new configuration, and has not taken it up within {_DELAY_SECONDS:.0f} s"
            )
        record.outcome = f"{milliseconds} ms"
        return milliseconds


def _configured(shard: int, name: str) -> tuple[Member, Path]:
    node = _replica(shard, name)
    for one in settings.TALLY.shards[shard].nodes:
        if one.patroni == node.url and one.patroni_config and os.access(one.patroni_config, os.W_OK):
            return node, one.patroni_config
    raise Refused(f"the configuration of {name} is not on this host: set recovery_min_apply_delay in its patroni.yml")


def _replace(path: Path, text: str) -> None:
    """Replace a file's text atomically. Only the owner can read the file."""
    with tempfile.NamedTemporaryFile("w", dir=path.parent, delete=False) as file:
        file.write(text)
    Path(file.name).replace(path)


def _has_delay(shard: int, node: Member, milliseconds: int) -> bool:
    for _ in polling.attempts(_DELAY_SECONDS, pause=_LOOK_SECONDS):
        with suppress(psycopg.OperationalError):  # it may be restarting
            if _delay(shard, node) == milliseconds:
                return True
    return False


def _delay(shard: int, node: Member) -> int:
    with nodes.connect(shard, node, timeout=2.0) as conn:
        return conn.execute(DELAY).fetchall()[0][0]  # type: ignore[no-any-return]
