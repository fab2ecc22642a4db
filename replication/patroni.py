"""Patroni's REST API of a shard's nodes: the only way in which Tally changes servers.

Any node can answer questions about its shard: nodes that do not answer are skipped, and `PatroniUnavailable` is raised
if none does. A change goes to the node that it affects. The shard's configuration goes to the leader, which then acts
at once.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime
from typing import TYPE_CHECKING, Any, TypeVar

import msgspec
import structlog
from django.conf import settings

from runtime.resources import owned
from sharding.nodes import Node

if TYPE_CHECKING:
    import urllib3

T = TypeVar("T")

MOST_NAME = 200  # characters of a node's name, as in the record of interventions
LEADERS = {"leader", "standby_leader"}
ASK_SECONDS = 2.0
CONFIGURE_SECONDS = 10.0
ACT_SECONDS = 45.0  # Patroni answers only after a switchover or a restart has ended
_CONFLICTS = 3  # tries while the configuration changes between Patroni's read and its write
log = structlog.get_logger(__name__)


class PatroniUnavailable(Exception):
    """No Patroni of the shard has answered or done what was asked."""

    def __init__(self, shard: int, reason: str) -> None:
        super().__init__(f"Patroni of shard {shard}: {reason}")
        self.shard = shard


class _Silent(Exception):
    """One node has not answered; the text says why."""


class Refused(Exception):
    """The request cannot be carried out; the text says why."""


class UnknownNode(Refused):
    """The shard has no node of this name."""


class Member(msgspec.Struct, frozen=True):
    """A node in Patroni's `/cluster`; `state` is `streaming` for a replica that follows."""

    name: str
    role: str
    state: str
    host: str = ""
    port: int = 0
    api_url: str = ""
    timeline: int | None = None
    receive_lsn: str = ""
    replay_lsn: str = ""
    tags: dict[str, Any] = {}

    @property
    def is_leader(self) -> bool:
        return self.role in LEADERS

    @property
    def url(self) -> str:
        """Base of this node's REST API."""
        return self.api_url.removesuffix("/patroni")


class Cluster(msgspec.Struct):
    """A shard in Patroni's `/cluster`; `pause`: an operator has stopped Patroni from acting."""

    members: list[Member]
    pause: bool = False


class _Wal(msgspec.Struct):
    location: int = 0
    replayed_location: int | None = 0


class _About(msgspec.Struct):
    name: str


class Server(msgspec.Struct):
    """A node's report on itself, from `/patroni`; positions are in bytes."""

    patroni: _About
    state: str
    role: str = ""
    timeline: int | None = None
    postmaster_start_time: str | None = None
    dcs_last_seen: float = 0.0  # seconds since 1970
    xlog: _Wal = msgspec.field(default_factory=_Wal)

    @property
    def started(self) -> datetime | None:
        """When its PostgreSQL was started."""
        return datetime.fromisoformat(self.postmaster_start_time) if self.postmaster_start_time else None


def _close(pools: urllib3.PoolManager) -> None:
    pools.clear()


@owned(close=_close)
def _http() -> urllib3.PoolManager:
    import urllib3  # noqa: PLC0415 - most processes never call Patroni

    config = settings.TALLY
    password = config.patroni_password.get_secret_value()
    headers = urllib3.make_headers(basic_auth=f"{config.patroni_user}:{password}") if password else {}
    return urllib3.PoolManager(headers=headers, retries=False, num_pools=256)


def _call(url: str, method: str, path: str, body: Mapping[str, Any] | None, seconds: float) -> tuple[int, bytes]:
    """Send a request. Returns status and body. Raises `_Silent`."""
    from urllib3 import Timeout  # noqa: PLC0415
    from urllib3.exceptions import HTTPError  # noqa: PLC0415

    try:
        answer = _http().request(method, url + path, json=body, timeout=Timeout(connect=1.0, read=seconds))
    except HTTPError as error:  # urllib3 puts the connection object before the reason
        raise _Silent(str(error.args[-1]) if error.args else type(error).__name__) from error
    return answer.status, answer.data


def nodes(shard: int) -> list[Node]:
    """The servers of a shard whose Patroni is known. Raises `PatroniUnavailable` if none is."""
    found = [node for node in settings.TALLY.shards[shard].nodes if node.patroni]
    if not found:
        raise PatroniUnavailable(shard, "TALLY_SHARDS names none, so this shard can be neither watched nor steered")
    return found


def _ask(shard: int, path: str, kind: type[T]) -> T:
    """The answer of the first node that answers with 200. Raises `PatroniUnavailable`."""
    reason = ""
    for node in nodes(shard):
        try:
            status, data = _call(str(node.patroni), "GET", path, None, ASK_SECONDS)
            if status == 200:
                return msgspec.json.decode(data, type=kind)
            reason = f"{node.patroni} answers {status}"
        except (_Silent, msgspec.DecodeError) as error:
            reason = f"{node.patroni}: {error}"
    raise PatroniUnavailable(shard, f"no node answers ({reason})")


def cluster(shard: int) -> Cluster:
    """A shard as Patroni sees it. Raises `PatroniUnavailable`."""
    return _ask(shard, "/cluster", Cluster)


def members(shard: int) -> list[Member]:
    """The nodes of a shard, by name. Raises `PatroniUnavailable`."""
    return cluster(shard).members


def check_name(shard: int, name: str) -> None:
    """Raises `UnknownNode` for a text that can be no node's name, so that it is neither looked for nor recorded."""
    if not name.isprintable() or not 0 < len(name) <= MOST_NAME:
        raise UnknownNode(f"shard {shard} has no node of this name: names have 1 to {MOST_NAME} printable characters")


def member(shard: int, name: str) -> Member:
    """The node of this name. Raises `UnknownNode`, `PatroniUnavailable`."""
    found = members(shard)
    for one in found:
        if one.name == name:
            return one
    raise _unknown(shard, name, (one.name for one in found))


def _unknown(shard: int, name: str, known: Iterable[str]) -> UnknownNode:
    return UnknownNode(f"shard {shard} has no node {name!r} now: those that Patroni knows are {', '.join(known)}")


def leader(shard: int) -> Member:
    """The primary's node. Raises `PatroniUnavailable` while there is none."""
    for one in members(shard):
        if one.is_leader:
            return one
    raise PatroniUnavailable(shard, "there is no leader now; a new one is being chosen")


def servers(shard: int) -> dict[str, Server]:
    """Each node's report on itself, by name, without nodes that do not answer. Raises `PatroniUnavailable`."""

    asked = nodes(shard)
    with ThreadPoolExecutor(len(asked)) as pool:
        return {one.patroni.name: one for one in pool.map(server, asked) if one}


def server(node: Node, seconds: float = ASK_SECONDS) -> Server | None:
    """A node's report on itself; None if it does not answer within `seconds` or its Patroni is not known."""
    if not node.patroni:
        return None
    try:
        status, data = _call(node.patroni, "GET", "/patroni", None, seconds)
        told = msgspec.json.decode(data, type=Server) if status in (200, 503) else None
    except (_Silent, msgspec.DecodeError) as error:
        log.debug("patroni_silent", url=node.patroni, error=str(error))
        return None
    if told:
        _names()[node.patroni] = told.patroni.name
    return told


@owned
def _names() -> dict[str, str]:
    """By the address of the node's Patroni. A node's name never changes."""
    return {}


def name_of(node: Node) -> str:
    """Patroni's name of a node; `host:port` if Patroni has not returned one."""
    if node.patroni not in _names():
        server(node)
    return known_name(node) or node.address


def known_name(node: Node) -> str | None:
    """Patroni's name of a node, if this process has learned it."""
    return _names().get(node.patroni or "")


def learn_names(shard: int) -> None:
    """Learn the names of a shard's nodes, also of those that do not answer, from one that does. Raises
    `PatroniUnavailable`."""
    named = {(one.host, one.port): one.name for one in members(shard)}
    for node in nodes(shard):
        if node.patroni and (name := named.get((node.host, node.port))):
            _names()[node.patroni] = name


def node_named(shard: int, name: str) -> Node:
    """The server of this name in the settings, whether it answers or not; `host:port` will do. Raises `UnknownNode`,
    `PatroniUnavailable`."""
    servers: list[Node] = settings.TALLY.shards[shard].nodes
    for is_first in (True, False):
        for node in servers:
            if name in (known_name(node), node.address):
                return node
        if is_first:
            learn_names(shard)
    raise _unknown(shard, name, (known_name(node) or node.address for node in servers))


def configuration(shard: int) -> dict[str, Any]:
    """The shard's dynamic configuration from its leader (other nodes see a change some seconds later).

    Raises `PatroniUnavailable`.
    """
    return _decoded(shard, *act(shard, leader(shard), "GET", "/config", seconds=ASK_SECONDS))


def configure(shard: int, changes: Mapping[str, Any]) -> dict[str, Any]:
    """Change the shard's dynamic configuration in etcd and return it. None removes a name. Raises
    `PatroniUnavailable`."""
    for _ in range(_CONFLICTS):
        status, text = act(shard, leader(shard), "PATCH", "/config", changes, seconds=CONFIGURE_SECONDS)
        if status != 409:
            break
    return _decoded(shard, status, text)


def _decoded(shard: int, status: int, text: str) -> dict[str, Any]:
    if status != 200:
        raise PatroniUnavailable(shard, f"its configuration could not be read or changed ({status}: {text[:200]})")
    return msgspec.json.decode(text, type=dict[str, Any])


def act(  # noqa: PLR0913
    shard: int,
    node: Member,
    method: str,
    path: str,
    body: Mapping[str, Any] | None = None,
    *,
    seconds: float = ACT_SECONDS,
) -> tuple[int, str]:
    """Send a request to one node. Returns the status and text of its answer. Raises `PatroniUnavailable`."""
    try:
        status, data = _call(node.url, method, path, body, seconds)
    except _Silent as error:
        raise PatroniUnavailable(shard, f"{node.name} did not answer {method} {path}: {error}") from error
    if status == 401:
        raise PatroniUnavailable(shard, "it does not take TALLY_PATRONI_USER and TALLY_PATRONI_PASSWORD")
    return status, data.decode(errors="replace").strip()
