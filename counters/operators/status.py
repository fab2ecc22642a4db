"""The state of the whole system in one picture: what /status shows.

`look` asks every source at once and shares the answers (`runtime.looks`), so a source that hangs or is down delays
nothing; what only it could say is missing, and `Snapshot.missing` says so. What happened before somebody looked comes
from the pulses (`runtime.pulses`) and from the events that `recording` keeps, both in the cache's Redis.
`look_to_record` asks only what `recording` needs.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import Future
from functools import partial
from typing import Any, Literal, NamedTuple
from urllib.parse import urlsplit

import msgspec
import structlog
from django.conf import settings

from counters.operators import breakers, events, health, hottest, queues
from counters.operators.health import Component, Redundancy, View
from counters.operators.history import TELLS_SECONDS, Change, History, Process
from counters.operators.processes import WORKS_SECONDS
from counters.operators.queues import LaneQueue, Queues
from replication import copies, status
from replication.status import Lag
from runtime import balancing, pulses, redis
from runtime.looks import Late, Looks, Result
from runtime.resources import owned
from sharding import databases, nodes

SECONDS = 1.5  # for a look: longer than health's
FRESH_SECONDS = 0.5
HOTTEST = 10
_ORDERS = 10
_REMEMBERED_SECONDS = 300.0  # for which a worker that has stopped is listed
_LAG_SECONDS = 0.8
_ANSWER_SECONDS = 0.1  # for the API processes to tell; who is later is heard by the next look
INTERVENTIONS = f"""
SELECT extract(epoch FROM at)::float8, shard, action, node, by, reason, outcome
FROM replication_intervention ORDER BY at DESC LIMIT {_ORDERS}"""  # noqa: S608 - a constant; the index on `at`
log = structlog.get_logger(__name__)

Status = Literal["up", "down", "unknown"]


class Part(msgspec.Struct, frozen=True):
    """A component, or a process, by name. `figures`: what it does, in words."""

    name: str
    status: Status
    detail: str = ""
    address: str = ""
    figures: str = ""


class Server(msgspec.Struct, frozen=True):
    """A server of a shard. `behind`: how far it is behind its primary in replaying; None for the primary, and unknown."""

    name: str
    status: Status
    role: str
    state: str
    detail: str
    address: str
    behind: Lag | None


class Shard(msgspec.Struct, frozen=True):
    """A shard: its copies, and what waits for it by queue (None if unknown)."""

    shard: int
    copies: int
    wanted: int
    degraded: bool
    waiting: dict[str, int] | None
    servers: list[Server]


class Breaker(msgspec.Struct, frozen=True):
    """A circuit breaker and its state; `held`: an operator holds it open."""

    name: str
    state: str
    held: bool


class Order(msgspec.Struct, frozen=True):
    """What an operator has ordered; `at` is Unix time in seconds."""

    at: float
    shard: int | None
    action: str
    node: str
    by: str
    reason: str
    outcome: str


class Hot(msgspec.Struct, frozen=True):
    """A counter that is used much: reads and increments a second, None if it is not among those."""

    key: str
    reads: float | None
    increments: float | None


class Figure(msgspec.Struct, frozen=True):
    """A figure over time, in steps of `BUCKET_SECONDS`, the oldest first; None where it is not known."""

    name: str
    title: str
    unit: str
    now: float | None
    values: list[float | None]


class Snapshot(msgspec.Struct, frozen=True):
    """The system at a time (Unix seconds). Lists are None while nobody can say. `missing`: what cannot be shown, and
    why."""

    at: float
    parts: list[Part]
    shards: list[Shard]
    redundancy: Redundancy
    apis: list[Part] | None
    workers: list[Part] | None
    lanes: list[LaneQueue] | None
    breakers: list[Breaker] | None
    figures: list[Figure]
    events: list[Change] | None
    orders: list[Order] | None
    hottest: list[Hot]
    missing: list[str]

    @property
    def troubles(self) -> list[Part]:
        """What is not up, the worst first."""
        servers = [Part(one.name, one.status, one.detail) for shard in self.shards for one in shard.servers]
        degraded = [
            Part(
                f"shard-{one.shard}-copies",
                "down",
                "degraded: batches have left the journal that too few replicas have",
            )
            for one in self.shards
            if one.degraded
        ]
        found = [one for one in [*self.parts, *degraded, *servers, *(self.apis or ())] if one.status != "up"]
        return sorted(found, key=lambda one: one.status != "down")

    @property
    def is_down(self) -> bool:
        """Whether writes are refused everywhere: the journal does not answer."""
        return any(one.name == "journal" and one.status == "down" for one in self.parts)


def public(found: Snapshot) -> Snapshot:
    """What anybody may see: what /health says, sums, and no addresses, workers, keys, people or reasons."""
    return msgspec.structs.replace(
        found,
        parts=[msgspec.structs.replace(one, address="") for one in found.parts],
        shards=[
            msgspec.structs.replace(
                shard, servers=[msgspec.structs.replace(server, address="") for server in shard.servers]
            )
            for shard in found.shards
        ],
        lanes=found.lanes and [msgspec.structs.replace(one, holder="") for one in found.lanes],
        workers=None,
        orders=None,
        hottest=[],
    )


def look() -> Future[Snapshot]:
    """The newest snapshot, at most `SECONDS` + `FRESH_SECONDS` old. Never waits."""
    return _looks().look()


def look_to_record() -> Future[Snapshot]:
    """As `look`, without what is not recorded, and without asking API processes."""
    return _looks_to_record().look()


class Recorded(NamedTuple):
    """What the cache's Redis says of the last minutes: its time, the pulses, and the last events."""

    now: float
    history: History
    events: list[Change]


class _Listener:
    """Follows the pulses."""

    def __init__(self) -> None:
        self._place, self._history = "0", History()

    def ask(self) -> Recorded:
        """Have the API processes tell theirs. Raises `RedisError`."""
        pulses.ask()
        time.sleep(_ANSWER_SECONDS)
        return self.hear()

    def hear(self) -> Recorded:
        """Raises `RedisError`."""
        now = redis.cache().time()
        self._place, heard = pulses.since(self._place)
        self._history.add(heard)
        self._history.forget(now[0])
        return Recorded(now[0] + now[1] / 1e6, self._history, events.last())


def _checks(recorded: Callable[[], Recorded]) -> dict[str, Callable[[], Any]]:
    return {
        "health": lambda: health.look().result(),
        "queues": queues.look,
        "recorded": recorded,
        "breakers": breakers.states,
    }


@owned(close=Looks.close)
def _looks_to_record() -> Looks[Snapshot]:
    return Looks(_checks(_Listener().hear), of, seconds=SECONDS, fresh_seconds=FRESH_SECONDS)


@owned(close=Looks.close)
def _looks() -> Looks[Snapshot]:
    checks = _checks(_Listener().ask) | {
        "orders": _orders,
        "written": partial(hottest.written, HOTTEST),
    }
    for shard in range(settings.TALLY.shard_count):
        checks[f"lags {shard}"] = partial(status.lags, shard, _LAG_SECONDS)
    return Looks(checks, of, seconds=SECONDS, fresh_seconds=FRESH_SECONDS)


def _orders() -> list[Order]:
    """Raises `psycopg.Error`."""
    with databases.connection(databases.CONTROL, copies.SECONDS) as conn:
        return [Order(*row) for row in conn.execute(INTERVENTIONS)]


def of(results: Mapping[str, Result], began: float) -> Snapshot:
    """The snapshot of a look's results; `began` is Unix time. What was not asked is not known."""
    view: View = _known(results.get("health")) or View([], Redundancy(0, 0, []), "")
    waiting: Queues | None = _known(results.get("queues"))
    recorded: Recorded | None = _known(results.get("recorded"))
    lags = {
        name: lag
        for key, found in results.items()
        if key.startswith("lags ")
        for name, lag in (_known(found) or {}).items()
    }
    states = _known(results.get("breakers"))
    servers = {one.name for one in view.components if one.role}
    return Snapshot(
        at=began,
        parts=[*_nginx(waiting), *(_part(one) for one in view.components if one.name not in servers)],
        shards=_shards(view, waiting, lags),
        redundancy=view.redundancy,
        apis=_apis(recorded, waiting),
        workers=_workers(recorded, waiting),
        lanes=sorted(waiting.lanes, key=lambda one: (-one.age, -one.spilled)) if waiting else None,
        breakers=None if states is None else [Breaker(*one) for one in states],
        figures=_figures(recorded, waiting, view),
        events=recorded.events if recorded else None,
        orders=_known(results.get("orders")),
        hottest=_hottest(recorded, _known(results.get("written")) or {}),
        missing=list(_missing(results)),
    )


def _known(result: Result) -> Any:
    """A result; None if there is none."""
    return None if isinstance(result, BaseException) else result


SOURCES = {
    "health": "This process cannot say which components are up",
    "queues": "The journal's Redis does not answer: lanes, backlog and workers are not known",
    "recorded": "The cache's Redis does not answer: the last minutes, the API processes and events are not known",
    "breakers": "The breakers' states are not known",
    "orders": "The control database does not answer: operators' orders are not known",
}


def _missing(results: Mapping[str, Result]) -> Iterable[str]:
    for name, sentence in SOURCES.items():
        if isinstance(error := results.get(name), BaseException):
            reason = "no answer in time" if isinstance(error, Late) else type(error).__name__
            log.debug("status_source_unseen", source=name, error=str(error).strip())
            yield f"{sentence} ({reason})."


def _nginx(waiting: Queues | None) -> Iterable[Part]:
    """nginx as its supervisor tells, in the local cluster; nothing elsewhere."""
    if waiting and (balancer := waiting.balancer):
        yield Part("nginx", "up" if balancer.runs else "down", balancer.strategy.replace("_", " "))


def _part(one: Component) -> Part:
    return Part(one.name, one.status, one.detail, _addresses().get(one.name, ""))


@owned
def _addresses() -> dict[str, str]:
    """Where the components listen, without passwords, by name; for staff."""
    tally = settings.TALLY
    urls = {"journal": tally.journal_url, "cache": tally.cache_url, "broker": tally.broker_url}
    found = {name: address_of(url.get_secret_value()) for name, url in urls.items()}
    if tally.journal_sentinels:
        found["journal"] = f"by the Sentinels {', '.join(tally.journal_sentinels)}"
    return found


def address_of(url: str) -> str:
    """Host and port of a URL, or the path of a socket, without passwords; "" if it has several hosts."""
    parts = urlsplit(url)
    try:
        port = f":{parts.port}" if parts.port else ""
    except ValueError:
        return ""
    return f"{parts.hostname}{port}" if parts.hostname else parts.path


def _shards(view: View, waiting: Queues | None, lags: Mapping[str, Lag]) -> list[Shard]:
    addresses = {
        copies.name_of(node): node.address for shard in view.redundancy.shards for node in nodes.of(shard.shard)
    }
    return [
        Shard(
            one.shard,
            one.copies,
            one.wanted,
            waiting is not None and one.shard in waiting.degraded,
            {str(queue): count for queue, count in waiting.increments[one.shard].items()} if waiting else None,
            [
                _server(server, addresses.get(server.name, ""), lags.get(server.name))
                for server in view.components
                if server.role and server.shard == one.shard
            ],
        )
        for one in view.redundancy.shards
    ]


def _server(one: Component, address: str, behind: Lag | None) -> Server:
    return Server(one.name, one.status, one.role or "", one.state or "", one.detail, address, behind)


def _apis(recorded: Recorded | None, waiting: Queues | None) -> list[Part] | None:
    """The API processes that tell, and those that the load balancer knows: the local cluster's does, elsewhere one that
    is stopped is listed as down for some minutes. They tell only while somebody watches, so none is silent before it
    was asked for a while."""
    balancer = waiting.balancer if waiting else None
    told: dict[str, Process] = {}
    listened = 0.0
    if recorded:
        told = {one.name: one for one in recorded.history.processes(recorded.now) if one.kind == "api"}
        listened = recorded.history.listened("api", recorded.now)
    if balancer:
        wanted = {*balancer.serving, *balancer.left_out}
        return [_api(name, told.get(name), balancer, listened) for name in sorted(wanted)]
    if recorded is None:
        return None
    return [_api(one.name, one, None, listened) for one in told.values() if one.tells or listened >= TELLS_SECONDS]


def _api(name: str, told: Process | None, balancer: balancing.State | None, listened: float) -> Part:
    figures = f"{told.rates.get('requests', 0.0):,.0f} requests/s" if told and told.tells else ""
    if balancer and name in balancer.stopped:
        return Part(name, "down", "it does not run")
    if balancer and (left_out := balancer.left_out.get(name)):
        return Part(name, "down", f"the load balancer leaves it out: {left_out}", figures=figures)
    if listened < TELLS_SECONDS or (told and told.tells):
        return Part(name, "up", figures=figures)
    return Part(name, "down", f"silent for {min(told.silent, listened):.0f} s" if told else "silent")


def _workers(recorded: Recorded | None, waiting: Queues | None) -> list[Part] | None:
    """Workers by their heartbeats, also those that have stopped within the last minutes."""
    if waiting is None:
        return None
    told = {one.name: one for one in recorded.history.processes(recorded.now)} if recorded else {}
    kinds: dict[str, dict[str, dict[str, float]]] = {}  # ages of heartbeats by worker, kind and queue
    for heartbeat, age in waiting.ages.items():
        match heartbeat.split(" "):
            case [("worker" | "consumer") as kind, queue, worker] if age < _REMEMBERED_SECONDS:
                kinds.setdefault(worker, {}).setdefault(kind, {})[queue] = age
    return [_worker(name, kinds[name], told.get(name)) for name in sorted(kinds)]


def _worker(name: str, ages: Mapping[str, Mapping[str, float]], told: Process | None) -> Part:
    runs = ages.get("worker", {})
    silent, queues_of = min(runs.values(), default=0.0), ", ".join(sorted(runs))
    figures = f"{told.rates.get('rows', 0.0):,.0f} rows/s" if told and told.tells else ""
    if silent >= WORKS_SECONDS:
        return Part(name, "unknown", f"silent for {silent:.0f} s", queues_of)
    if min(ages.get("consumer", {}).values(), default=WORKS_SECONDS) >= WORKS_SECONDS:
        return Part(name, "down", "it gets no messages from the broker", queues_of, figures)
    return Part(name, "up", "", queues_of, figures)


class _Told(NamedTuple):
    name: str
    title: str
    unit: str


RATES = (
    _Told("increments", "Increments accepted", "/s"),
    _Told("requests", "Requests", "/s"),
    _Told("rows", "Rows written", "/s"),
    _Told("refused", "Refused", "/s"),
)
LEVELS = (
    _Told("backlog", "Increments that wait", ""),
    _Told("age", "Oldest write without its replicas", "s"),
    _Told("missing", "Copies missing", ""),
)


def levels(found: Snapshot) -> dict[str, float]:
    """The levels of a snapshot that are known."""
    return {
        one.name: one.now for one in found.figures if one.now is not None and one.name in {told.name for told in LEVELS}
    }


def _figures(recorded: Recorded | None, waiting: Queues | None, view: View) -> list[Figure]:
    history, now = (recorded.history, recorded.now) if recorded else (History(), 0.0)
    current: dict[str, float | None] = {
        "backlog": float(waiting.backlog) if waiting else None,
        "age": waiting.age if waiting else None,
        "missing": float(missing_copies(view.redundancy)) if view.components else None,
    }
    rates = [Figure(*told, history.rate(told.name, now), history.rates(told.name, now)) for told in RATES]
    return rates + [Figure(*told, current[told.name], history.levels(told.name, now)) for told in LEVELS]


def missing_copies(found: Redundancy) -> int:
    """Copies of shards and of the journal that there should be and are not."""
    return sum(max(0, one.wanted - one.copies) for one in found.shards) + max(0, found.journal_wanted - found.journal)


def _hottest(recorded: Recorded | None, written: Mapping[str, float]) -> list[Hot]:
    read = recorded.history.hottest(HOTTEST) if recorded else {}
    rows = [Hot(key, read.get(key), written.get(key)) for key in {**written, **read}]
    return sorted(rows, key=lambda one: -((one.reads or 0.0) + (one.increments or 0.0)))[:HOTTEST]


def states(found: Snapshot) -> dict[str, tuple[str, str]]:
    """Everything whose change is an event: state and detail by name. What is unknown is left out: it has not changed."""
    known: dict[str, tuple[str, str]] = {
        one.name: (one.status, one.detail) for one in [*found.parts, *(found.apis or ())] if one.status != "unknown"
    }
    for shard in found.shards:
        known |= {one.name: (one.status, one.detail) for one in shard.servers if one.status != "unknown"}
        known |= {
            f"primary of shard {shard.shard}": (one.name, "")
            for one in shard.servers
            if one.role == "primary" and one.status == "up"
        }
        if shard.waiting is not None:
            known[f"journal entries of shard {shard.shard}"] = ("degraded" if shard.degraded else "replicated", "")
            excess = shard.waiting.get("excess", 0)
            spilled = ("spilling", f"{excess:,} increments in the excess queue") if excess else ("quiet", "")
            known[f"limits of shard {shard.shard}"] = spilled
    known |= {f"breaker of {one.name}": ("held open" if one.held else one.state, "") for one in found.breakers or ()}
    refused = next((one.now for one in found.figures if one.name == "refused"), None)
    if refused is not None:
        known["limits"] = ("refusing", f"{refused:,.0f} a second") if refused >= 1 else ("quiet", "")
    return known
