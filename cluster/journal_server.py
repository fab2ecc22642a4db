"""Start one server of a replicated journal in the role that the Sentinels give it, then become it (exec).

`python -m cluster.journal_server --config FILE --address HOST:PORT --sentinels HOST:PORT,… SERVER [OPTION…]`

It is for production as well as for the local cluster (docs/journal.md), and needs no other part of Tally to run. FILE is
the configuration without a role; with its role, it is written to the server's directory as `server.conf`. The
environment has the Sentinels' password (`SENTINEL_PASSWORD`), or the path of a file with it (`SENTINEL_PASSWORD_FILE`).

Replicas copy whatever their primary has, so a primary that came back without its data would empty them. And a replica
that has no data yet must not be promoted, or everything would be lost while the primary's disk still has it. So:

- A server starts as primary only if a majority of the Sentinels calls it the primary, and it has data. The one
  exception is the first start of all, which a file `begin` in its directory orders. It is deleted at the start.
- Any other server starts as a replica of the primary that the Sentinels name.
- A replica without data starts with `replica-priority 0`, so that Sentinel does not promote it, and gets its priority
  once it has the whole copy. It starts only when every Sentinel has had no news of it for longer than a Sentinel
  trusts old news (5 s while a primary is down), since the old news is that it may be promoted.
"""

from __future__ import annotations

import argparse
import os
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from . import ClusterError, redis, sentinels
from .layout import write_private
from .redis import Address

POLL_SECONDS = 0.2
FORGOTTEN_MS = 6000
SYNC_SECONDS = 600.0  # for a copy; after that the server is left unpromotable
BEGIN = "begin"
PASSWORD = "SENTINEL_PASSWORD"  # noqa: S105


@dataclass(frozen=True)
class Server:
    """A server of the journal. `config`: without a role; `address`: its own, as the Sentinels know it."""

    config: str
    address: Address
    sentinels: tuple[Address, ...]
    sentinel_password: str

    def setting(self, name: str) -> str:
        """A setting in its configuration. Raises `ClusterError`."""
        values = [line.partition(" ")[2] for line in self.config.splitlines() if line.startswith(f"{name} ")]
        if not values:
            raise ClusterError(f"the configuration of the journal's server has no `{name}`")
        return values[-1].strip().strip('"')

    @property
    def home(self) -> Path:
        return Path(self.setting("dir"))

    def has_data(self) -> bool:
        return any((self.home / "appendonlydir").glob("*.manifest"))

    def primary(self) -> Address:
        """Wait until this server may start. Returns the primary: its own address, or that of another server."""
        told = False
        while True:
            primary, has_data = sentinels.named_primary(self.sentinels, self.sentinel_password), self.has_data()
            if primary == self.address and (has_data or (self.home / BEGIN).exists()):
                return primary
            if primary not in (None, self.address) and (has_data or self._is_forgotten()):
                return primary
            if primary == self.address and not told:
                told = True
                print(
                    f"{self.address} has no data and may not be the primary: it waits for another to be promoted. If no "
                    f"other server has the journal, make the file {self.home / BEGIN} to begin an empty one.",
                    flush=True,
                )
            time.sleep(POLL_SECONDS)

    def _is_forgotten(self) -> bool:
        return sentinels.last_heard_ms(self.sentinels, self.sentinel_password, self.address) > FORGOTTEN_MS


def main(arguments: list[str]) -> None:
    """Wait for a role, then exec the server. Does not return. Raises `ClusterError`."""
    server, command = _asked(arguments)
    primary = server.primary()
    sentinels.look_often(server.sentinels, server.sentinel_password)
    is_whole = primary == server.address or server.has_data()
    server.home.mkdir(exist_ok=True, mode=0o700)
    role = "" if primary == server.address else f"replicaof {primary.host} {primary.port}\n"
    conf = server.home / "server.conf"
    write_private(conf, f"{server.config}{role}replica-priority {100 if is_whole else 0}\n")
    (server.home / BEGIN).unlink(missing_ok=True)
    if not is_whole:
        _in_background(lambda: _make_promotable(server.address, server.setting("requirepass")))
    os.execvp(command[0], [command[0], str(conf), *command[1:]])  # noqa: S606


def _asked(arguments: list[str]) -> tuple[Server, list[str]]:
    parser = argparse.ArgumentParser(prog="python -m cluster.journal_server")
    parser.add_argument("--config", type=Path, required=True, help="the server's configuration, without a role")
    parser.add_argument("--address", type=Address.of, required=True, help="its HOST:PORT, as the Sentinels know it")
    parser.add_argument("--sentinels", required=True, help="HOST:PORT of each Sentinel, separated by commas")
    parser.add_argument("command", nargs=argparse.REMAINDER, help="the server's program and its options")
    options = parser.parse_args(arguments)
    password, path = os.environ.pop(PASSWORD, ""), os.environ.pop(f"{PASSWORD}_FILE", "")
    try:
        config = options.config.read_text()
        password = password or Path(path).read_text().strip()
    except OSError as error:
        raise ClusterError(f"cannot read {error.filename} ({error.strerror}); it needs {PASSWORD}[_FILE]") from error
    return Server(
        config, options.address, tuple(map(Address.of, options.sentinels.split(","))), password
    ), options.command


def _in_background(work: Callable[[], None]) -> None:
    """Run a function in a process of its own, which the server that this process becomes does not have as a child."""
    if os.fork() == 0:
        if os.fork() == 0:
            try:
                work()
            finally:
                os._exit(0)
        os._exit(0)
    os.wait()


def _make_promotable(address: Address, password: str) -> None:
    """Give the replica its priority once its memory and its disk have the whole copy."""
    until = time.monotonic() + SYNC_SECONDS
    while time.monotonic() < until:
        time.sleep(POLL_SECONDS)
        try:
            with redis.client(address.port, password, address.host) as server:
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
        except (redis.errors(), KeyError, OSError):
            continue


if __name__ == "__main__":
    try:
        main(sys.argv[1:])
    except ClusterError as error:
        sys.exit(f"error: {error}")
