"""Healing: a replica that does not follow its primary, or differs from it, is copied again, with nobody's order.

Patroni rejoins, rewinds and copies nodes by itself. What it leaves is found here: WAL that nobody has any more, a
control file or a checkpoint that is damaged, a page that differs. Each `look` goes over all replicas; one that has been
in trouble for `TALLY_HEAL_AFTER_SECONDS` (`outage`), or differed in two rounds of reconciliation (`note`), is
reinitialised through Patroni.

Invariant: nothing is copied over the last good copy. A replica is given up only while Patroni holds the leader's lock
for the primary, the primary answers as one, has seen no page with a wrong checksum, all of its counters can be read,
and it did not itself differ when it was a replica. The primary itself is never touched. One copy runs at a time, of all
shards, and none while Patroni is paused.

What is remembered is in the journal's Redis, where a lock also keeps looks of several processes apart. While it does
not answer, nothing is healed.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import suppress
from typing import Any, NamedTuple

import msgspec
import psycopg
import structlog
from django.conf import settings
from prometheus_client import Counter
from redis.exceptions import LockNotOwnedError

from replication import copies, digests, outage, patroni, steering
from replication.comparisons import Comparison, Round
from replication.copies import Primary
from replication.interventions import Order
from replication.outage import Look, Outage
from replication.patroni import Member, PatroniUnavailable, Refused
from runtime import redis
from sharding import nodes
from sharding.databases import ShardUnavailable

REINITIALISED = Counter(
    "tally_replica_reinitialised_total",
    "Times that a replica was copied again because it did not follow, or differed",
    ["shard", "node", "cause"],
)
CAUSES = ("not following", "differs")
BY = "tally (healing)"
ROUNDS = 2  # in which a replica differs before it is copied again
NAMED = 20  # keys that a reason names
WAITING = "waiting for its primary"
# No answer rather than a wrong one: NULL failures mean that checksums are off.
WELL = "SELECT pg_is_in_recovery(), (SELECT coalesce(sum(checksum_failures), 0)::bigint FROM pg_stat_database)"
_ASK_SECONDS = 5.0
LEAST_SECONDS = 20.0  # between two copies of a replica that differs
_LOCK_SECONDS = 60.0
_OUTAGES, _DIFFERING, _LOCK = "healing:outages", "healing:differing", "healing:lock"
NOTHING: Mapping[str, Any] = {}
log = structlog.get_logger(__name__)


class Differing(msgspec.Struct, frozen=True):
    """A replica that differs: in how many rounds one after the other, and what was found. No rounds: it was copied since,
    and is to be compared."""

    rounds: int
    found: str


class Replica(NamedTuple):
    """A replica at a look, its primary, and what is known of it."""

    shard: int
    member: Member
    leader: Member
    look: Look
    outage: Outage | None
    differing: Differing | None
    leader_differed: bool = False

    @property
    def field(self) -> str:
        return _field(self.shard, self.member.name)

    @property
    def is_being_copied(self) -> bool:
        return outage.is_being_copied(self.outage, self.look)

    @property
    def trouble(self) -> tuple[str, str] | None:
        """The cause for which it is due to be copied again, and what was seen; None if it is not due."""
        seconds = settings.TALLY.heal_after_seconds
        if seconds and self.outage and outage.is_due(self.outage, self.look, seconds):
            lasted = self.look.at - self.outage.since
            return CAUSES[0], f"it has not followed {self.leader.name} for {lasted:.0f} s (Patroni: {self.look.state})"
        if self.differing and self._differs and outage.may_repeat(self.outage, self.look.at, seconds or LEAST_SECONDS):
            return CAUSES[1], f"it differed in {self.differing.rounds} rounds: {self.differing.found}"
        return None

    @property
    def _differs(self) -> bool:
        return (
            settings.TALLY.heal_differing
            and self.look.follows
            and self.differing is not None
            and self.differing.rounds >= ROUNDS
        )


def _field(shard: int, node: str) -> str:
    return f"{shard}/{node}"


def look() -> set[int]:
    """Look at every replica once, and have one copied again if that is due. Returns shards to be compared: a replica that
    differed there follows again. One process at a time: a second one returns at once. Raises `RedisError`."""
    lock = redis.journal().lock(_LOCK, timeout=_LOCK_SECONDS, blocking=False)
    if not lock.acquire():
        return set()
    with suppress(LockNotOwnedError):
        try:
            return _look(lock.reacquire)
        finally:
            lock.release()
    return set()


def _look(go_on: Callable[[], Any]) -> set[int]:
    """`go_on` holds the lock for longer."""
    seconds, micros = redis.journal().time()
    now, known, differing = seconds + micros / 1e6, _outages(), _all_differing()
    found: list[Replica] = []
    for shard in range(settings.TALLY.shard_count):
        go_on()
        with suppress(PatroniUnavailable):
            found += replicas(shard, now, known, differing)
    for field in known.keys() - {one.field for one in found}:
        if now - known[field].seen > outage.MOST_SECONDS:  # there is no such node any more
            remember(field, None)
    for one in found:
        if one.outage != known.get(one.field):
            remember(one.field, one.outage)
        for cause in CAUSES:
            REINITIALISED.labels(one.shard, one.member.name, cause)  # so that the first one counts as an increase
    if not any(one.is_being_copied for one in found):
        due = [(one, trouble) for one in found if (trouble := one.trouble)]
        for one, (cause, reason) in due[:1]:
            copy(one, cause, reason, go_on)
    return {one.shard for one in found if _is_back(one)}


def replicas(
    shard: int, now: float, known: Mapping[str, Outage] = NOTHING, differing: Mapping[str, Differing] = NOTHING
) -> list[Replica]:
    """The replicas of a shard that are to stream, with what is known of them; none while the shard has no leader or is
    paused. Raises `PatroniUnavailable`."""
    cluster = patroni.cluster(shard)
    leader = next((one for one in cluster.members if one.is_leader), None)
    if leader is None or cluster.pause:
        return []
    doubt = _field(shard, leader.name) in differing
    primary = None
    with suppress(psycopg.Error):
        primary = copies.ask_primary(shard)
    found = []
    for member in cluster.members:
        if not (member.is_leader or member.tags.get("nostream")):
            seen = Look(now, leader.name, state(member, leader, primary), f"{member.receive_lsn} {member.replay_lsn}")
            name = _field(shard, member.name)
            lasting = outage.after(known.get(name), seen, settings.TALLY.heal_after_seconds)
            found.append(Replica(shard, member, leader, seen, lasting, differing.get(name), doubt))
    return found


def state(member: Member, leader: Member, primary: Primary | None) -> str:
    """What a replica does: Patroni's word, but `WAITING` if its primary, as far as it answers, sends it nothing. Patroni
    also calls it streaming while it waits for WAL that the primary does not have."""
    if primary is None or (primary.host, primary.port) != (leader.host, leader.port):
        return member.state
    waits = member.state == outage.FOLLOWS and member.name not in primary.streaming
    return WAITING if waits else member.state


def not_following() -> dict[tuple[str, str], Outage]:
    """The replicas that did not follow at the last look, by shard and node. Raises `RedisError`."""
    shown = {}
    for field, found in _outages().items():
        shard, _, node = field.partition("/")
        if not found.follows:
            shown[shard, node] = found
    return shown


def _outages() -> dict[str, Outage]:
    return {name: msgspec.json.decode(text, type=Outage) for name, text in _stored(_OUTAGES).items()}


def _all_differing() -> dict[str, Differing]:
    return {name: msgspec.json.decode(text, type=Differing) for name, text in _stored(_DIFFERING).items()}


def _stored(key: str) -> dict[str, bytes]:
    return {name.decode(): text for name, text in redis.journal().hgetall(key).items()}


def remember(field: str, found: Outage | None) -> None:
    """Keep what is known of a replica, `SHARD/NODE`, or forget it. Raises `RedisError`."""
    if found is None:
        redis.journal().hdel(_OUTAGES, field)
    else:
        redis.journal().hset(_OUTAGES, field, msgspec.json.encode(found))


def copy(one: Replica, cause: str, reason: str, go_on: Callable[[], Any]) -> None:
    """Have a replica copied again, unless its primary may be the worse copy."""
    before = one.outage or Outage(one.leader.name, one.look.position, one.look.at, one.look.at)
    try:
        _check(one, go_on)
        steering.reinitialise(one.shard, one.member.name, Order(BY, reason))
    except (Refused, PatroniUnavailable, ShardUnavailable, psycopg.Error) as error:
        log.warning("healing_refused", shard=one.shard, server=one.member.name, why=reason, error=str(error).strip())
    else:
        REINITIALISED.labels(one.shard, one.member.name, cause).inc()
        if one.differing:
            _store_differing(one.field, Differing(0, one.differing.found))
    remember(one.field, before.after_attempt(one.look.at))


def _check(one: Replica, go_on: Callable[[], Any]) -> None:
    if one.leader_differed:
        raise Refused(f"{one.leader.name} differed when it was a replica: which copy is right is for you to say")
    check_primary(one.shard, one.leader, go_on)


def check_primary(shard: int, leader: Member, go_on: Callable[[], Any]) -> None:
    """Raises `Refused`, `PatroniUnavailable`, `ShardUnavailable` or `psycopg.Error` unless the primary is well and a good
    copy."""
    status, _ = patroni.act(shard, leader, "GET", "/leader", seconds=patroni.ASK_SECONDS)
    if status != 200:
        raise Refused(f"{leader.name} does not hold the leader's lock now")
    with nodes.connect(shard, leader, timeout=_ASK_SECONDS) as conn:
        recovering, failures = conn.execute(WELL).fetchall()[0]
    if recovering or failures:
        raise Refused(f"{leader.name} " + ("is no primary" if recovering else "has seen pages with a wrong checksum"))
    digests.read(shard, leader, lambda *_: go_on())


def _is_back(one: Replica) -> bool:
    """Whether a replica that was copied because it differed follows again; it is said once."""
    if not one.look.follows or one.is_being_copied or one.differing is None or one.differing.rounds:
        return False
    redis.journal().hdel(_DIFFERING, one.field)
    return True


def note(done: Round) -> bool:
    """Remember which replicas of a shard differ. Returns whether one does for the first time: compare again to be sure.
    Raises `RedisError`."""
    primary = _field(done.shard, done.primary)
    if done.equal:
        redis.journal().hdel(_DIFFERING, primary)
    elif redis.journal().hexists(_DIFFERING, primary):  # who differs from it may be right
        return False
    first = False
    for one in done.comparisons:
        field = _field(done.shard, one.node)
        if one.equal:
            redis.journal().hdel(_DIFFERING, field)
        elif one.equal is False:
            text = redis.journal().hget(_DIFFERING, field)
            rounds = 1 + (msgspec.json.decode(text, type=Differing).rounds if text else 0)
            _store_differing(field, Differing(rounds, _found(one)))
            first |= rounds == 1
    return first


def _store_differing(field: str, differing: Differing) -> None:
    """Keep that a replica differs, also through a failover of the journal: once promoted, it would be copied from."""
    with redis.journal().pipeline(transaction=False) as pipe:
        pipe.hset(_DIFFERING, field, msgspec.json.encode(differing))
        for command in redis.confirmation():
            pipe.execute_command(*command)
        _, *confirmation = pipe.execute()
    if not redis.is_confirmed(confirmation):
        log.warning("difference_unconfirmed", server=field)  # the next round stores it again


def _found(one: Comparison) -> str:
    if not one.differing:
        return one.detail
    some = [
        f"{key} is {replica[0] if replica else 'absent'} instead of {primary[0] if primary else 'absent'}"
        for key, primary, replica, _ in one.differences[:NAMED]
    ]
    more = one.differing - len(some)
    return "; ".join(some) + (f"; and {more} more" if more > 0 else "")
