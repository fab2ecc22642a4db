"""Start one server of a replicated journal in the role that the Sentinels give it, then become it (exec).

`python -m cluster.journal_server DIRECTORY NAME SERVER [OPTION…]`

Replicas copy whatever their primary has, so a primary that came back without its data would empty them. And a replica
that has no data yet must not be promoted, or everything would be lost while the primary's disk still has it. So:

- A server starts as primary only if a majority of the Sentinels calls it the primary, and it has data. The one
  exception is the first start of all.
- Any other server starts as a replica of the primary that the Sentinels name.
- A replica without data starts with `replica-priority 0`, so that Sentinel does not promote it, and gets its priority
  once it has the whole copy. It starts only when every Sentinel has had no news of it for longer than a Sentinel
  trusts old news (5 s while a primary is down), since the old news is that it may be promoted.
"""

from __future__ import annotations

import os
import sys
import time
from pathlib import Path

from redis.exceptions import RedisError

from . import ClusterError, configs, layout, redis, sentinels
from .layout import Directory, write_private

POLL_SECONDS = 0.2
FORGOTTEN_MS = 6000
SYNC_SECONDS = 600.0  # for a copy; after that the server is left unpromotable


def main(arguments: list[str]) -> None:
    """Wait for a role, then exec the server. Does not return."""
    root, name, *command = arguments
    directory = Directory(Path(root))
    wanted, secrets = layout.load(directory), layout.load_secrets(directory)
    if wanted is None:
        raise ClusterError(f"there is no cluster in {root}")
    port, password = wanted.ports[name], secrets["redis-journal"]
    begun, told = directory["journal-begun"], False
    while True:
        primary, has_data = sentinels.primary(wanted, secrets["sentinel"]), _has_data(directory[name])
        if primary == port and (has_data or not begun.exists()):
            begun.touch()
            role = None
            break
        if primary not in (None, port) and (
            has_data or sentinels.last_heard_ms(wanted, secrets["sentinel"], port) > FORGOTTEN_MS
        ):
            role = primary
            break
        if primary == port and not told:
            told = True
            print(
                f"{name} has lost its data and may not be the primary: it waits for another to be promoted. If no other "
                f"server has the journal, remove {begun} to begin an empty one.",
                flush=True,
            )
        time.sleep(POLL_SECONDS)
    directory[name].mkdir(exist_ok=True, mode=0o700)
    synced = role is None or has_data
    conf = directory[name] / "redis.conf"
    write_private(conf, configs.redis_journal_copy(port, password, directory[name], primary=role, synced=synced))
    if not synced:
        _in_background(lambda: _make_promotable(port, password))
    os.execv(command[0], [command[0], str(conf), *command[1:]])  # noqa: S606


def _has_data(home: Path) -> bool:
    return any((home / "appendonlydir").glob("*.manifest"))


def _in_background(work: object) -> None:
    """Run a function in a process of its own, which the server that this process becomes does not have as a child."""
    if os.fork() == 0:
        if os.fork() == 0:
            try:
                work()  # type: ignore[operator]
            finally:
                os._exit(0)
        os._exit(0)
    os.wait()


def _make_promotable(port: int, password: str) -> None:
    """Give the replica its priority once its memory and its disk have the whole copy."""
    until = time.monotonic() + SYNC_SECONDS
    while time.monotonic() < until:
        time.sleep(POLL_SECONDS)
        try:
            with redis.client(port, password) as server:
                state = server.info()
                if (
                    state["role"] == "slave"
                    and state["master_link_status"] == "up"
                    and not state["loading"]
                    and not state["aof_rewrite_in_progress"]
                    and not state["aof_rewrite_scheduled"]
                ):
                    server.config_set("replica-priority", 100)
                    return
        except (RedisError, KeyError, OSError):
            continue


if __name__ == "__main__":
    main(sys.argv[1:])
