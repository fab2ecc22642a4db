"""The Sentinels of a replicated journal: their configuration files, and whom they call the primary.

Sentinel keeps what it knows in its configuration file. The file is written anew at each start of the cluster, since
ports may have changed; what it knew of the primary and of a fence (`counters.intake.one_copy`) is carried over.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Collection, Iterable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from runtime import polling

from . import redis
from .layout import Directory, Layout, write_private
from .redis import LOCAL, Address

SERVICE = "journal"
ONE_COPY = "journal:one_copy"  # a replica that has this key may lack what was accepted (`counters.intake.copies`)
# Without an answer, after which each Sentinel takes a server to be down. The third is slower, so that at most two stand
# for election at once: three may split the votes, and then the next attempt follows after twice `FAILOVER_MS`.
DOWN_AFTER_MS = (2000, 2000, 4000)
FAILOVER_MS = 3000  # for each step of a failover
LOOK_MS = 1000  # between two looks of a Sentinel at a server; by default 10 s
FAILED_OVER_SECONDS = 15.0
_A_FENCE_MS = 10**9  # or more: no time-out, but a fence

_MONITOR = re.compile(rf"^sentinel monitor {SERVICE} \S+ (\d+) \d+$", re.MULTILINE)
_EPOCH = re.compile(rf"^sentinel config-epoch {SERVICE} (\d+)$", re.MULTILINE)
_DOWN_AFTER = re.compile(rf"^sentinel down-after-milliseconds {SERVICE} (\d+)$", re.MULTILINE)


def are_new(directory: Directory, layout: Layout) -> bool:
    """Whether the journal has had no Sentinels before."""
    return not any((directory[name] / "sentinel.conf").exists() for name in layout.sentinels)


def write(directory: Directory, layout: Layout, before: Layout, secrets: Mapping[str, str]) -> None:
    """Write the Sentinels' configuration files; `before` is the layout of the last start. They must not run."""
    files = {name: directory[name] / "sentinel.conf" for name in layout.sentinels}
    primary, fence = _remembered(files.values(), {port: name for name, port in before.ports.items()})
    for (name, file), usual in zip(files.items(), DOWN_AFTER_MS, strict=True):
        file.parent.mkdir(exist_ok=True, mode=0o700)
        write_private(file, text(layout.ports[name], layout.ports[primary], max(usual, fence), file.parent, secrets))


def text(port: int, primary: int, down_after: int, home: Path, secrets: Mapping[str, str]) -> str:
    return (
        f'bind 127.0.0.1\nport {port}\nrequirepass {secrets["sentinel"]}\ndir "{home}"\nprotected-mode yes\n'
        f"sentinel sentinel-pass {secrets['sentinel']}\nsentinel deny-scripts-reconfig yes\n"
        f"sentinel monitor {SERVICE} 127.0.0.1 {primary} 2\nsentinel auth-pass {SERVICE} {secrets['redis-journal']}\n"
        f"sentinel down-after-milliseconds {SERVICE} {down_after}\nsentinel failover-timeout {SERVICE} {FAILOVER_MS}\n"
        f"sentinel parallel-syncs {SERVICE} 1\n"
    )


def _remembered(files: Iterable[Path], names: Mapping[int, str]) -> tuple[str, int]:
    """The last primary's name, as the newest of these files has it, and the fence (ms), or 0 without one."""
    newest, primary, fence = -1, "redis-journal", 0
    for text in (file.read_text() for file in files if file.exists()):
        epoch, monitored = int((_EPOCH.search(text) or [0, 0])[1]), _MONITOR.search(text)
        if monitored and epoch > newest and int(monitored[1]) in names:
            newest, primary = epoch, names[int(monitored[1])]
        fence = max([fence, *(int(ms) for ms in _DOWN_AFTER.findall(text) if int(ms) >= _A_FENCE_MS)])
    return primary, fence


def primary(layout: Layout, password: str) -> int | None:
    """The port of the local journal's primary, if a majority of the Sentinels agree on it."""
    found = named_primary([Address(LOCAL, layout.ports[name]) for name in layout.sentinels], password)
    return found and found.port


def journal_port(layout: Layout, secrets: Mapping[str, str]) -> int | None:
    """The port of the local journal's primary: its only server, or the one that the Sentinels agree on."""
    return primary(layout, secrets["sentinel"]) if layout.sentinels else layout.ports["redis-journal"]


def named_primary(sentinels: Collection[Address], password: str) -> Address | None:
    """The journal's primary, if a majority of these Sentinels agree on it."""
    named = Counter(found for sentinel in sentinels if (found := _primary(sentinel, password)) is not None)
    address, votes = max(named.items(), key=lambda one: one[1], default=(None, 0))
    return address if votes > len(sentinels) // 2 else None


def _primary(sentinel: Address, password: str) -> Address | None:
    try:
        with redis.client(sentinel.port, password, sentinel.host) as asked:
            host, port = asked.sentinel_get_master_addr_by_name(SERVICE)
        return Address(host, int(port))
    except (redis.errors(), TypeError, OSError):
        return None


def last_heard_ms(sentinels: Iterable[Address], password: str, server: Address) -> int:
    """Milliseconds since any of these Sentinels last had news (INFO) of a replica."""
    times = [10**9]
    for sentinel in sentinels:
        try:
            with redis.client(sentinel.port, password, sentinel.host) as asked:
                replicas: list[dict[str, Any]] = asked.sentinel_slaves(SERVICE)
        except (redis.errors(), OSError):
            continue
        refreshed = [int(one["info-refresh"]) for one in replicas if Address(one["ip"], int(one["port"])) == server]
        times += [milliseconds for milliseconds in refreshed if milliseconds]  # 0: never
    return min(times)


def look_often(sentinels: Iterable[Address], password: str) -> None:
    """Let these Sentinels look at the servers each second. They learn from the primary which replicas there are. One that
    they do not know when it dies can not be promoted, and they do not learn of it any more."""
    for sentinel in sentinels:
        with suppress(redis.errors(), OSError), redis.client(sentinel.port, password, sentinel.host) as asked:
            asked.execute_command("SENTINEL", "DEBUG", "INFO-PERIOD", LOOK_MS)


def all_follow(layout: Layout, secrets: Mapping[str, str]) -> bool:
    """Whether every server of the journal but its primary has all that was accepted, and every Sentinel may promote it."""
    port = primary(layout, secrets["sentinel"])
    others = {layout.ports[name] for name in layout.journals if layout.ports[name] != port}
    try:
        return (
            port is not None
            and all(others <= _known(layout.ports[name], secrets["sentinel"]) for name in layout.sentinels)
            and all(_follows(other, port, secrets["redis-journal"]) for other in others)
        )
    except (redis.errors(), KeyError, OSError):
        return False


def _known(sentinel: int, password: str) -> set[int]:
    """The ports of the replicas that a Sentinel of the local cluster knows."""
    with redis.client(sentinel, password) as asked:
        return {int(one["port"]) for one in asked.sentinel_slaves(SERVICE)}


def _follows(server: int, primary: int, password: str) -> bool:
    with redis.client(server, password) as asked:
        state, one_copy = asked.info(), asked.exists(ONE_COPY)
    return bool(
        not one_copy
        and state["role"] == "slave"
        and state["master_port"] == primary
        and state["master_link_status"] == "up"
        and state["slave_priority"]
        and not state["loading"]
        and not state["aof_rewrite_in_progress"]
        and not state["aof_rewrite_scheduled"]
    )


def fail_over(layout: Layout, password: str) -> bool:
    """Let the Sentinels promote a replica of the journal. Returns whether a majority of them calls it the primary."""
    before = primary(layout, password)
    if before is None:
        return False
    try:
        with redis.client(layout.ports[layout.sentinels[0]], password) as asked:
            asked.execute_command("SENTINEL", "FAILOVER", SERVICE)
    except (redis.errors(), OSError):
        return False
    looks = polling.attempts(FAILED_OVER_SECONDS, pause=0.1)
    return any(primary(layout, password) not in (None, before) for _ in looks)
