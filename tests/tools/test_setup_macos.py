"""setup-macos.sh with stand-ins for what a Mac has: uname, brew, docker and the commands that it starts."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

from tests.support.commands import ROOT

SCRIPT = ROOT / "setup-macos.sh"
GIGABYTES_8 = 8_589_934_592
DOCKER = """
case "$1 ${2-}" in
"compose version") exit 0 ;;
"info --format") [ -n "$MEMORY" ] && echo "$MEMORY" ;;
"network ls") echo "bridge other" | tr ' ' '\\n' ;;
"network inspect") [ "$5" = other ] && echo "$SUBNET " || echo "172.17.0.0/16 " ;;
*) echo "docker $*" >>"$LOG" ;;
esac
"""


class Mac:
    """A directory with the script, and a PATH with stand-ins that write what they are asked to do into a log."""

    def __init__(self, home: Path) -> None:
        self.home, self.path, self.log = home, home / "bin", home / "log"
        self.path.mkdir()
        self.log.touch()
        shutil.copy(SCRIPT, home)
        for name in ("sh", "dirname", "grep", "tr", "cat", "sed"):
            (self.path / name).symlink_to(str(shutil.which(name)))
        self.stand_in("uname", '[ "$1" = -s ] && echo "${SYSTEM-Darwin}" || echo "${MACHINE-arm64}"')
        for name in ("brew", "make", "git", "openssl"):
            self.stand_in(name)
        self.stand_in("python3", "exit 0")
        self.stand_in("docker", DOCKER)
        for name in ("deploy/make-secrets", ".venv/bin/python"):
            self.stand_in(name, place=home)

    def stand_in(self, name: str, body: str = "", *, place: Path | None = None) -> None:
        program = (place or self.path) / name
        program.parent.mkdir(parents=True, exist_ok=True)
        body = body or f'echo "{name} $*" >>"$LOG"'
        program.write_text(f"#!/bin/sh\n{body}\n")
        program.chmod(0o755)

    def without(self, name: str) -> None:
        (self.path / name).unlink()

    def run(self, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
        given = {"PATH": str(self.path), "LOG": str(self.log), "MEMORY": str(GIGABYTES_8), "SUBNET": "10.0.0.0/8"}
        return subprocess.run(
            [str(self.path / "sh"), str(self.home / SCRIPT.name), *arguments],
            env={**given, **environment},
            capture_output=True,
            text=True,
            check=False,
        )

    @property
    def done(self) -> list[str]:
        return self.log.read_text().splitlines()


UP_CONTAINERS = ["deploy/make-secrets ", "docker compose up --build --detach"]
UP_LOCAL = ["make install", ".venv/bin/python manage.py cluster up --detach"]


@pytest.fixture
def mac(tmp_path: Path) -> Mac:
    return Mac(tmp_path)


def test_with_docker_it_starts_the_containers(mac: Mac) -> None:
    assert mac.run().returncode == 0
    assert mac.done == UP_CONTAINERS


def test_secrets_that_are_there_are_kept(mac: Mac) -> None:
    (mac.home / "secrets").mkdir()
    (mac.home / "secrets" / "tls-key").touch()
    assert mac.run().returncode == 0
    assert mac.done == UP_CONTAINERS[1:]


def test_a_dry_run_does_nothing_and_says_the_same(mac: Mac) -> None:
    mac.without("openssl")
    said = mac.run("--dry-run")
    assert said.returncode == 0
    assert mac.done == []
    would = [line.removeprefix("would run: ") for line in said.stdout.splitlines() if line.startswith("would run: ")]
    assert would == ["brew install openssl@3", "deploy/make-secrets", UP_CONTAINERS[1]]


@pytest.mark.parametrize("memory", ["4000000000", ""])
def test_with_too_little_memory_or_no_engine_it_starts_the_local_cluster(mac: Mac, memory: str) -> None:
    said = mac.run(MEMORY=memory)
    assert said.returncode == 0
    assert mac.done == UP_LOCAL
    assert ("needs 8" if memory else "does not run") in said.stdout


def test_without_docker_or_on_demand_it_starts_the_local_cluster(mac: Mac) -> None:
    assert mac.run("--local").returncode == 0
    mac.without("docker")
    assert mac.run().returncode == 0
    assert mac.done == UP_LOCAL * 2


def test_it_installs_what_is_missing(mac: Mac) -> None:
    for name in ("git", "make"):
        mac.without(name)
    mac.stand_in("python3", "exit 1")
    mac.stand_in("brew", 'echo "brew $*" >>"$LOG"; [ "$2" = make ] && cp "$0" "${0%brew}make" || true')
    (mac.path / "cp").symlink_to(str(shutil.which("cp")))
    mac.run("--local", MACHINE="x86_64")
    assert mac.done[:4] == [f"brew install {one}" for one in ("git", "python@3.13", "make", "nginx")]


@pytest.mark.parametrize(
    ("environment", "arguments", "sentence"),
    [
        ({"SYSTEM": "Linux"}, [], "for macOS"),
        ({"SUBNET": "10.203.3.0/24"}, [], "another network"),
        ({}, ["--what"], "say ./setup-macos.sh"),
    ],
)
def test_it_says_what_is_wrong(mac: Mac, environment: dict[str, str], arguments: list[str], sentence: str) -> None:
    said = mac.run(*arguments, **environment)
    assert said.returncode == 1
    assert sentence in said.stderr
    assert mac.done == []


def test_networks_that_were_moved_are_free(mac: Mac) -> None:
    taken = {"SUBNET": "10.203.3.0/24"}
    assert mac.run(**taken).returncode == 1
    assert mac.run(WORKER_NET="10.9.3", **taken).returncode == 0
    assert mac.run(WORKER_NET="10.9.3", SUBNET="10.9.3.0/24").returncode == 1


def test_without_homebrew_it_says_so(mac: Mac) -> None:
    mac.without("brew")
    assert "Homebrew is missing" in mac.run().stderr


def test_shellcheck_finds_nothing() -> None:
    program = shutil.which("shellcheck")
    if program is None:
        pytest.skip("there is no shellcheck")
    scripts = (SCRIPT, ROOT / "deploy" / "make-secrets", ROOT / "deploy" / "journal" / "start")
    subprocess.run([program, *scripts], check=True)
