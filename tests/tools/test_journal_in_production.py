"""The journal's processes in production, started as docs/journal.md says, on one host: a failover, and a disk that is lost."""

from __future__ import annotations

import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
from redis.exceptions import RedisError

from cluster import journal_server, layout, programs, redis, sentinels
from cluster.redis import LOCAL, Address
from tests.support.cluster import eventually
from tests.support.commands import ROOT, clean

START = ROOT / "deploy" / "journal" / "start"
PASSWORDS = {"JOURNAL_PASSWORD": "of-the-journal", "SENTINEL_PASSWORD": "of_the_Sentinels"}
NAMES = [*(f"journal-{n}" for n in (1, 2)), *(f"sentinel-{n}" for n in (1, 2, 3))]
SECONDS = 60.0


class Hosts:
    """Three hosts, of which the first two have a server of the journal."""

    def __init__(self, home: Path) -> None:
        self.home = home
        ports = layout.choose_ports(NAMES, {}, layout.port_is_free, layout.random_start())
        self.addresses = {name: Address(LOCAL, port) for name, port in ports.items()}
        self.running: dict[str, subprocess.Popen[bytes]] = {}
        for name, password in PASSWORDS.items():
            (home / name).write_text(f"{password}\n")

    def start(self, name: str) -> None:
        """As the unit does, with the settings of journal.env."""
        kind, _, host = name.partition("-")
        example = (ROOT / "deploy" / "journal" / "journal.env").read_text()
        settings = dict(re.findall(r"^([A-Z_]+)=(.*)$", example, re.MULTILINE))
        assert settings.keys() >= {"MAXMEMORY"}
        settings |= {
            "PRIMARY": str(self.addresses["journal-1"]),
            "SENTINELS": ",".join(str(self.addresses[f"sentinel-{n}"]) for n in (1, 2, 3)),
            "DOWN_AFTER_MS": "4000" if host == "3" else "2000",
            "VALKEY": str(programs.find().redis),
            f"{kind.upper()}_ADDRESS": str(self.addresses[name]),
            f"{kind.upper()}_DIRECTORY": str(self.home / name),
            "PYTHON": sys.executable,
            **{f"{password}_FILE": str(self.home / password) for password in PASSWORDS},
        }
        unit = (ROOT / "deploy" / "journal" / f"tally-{kind}.service").read_text()
        (line,) = re.findall(r"^ExecStart=(.*)$", unit, re.MULTILINE)
        command = shlex.split(line.replace("/opt/tally", str(ROOT)))
        with (self.home / f"{name}.log").open("ab") as log:
            self.running[name] = subprocess.Popen(command, env=clean(**settings), stdout=log, stderr=log)

    def kill(self, name: str) -> None:
        process = self.running.pop(name)
        process.kill()
        process.wait(10)

    def ask(self, name: str, *command: Any) -> Any:
        address = self.addresses[name]
        with redis.client(address.port, PASSWORDS["JOURNAL_PASSWORD"], address.host) as server:
            return server.execute_command(*command)

    def named_by(self, *watching: str) -> str | None:
        """The primary, if a majority of these Sentinels agree."""
        found = sentinels.named_primary([self.addresses[name] for name in watching], PASSWORDS["SENTINEL_PASSWORD"])
        return next((name for name, address in self.addresses.items() if address == found), None)

    def would_fail_over(self) -> bool:
        """Whether all Sentinels know each other and a replica that may be promoted."""
        for name in NAMES[2:]:
            try:
                with redis.client(self.addresses[name].port, PASSWORDS["SENTINEL_PASSWORD"]) as sentinel:
                    others = sentinel.sentinel_sentinels(sentinels.SERVICE)
                    replicas = sentinel.sentinel_slaves(sentinels.SERVICE)
            except RedisError:
                return False
            if len(others) < 2 or [int(one["slave-priority"]) for one in replicas] != [100]:
                return False
        return True

    def is_replica(self, name: str) -> bool:
        """Whether it has everything and may be promoted."""
        try:
            found = self.ask(name, "INFO", "replication")
        except RedisError:
            return False
        return (found["role"], found.get("master_link_status"), found.get("slave_priority")) == ("slave", "up", 100)

    def log(self, name: str) -> str:
        return (self.home / f"{name}.log").read_text()


@pytest.fixture
def hosts(tmp_path: Path) -> Iterator[Hosts]:
    found = Hosts(tmp_path)
    try:
        yield found
    finally:
        for process in found.running.values():
            process.kill()
            process.wait(10)


def test_it_begins_fails_over_and_gets_a_lost_disk_back(hosts: Hosts) -> None:
    """Nothing that both servers had is lost. The journal begins when it is told to, once."""
    for name in NAMES:
        hosts.start(name)
    eventually(lambda: f"{hosts.addresses['journal-1']} has no data" in hosts.log("journal-1"), SECONDS)
    begin = hosts.home / "journal-1" / journal_server.BEGIN
    begin.touch()
    eventually(lambda: hosts.is_replica("journal-2"), SECONDS)
    assert not begin.exists()
    hosts.ask("journal-1", "SET", "a", "kept")
    assert hosts.ask("journal-1", "WAITAOF", 1, 1, 5000) == [1, 1]

    for sentinel in NAMES[2:]:  # else they look for replicas every ten seconds
        hosts.kill(sentinel)
        hosts.start(sentinel)
    eventually(hosts.would_fail_over, SECONDS)
    hosts.kill("journal-1")
    shutil.rmtree(hosts.home / "journal-1")
    eventually(lambda: hosts.named_by(*NAMES[2:]) == "journal-2", SECONDS)
    assert hosts.ask("journal-2", "GET", "a") == "kept"
    hosts.start("journal-1")
    eventually(lambda: hosts.is_replica("journal-1"), SECONDS)
    assert hosts.ask("journal-1", "GET", "a") == "kept"

    hosts.kill("sentinel-1")  # it knows the new primary, although its settings name the first one
    hosts.start("sentinel-1")
    eventually(lambda: hosts.named_by("sentinel-1") == "journal-2", SECONDS)
    for process in hosts.running.values():
        line = " ".join(psutil.Process(process.pid).cmdline())
        assert not [password for password in PASSWORDS.values() if password in line]
    written = [path for path in hosts.home.glob("*-*/**/*.conf") if path.stat().st_mode & 0o077]
    assert not written


@pytest.mark.parametrize("password", ["", "with space", "a|b"])
def test_a_password_that_the_files_cannot_have_is_refused(hosts: Hosts, password: str) -> None:
    (hosts.home / "JOURNAL_PASSWORD").write_text(password)
    hosts.start("sentinel-1")
    assert hosts.running["sentinel-1"].wait(10) == 1
    assert "JOURNAL_PASSWORD must have letters" in hosts.log("sentinel-1")
