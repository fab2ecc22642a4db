"""What is wrong with the whole system, what follows from it, and what mends it: what `manage.py doctor` says.

`look` asks what /status asks, and what an operator would look up next: tables, batches and messages that wait for
somebody, archives, the last comparison of replicas. `of` is pure.
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from typing import Any, Literal, NamedTuple

import msgspec
from django.conf import settings

from counters.apply import dead_letters, partitions
from counters.intake.set_aside import SetAsideBatches, lanes_with_set_aside
from counters.operators import queues, status
from counters.operators.status import Snapshot
from counters.reconciliation import rounds
from replication import archiving
from replication.archiving import Archiving
from runtime.looks import Looks, Result
from sharding import databases, migrating, nodes, topology
from sharding.databases import primary

SECONDS = 5.0  # for all questions; a migration's plan is the slowest
MAINTAINED_SECONDS = 36 * 3600.0  # since the daily partitions were made

Severity = Literal["broken", "warning", "unknown"]
ORDER: tuple[Severity, ...] = ("broken", "warning", "unknown")


class Finding(msgspec.Struct, frozen=True):
    """`what` is wrong with the `subject`, what follows, and the `remedy`: a command or a page. `unknown`: it could not be
    looked at."""

    subject: str
    severity: Severity
    what: str
    remedy: str


class Advice(NamedTuple):
    """Of a component that is down: what follows, and what mends it."""

    consequence: str
    remedy: str


START = "See `manage.py cluster status` (in production your orchestrator's list) and the log of {name}, and start it."
REPLICAS = "See `manage.py replicas --shard {shard}`"
# By a pattern of the component's name; the first that fits. `{shard}` is the number in the name.
ADVICE: tuple[tuple[str, Advice], ...] = (
    (r"nginx", Advice("Clients reach no API process through it.", START)),
    (r"api-.+", Advice("Requests go to the other API processes.", START)),
    (r"journal", Advice("Writes are refused with 503. Nothing accepted is lost.", START)),
    (r"journal-copies", Advice("The journal cannot fail over.", "Start its replica: `manage.py cluster status`.")),
    (r"cache", Advice("Reads come from PostgreSQL and are slower. Each process limits callers alone.", START)),
    (r"broker", Advice("New writes are accepted, and applied when it is back.", START)),
    (
        r"control",
        Advice("Log-ins and changes of keys and limits fail.", "See `manage.py replicas --shard 0`: it is there."),
    ),
    (r"beat", Advice("Lost messages are not sent again, and no partitions are made.", START)),
    (
        r"spill-worker",
        Advice("What was spilled waits, and upkeep stops.", "`manage.py cluster scale spill-worker=1`, or start it."),
    ),
    (
        r"shard-(?P<shard>\d+)-worker",
        Advice(
            "Writes to this shard are accepted and wait.",
            "`manage.py cluster scale worker-{shard}=1`, or start the service of its workers.",
        ),
    ),
    (
        r"shard-(?P<shard>\d+)-replica",
        Advice("Reads come from the primary, and one more failure would cost the shard.", f"{REPLICAS}."),
    ),
    (
        r"shard-(?P<shard>\d+)-copies",
        Advice("If the primary's disk is lost, so are these batches.", f"{REPLICAS}, and bring the replica back."),
    ),
    (
        r"shard-(?P<shard>\d+)-node-.+",
        Advice("The shard may have a copy less.", f"{REPLICAS}; the admin's page Servers copies a replica again."),
    ),
    (
        r"shard-(?P<shard>\d+)",
        Advice(
            "Writes to it are accepted and wait; reads come from its replicas and the cache.",
            f"Patroni promotes a replica by itself, if etcd and a replica are up. {REPLICAS}.",
        ),
    ),
    (
        r".+:\d+",  # a server whose Patroni never answered
        Advice("Its shard may have a copy less.", "See `manage.py replicas`, and the log of its Patroni."),
    ),
    (r"etcd", Advice("No replica can be promoted. Primaries stop taking writes if it is away for long.", START)),
    (r"disks", Advice("Writes are refused before a disk is full.", "Make room on the disk that is named.")),
)


class Facts(NamedTuple):
    """Besides the snapshot: migrations that were not applied by database; batches set aside by shard; dead letters;
    archivers; ages of the partitions' upkeep by shard (seconds); whether the last comparison of a shard was equal, by
    shard (None: not known). Each is a `Result`: the exception if nobody could say."""

    migrations: Mapping[str, Result]
    set_aside: Mapping[int, Result]
    dead_letters: Result
    archivers: Mapping[str, Result]
    maintained: Mapping[int, Result]
    equal: Mapping[int, Result]
    topology: Result


class Diagnosis(msgspec.Struct, frozen=True):
    """Findings, the worst first, and of how many components it was asked whether they are up."""

    findings: list[Finding]
    components: int

    @property
    def exit_status(self) -> int:
        """0: all is well. 1: something is wrong. 2: nothing seen is wrong, but not all could be seen."""
        if any(one.severity != "unknown" for one in self.findings):
            return 1
        return 2 if self.findings else 0


def look() -> Diagnosis:
    """Ask everything at once; it takes `SECONDS` and the time of a look at the status at most."""
    try:
        in_force: Result = topology.reload()  # the snapshot names its lanes
    except Exception as error:
        in_force = error
    asked = Looks(_checks(), lambda results, _began: results, seconds=SECONDS, fresh_seconds=0.0)
    try:
        results = asked.look().result()
        return of(status.look().result(), _facts(results, in_force))
    finally:
        asked.close()


def _checks() -> dict[str, Callable[[], Any]]:
    checks: dict[str, Callable[[], Any]] = {
        f"migrations {databases.CONTROL}": partial(migrating.unapplied, databases.CONTROL),
        "dead letters": dead_letters.count,
    }
    for shard in range(settings.TALLY.shard_count):
        checks[f"migrations {primary(shard)}"] = partial(migrating.unapplied, primary(shard))
        checks[f"set aside {shard}"] = partial(_set_aside, shard)
        checks[f"maintained {shard}"] = partial(_maintained, shard)
        checks[f"equal {shard}"] = partial(_equal, shard)
        for number, node in enumerate(nodes.of(shard)):
            checks[f"archiver {shard}-{number}"] = partial(archiving.ask, shard, node)
    return checks


def _set_aside(shard: int) -> int:
    return sum(SetAsideBatches(lane).count() for lane in lanes_with_set_aside(shard))


def _maintained(shard: int) -> float | None:
    """Seconds since the partitions were made; None if they never were."""
    at = partitions.maintained_at(shard)
    return time.time() - at if at else None


def _equal(shard: int) -> bool | None:
    found = rounds.last(shard)
    return found.equal if found else None


def _facts(results: Mapping[str, Result], in_force: Result) -> Facts:
    by_kind: dict[str, dict[str, Result]] = {}
    for name, result in results.items():
        kind, _, which = name.rpartition(" ")
        by_kind.setdefault(kind, {})[which] = result

    def by_shard(kind: str) -> dict[int, Result]:
        return {int(shard): result for shard, result in by_kind.get(kind, {}).items()}

    return Facts(
        by_kind.get("migrations", {}),
        by_shard("set aside"),
        results["dead letters"],
        by_kind.get("archiver", {}),
        by_shard("maintained"),
        by_shard("equal"),
        in_force,
    )


def of(found: Snapshot, facts: Facts) -> Diagnosis:
    """The findings of a snapshot and of what was asked besides."""
    if _is_silent(found):
        first = Finding(
            "everything",
            "broken",
            "Neither the journal, nor the cache, nor any shard answers: the cluster does not run, or the settings name "
            "other addresses.",
            "`manage.py cluster up`, or check TALLY_JOURNAL_URL, TALLY_CACHE_URL and TALLY_SHARDS.",
        )
        return Diagnosis([first], len(found.parts))
    findings = [
        *_down(found),
        *_waiting(found),
        *_held(found),
        *_tables(facts),
        *_left_over(facts),
        *_archives(facts),
        *_upkeep(facts),
        *_compared(facts),
    ]
    # What a component that is down could not say is no finding of its own.
    if not any(one.severity == "broken" for one in findings):
        findings += [Finding("status", "unknown", line, "Run `manage.py doctor` again.") for line in found.missing]
    servers = sum(len(shard.servers) for shard in found.shards)
    return Diagnosis(sorted(findings, key=lambda one: ORDER.index(one.severity)), len(found.parts) + servers)


def _is_silent(found: Snapshot) -> bool:
    """Whether nothing that keeps data answers."""
    kept = {one.name: one.status for one in found.parts if re.fullmatch(r"journal|cache|shard-\d+", one.name)}
    return bool(kept) and set(kept.values()) == {"down"}


def advice(name: str) -> Advice:
    """What follows if a component is down, and what mends it."""
    for pattern, one in ADVICE:
        if match := re.fullmatch(pattern, name):
            named = {"name": name, **match.groupdict()}
            return Advice(one.consequence, one.remedy.format(**named))
    return Advice("", START.format(name=name))


def _down(found: Snapshot) -> Iterator[Finding]:
    for part in found.troubles:
        if part.status == "unknown":
            yield Finding(part.name, "unknown", part.detail or "nobody can say", "Mend what is broken first.")
            continue
        consequence, remedy = advice(part.name)
        detail = f"It is down ({part.detail})." if part.detail else "It is down."
        yield Finding(part.name, "broken", f"{detail} {consequence}".strip(), remedy)


def _waiting(found: Snapshot) -> Iterator[Finding]:
    """Shards whose oldest write waits for long; the oldest of each."""
    late: dict[str, float] = {}
    limit = queues.late_seconds()
    for lane in found.lanes or ():
        if lane.age >= limit:
            shard = lane.lane.partition(".")[0]
            late[shard] = max(late.get(shard, 0.0), lane.age)
    for shard, age in late.items():
        yield Finding(
            f"shard-{shard}-lanes",
            "warning",
            f"The oldest accepted write waits for {age:.0f} s. It is not lost, and readers do not see it yet.",
            f"`manage.py journal` shows what waits. `manage.py cluster scale worker-{shard}=N` adds workers, up to the "
            "number of lanes.",
        )


def _held(found: Snapshot) -> Iterator[Finding]:
    for one in found.breakers or ():
        if one.held:
            yield Finding(
                f"breaker {one.name}",
                "warning",
                "An operator holds it open, so every call of this component is refused.",
                f"`manage.py breakers close {one.name}`; `manage.py breakers` says who holds it, and why.",
            )


def _tables(facts: Facts) -> Iterator[Finding]:
    remedy = "`manage.py migrate_all`"
    for alias, count in facts.migrations.items():
        if isinstance(count, int) and count:
            what = f"{count} migrations of this code were not applied."
            yield Finding(f"tables of {alias}", "broken", what, remedy)
    if isinstance(facts.topology, topology.NoTopology):
        yield Finding("topology", "broken", "No shard has the map of slots, so no key can be routed.", remedy)


def _left_over(facts: Facts) -> Iterator[Finding]:
    for shard, count in facts.set_aside.items():
        if isinstance(count, int) and count:
            yield Finding(
                f"shard-{shard}-set-aside",
                "warning",
                f"{count} batches could not be decoded or applied. Their writes are not counted until somebody decides.",
                "`manage.py journal` shows them; then `manage.py journal --retry ID`, or `--discard ID`.",
            )
    if isinstance(facts.dead_letters, int) and facts.dead_letters:
        yield Finding(
            "dead letters",
            "warning",
            f"{facts.dead_letters} messages could be taken by no task. No write is lost with them.",
            "The admin's page Dead letters shows why; retry or discard them there.",
        )


def _archives(facts: Facts) -> Iterator[Finding]:
    for one in facts.archivers.values():
        if isinstance(one, Archiving) and one.fails:
            yield Finding(
                f"archive of {one.node}",
                "broken",
                f"Its last attempt to archive WAL failed; {one.waiting} files wait. They fill the disk, and a restore "
                "ends before them.",
                "Read the server's log, and make the archive writable: docs/backup.md.",
            )


def _upkeep(facts: Facts) -> Iterator[Finding]:
    for shard, age in facts.maintained.items():
        if isinstance(age, float) and age > MAINTAINED_SECONDS:
            yield Finding(
                f"shard-{shard}-partitions",
                "warning",
                f"Its partitions by time were last made {age / 3600:.0f} hours ago. Some days are made ahead; after them "
                "rows go to the default partition, and old rows stay.",
                "See that beat and a spill worker run: `manage.py cluster status`.",
            )


def _compared(facts: Facts) -> Iterator[Finding]:
    for shard, equal in facts.equal.items():
        if equal is False:
            yield Finding(
                f"shard-{shard}-comparison",
                "broken",
                "The last comparison found a difference between copies, counts or the cache.",
                f"`manage.py reconcile --shard {shard}` compares again and names the keys: docs/reconciliation.md.",
            )
