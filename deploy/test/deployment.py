"""A project of Compose that a test has made: its files, secrets, ports and base images, and the questions to it."""

from __future__ import annotations

import argparse
import json
import os
import shutil
import socket
import subprocess
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx

from deploy.test.load import Load
from runtime import polling

ROOT = Path(__file__).resolve().parents[2]
PROJECT = "tally-deploy-test"
BASES = {"PYTHON": "python", "POSTGRES": "postgres", "VALKEY": "valkey", "NGINX": "nginx", "DEBIAN": "debian"}
BUILD_SECONDS = 3600.0
UP_SECONDS = 900.0
HEALTHY_SECONDS = 300.0
EXACT_SECONDS = 120.0
# Half of the defaults and less: the test's machine is not production's.
LIMITS = {
    "DATABASE_MEMORY": "512m",
    "JOURNAL_MEMORY": "512m",
    "CACHE_MEMORY": "128m",
    "APP_MEMORY": "512m",
    "CHECK_INTERVAL": "20s",  # a machine that others use, too
    "CHECK_TIMEOUT": "60s",
    "DISK_RESERVE_BYTES": str(64 * 1024**2),
}


class DeployError(Exception):
    """The sentence says what is not as it should be."""


@dataclass(frozen=True)
class Shape:
    """What is started: Compose files and variables. `bases` are base images it needs besides `BASES`, by variable."""

    files: Sequence[str] = ("docker-compose.production.yml",)
    environment: Mapping[str, str] = field(default_factory=dict)
    env_file: str = ""
    bases: Mapping[str, str] = field(default_factory=dict)
    is_public: bool = True  # HTTPS, at a port whose address is part of PORT, and a journal that `begin` begins


class Deployment:
    """The project of the test. `close` removes it with its volumes."""

    def __init__(self, home: Path, options: argparse.Namespace, shape: Shape) -> None:
        self.secrets, self._shape = home / "secrets", shape
        self._port, self._operators_port = _free_port(), _free_port()
        self._environment = {
            **os.environ,
            **LIMITS,
            "IMAGE": PROJECT,
            "SECRETS": str(self.secrets),
            "PORT": f"127.0.0.1:{self._port}" if shape.is_public else str(self._port),
            "OPERATORS_PORT": str(self._operators_port),
            "COMPOSE_PROGRESS": "quiet",
            **shape.environment,
        }
        self.tag, self._files = "1", [ROOT / name for name in shape.files]
        if options.stand_ins:
            bases = {**BASES, **shape.bases}
            self._environment |= {f"{name}_IMAGE": f"tally-base/{target}" for name, target in bases.items()}
            self._environment |= stand_ins(home, options, sorted({*bases.values()} - {"debian"}))
        if options.build_network:
            services = json.loads(self.compose("config", "--format", "json"))["services"]
            built = {
                name: {"build": {"network": options.build_network}} for name, one in services.items() if "build" in one
            }
            (home / "network.json").write_text(json.dumps({"services": built}))
            self._files.append(home / "network.json")
        self._environment |= {
            "COMPOSE_PROJECT_NAME": PROJECT,
            "COMPOSE_FILE": os.pathsep.join(map(str, self._files)),
        }

    def compose(self, *arguments: str, seconds: float = 600.0) -> str:
        """stdout of `docker compose …`. Raises `DeployError`."""
        options = [word for file in self._files for word in ("-f", str(file))]
        if self._shape.env_file:
            options += ["--env-file", str(ROOT / self._shape.env_file)]
        environment = {**self._environment, "TAG": self.tag}
        return run("docker", "compose", "-p", PROJECT, *options, *arguments, seconds=seconds, environment=environment)

    def follow(self, section: str) -> None:
        """Run the commands in a section of docs/deployment.md. Raises `DeployError`."""
        text = (ROOT / "docs" / "deployment.md").read_text(encoding="utf-8").partition(f"## {section}\n")[2]
        commands = text.partition("```sh\n")[2].partition("```")[0]
        run("bash", "-euc", commands, seconds=BUILD_SECONDS, environment=self._environment)

    def up(self, **scale: int) -> None:
        """Start all; `scale` has the number of containers of services."""
        scales = (word for name, count in scale.items() for word in ("--scale", f"{name}={count}"))
        self.compose("up", "-d", "--no-build", *scales, seconds=UP_SECONDS)

    def start(self, **scale: int) -> str:
        """Start all with an empty journal. Returns an API key with every scope."""
        if self._shape.is_public:
            self.compose("run", "--rm", "begin")
        self.up(**scale)
        scopes = [f"--scope={scope}" for scope in ("read", "write", "staff")]
        said = self.compose("run", "--rm", "-T", "--no-deps", "migrate", "manage", "make_key", "test", *scopes)
        return said.split()[-1]

    def containers(self, service: str) -> list[str]:
        return self.compose("ps", "-q", service).split()

    def python(self, program: str) -> str:
        """What a program prints in a container of `app`, with Tally's settings. Raises `DeployError`."""
        command = (
            "exec",
            "-T",
            "-e",
            "DJANGO_SETTINGS_MODULE=counter_project.settings",
            "app",
            "python",
            "-c",
            program,
        )
        return self.compose(*command)

    @property
    def url(self) -> str:
        return f"{'https' if self._shape.is_public else 'http'}://localhost:{self._port}"

    @property
    def operators_url(self) -> str:
        return f"{'https' if self._shape.is_public else 'http'}://localhost:{self._operators_port}"

    def close(self) -> None:
        self.compose("--profile", "*", "down", "--volumes", "--timeout", "60")

    def say_what_is_wrong(self) -> str:
        """Containers and the end of their logs; "" if not even that can be had."""
        with suppress(DeployError):
            return self.compose("ps", "-a") + self.compose("logs", "--tail", "30")
        return ""


def run(*command: str, seconds: float = 600.0, environment: dict[str, str] | None = None) -> str:
    """stdout of a command. Raises `DeployError` with its stderr."""
    done = subprocess.run(
        command,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=seconds,
        env=environment,
        check=False,
        cwd=ROOT,
    )
    if done.returncode:
        raise DeployError(
            f"{' '.join(command[:9])} … ended with {done.returncode}:\n{done.stderr[-3000:]}{done.stdout[-500:]}"
        )
    return done.stdout


def stand_ins(home: Path, options: argparse.Namespace, targets: Sequence[str]) -> dict[str, str]:
    """Make the base images that are not there yet; the variables with this machine's pip settings, for the builds."""
    found = {
        "PIP_CA": os.environ.get("PIP_CERT", "/etc/ssl/certs/ca-certificates.crt"),
        "PIP_CONF": str(home / "pip.conf"),
    }
    (home / "pip.conf").write_text("[global]\ncert = /run/secrets/ca\n")
    network = ["--network", options.build_network] if options.build_network else []
    here = Path(__file__).parent
    if not has_image("tally-base/debian"):
        say("debootstrap")
        run(
            "debootstrap",
            "--variant=minbase",
            "--include=ca-certificates",
            "trixie",
            str(home / "debian"),
            *filter(None, [options.mirror]),
        )
        archive = home / "debian.tar"
        run("tar", "-C", str(home / "debian"), "-cf", str(archive), ".")
        run("docker", "import", str(archive), "tally-base/debian")
        archive.unlink()
        shutil.rmtree(home / "debian")
    for target in targets:
        if not has_image(f"tally-base/{target}"):
            say(f"stand-in for {target}")
            secrets = (
                f"--secret=id={name},src={path}" for name, path in zip(("ca", "pip"), found.values(), strict=True)
            )
            run(
                *("docker", "buildx", "build", *network, "--build-arg", "DEBIAN=tally-base/debian", "--target", target),
                *(*secrets, "-t", f"tally-base/{target}", "-f", str(here / "bases.dockerfile"), str(here)),
            )
    return found


def has_image(name: str) -> bool:
    return bool(run("docker", "images", "-q", name).strip())


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def say(text: str) -> None:
    print(f"{time.strftime('%H:%M:%S')} {text}", flush=True)


def eventually(what: str, condition: Callable[[], Any], seconds: float) -> Any:
    """The condition's first true value. Raises `DeployError`."""
    seen: Any = None
    for _ in polling.attempts(seconds, pause=1.0):
        with suppress(httpx.HTTPError, ValueError, KeyError, DeployError, subprocess.TimeoutExpired):
            if seen := condition():
                return seen
    raise DeployError(f"{what}: not within {seconds:.0f} s; {seen!r}")


def is_well(load: Load) -> bool:
    """Whether /health says that everything is up."""
    return bool(load.get("/health")["status"] == "ok")


def consumers(deployment: Deployment, shard: int) -> set[str]:
    """The workers that consume a shard's queue, by their heartbeats."""
    program = (
        "import django; django.setup()\n"
        "from runtime import heartbeats, resources\n"
        f"with resources.Resources(): print(*(n.split()[2] for n in heartbeats.known() if n.startswith('consumer shard-{shard} ')))"
    )
    return {name for name in deployment.python(program).split() if name.startswith("worker-")}


def compare(load: Load) -> None:
    """Every counter has what was acknowledged. Raises `DeployError`."""
    say(f"compare {load.accepted} acknowledged writes, {load.repeated} of them repeated")
    try:
        eventually("every counter has what was acknowledged", lambda: not load.differing(), EXACT_SECONDS)
    except DeployError as error:
        raise DeployError(f"(acknowledged, counted): {load.differing()}") from error


def check_nothing_left() -> None:
    """Nothing of the project is left. Raises `DeployError`."""
    for kind in (("ps", "-a"), ("volume", "ls"), ("network", "ls")):
        if left := run("docker", *kind, "-q", "--filter", f"label=com.docker.compose.project={PROJECT}").split():
            raise DeployError(f"left behind ({kind[0]}): {left}")


def attempt(options: argparse.Namespace, shape: Shape, test: Callable[[Deployment, Path], None]) -> bool:
    """Whether a test of a deployment runs to its end. Afterwards it is gone, unless `--keep` leaves a failed one."""
    with tempfile.TemporaryDirectory(prefix=PROJECT) as directory:
        home = Path(directory)
        deployment = Deployment(home, options, shape)
        run(str(ROOT / "deploy" / "make-secrets"), str(deployment.secrets))
        failed = True
        try:
            test(deployment, home)
            failed = False
        except DeployError as error:
            say(f"failed: {error}")
            print(deployment.say_what_is_wrong(), flush=True)
            if options.keep:
                input("everything is left as it is until you press Enter ")
        finally:
            if failed:
                with suppress(DeployError):
                    deployment.close()
    return not failed
