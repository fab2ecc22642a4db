"""`make deploy-test`: docker-compose.production.yml on this machine's Docker engine, from the build to `down`.

Build; up; the first steps of docs/demo.md; then under writes: a killed primary, a killed journal, scale to five API processes
and ten workers and back, an upgrade to a next image; then every counter is compared with what was acknowledged; down.

It has a project, secrets and ports of its own and leaves nothing behind but the images. `--stand-ins` builds the base images
from Debian's packages, for a machine that can pull none (it needs root and `debootstrap`). The monitoring profile is not run.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import httpx

from benchmarks.demo import page
from benchmarks.demo.__main__ import check
from benchmarks.demo.shell import Shell
from deploy.test.load import Load
from runtime import polling

ROOT = Path(__file__).resolve().parents[2]
FILE = ROOT / "docker-compose.production.yml"
PROJECT = "tally-deploy-test"
STEPS = ("Health", "Write and read back")  # of docs/demo.md
BASES = {"PYTHON": "python", "POSTGRES": "postgres", "VALKEY": "valkey", "NGINX": "nginx", "DEBIAN": "debian"}
UPGRADED = ("app", "worker", "nginx", "cache", "journal-1", "db-0-1", "etcd-1")  # some of the services
BUILD_SECONDS = 3600.0
UP_SECONDS = 900.0
FAILOVER_SECONDS = 180.0
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


class Deployment:
    """The project of the test. `close` removes it with its volumes."""

    def __init__(self, home: Path, options: argparse.Namespace) -> None:
        self.secrets, self.nginx_port = home / "secrets", _free_port()
        self._environment = {
            **os.environ,
            **LIMITS,
            "IMAGE": PROJECT,
            "SECRETS": str(self.secrets),
            "PORT": f"127.0.0.1:{self.nginx_port}",
            "OPERATORS_PORT": str(_free_port()),
            "COMPOSE_PROGRESS": "quiet",
        }
        self.tag, self._files = "1", [FILE]
        if options.stand_ins:
            self._environment |= {f"{name}_IMAGE": f"tally-base/{target}" for name, target in BASES.items()}
            self._environment |= stand_ins(home, options)
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
        files = (word for file in self._files for word in ("-f", str(file)))
        environment = {**self._environment, "TAG": self.tag}
        return run("docker", "compose", "-p", PROJECT, *files, *arguments, seconds=seconds, environment=environment)

    def follow(self, section: str) -> None:
        """Run the commands in a section of docs/deployment.md. Raises `DeployError`."""
        text = (ROOT / "docs" / "deployment.md").read_text(encoding="utf-8").partition(f"## {section}\n")[2]
        commands = text.partition("```sh\n")[2].partition("```")[0]
        run("bash", "-euc", commands, seconds=BUILD_SECONDS, environment=self._environment)

    def up(self, *, app: int = 2, worker: int = 2) -> None:
        self.compose(
            "up", "-d", "--no-build", "--scale", f"app={app}", "--scale", f"worker={worker}", seconds=UP_SECONDS
        )

    def containers(self, service: str) -> list[str]:
        return self.compose("ps", "-q", service).split()

    @property
    def url(self) -> str:
        return f"https://localhost:{self.nginx_port}"

    def close(self) -> None:
        self.compose("--profile", "*", "down", "--volumes", "--timeout", "60")


def run(*command: str, seconds: float = 600.0, environment: dict[str, str] | None = None, text: str = "") -> str:
    """stdout of a command. Raises `DeployError` with its stderr."""
    done = subprocess.run(
        command,
        input=text or None,
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


def stand_ins(home: Path, options: argparse.Namespace) -> dict[str, str]:
    """Make the base images that are not there yet; the variables with this machine's pip settings, for the builds."""
    found = {
        "PIP_CA": os.environ.get("PIP_CERT", "/etc/ssl/certs/ca-certificates.crt"),
        "PIP_CONF": str(home / "pip.conf"),
    }
    (home / "pip.conf").write_text("[global]\ncert = /run/secrets/ca\n")
    network = ["--network", options.build_network] if options.build_network else []
    here = Path(__file__).parent
    if not _has_image("tally-base/debian"):
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
    for target in sorted({*BASES.values()} - {"debian"}):
        if not _has_image(f"tally-base/{target}"):
            say(f"stand-in for {target}")
            secrets = (
                f"--secret=id={name},src={path}" for name, path in zip(("ca", "pip"), found.values(), strict=True)
            )
            run(
                *("docker", "buildx", "build", *network, "--build-arg", "DEBIAN=tally-base/debian", "--target", target),
                *(*secrets, "-t", f"tally-base/{target}", "-f", str(here / "bases.dockerfile"), str(here)),
            )
    return found


def _has_image(name: str) -> bool:
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


def walk(deployment: Deployment, home: Path, key: str) -> None:
    """The first steps of docs/demo.md. Raises `DeployError`."""
    curl = (
        f'header = "Authorization: Api-Key {key}"',
        'header = "Content-Type: application/json"',
        'write-out = "\\n"',
    )
    more = ("no-progress-meter", 'noproxy = "*"', f'cacert = "{deployment.secrets}/authority"')
    (home / ".curlrc").write_text("\n".join((*curl, *more)) + "\n")
    environment = {**os.environ, "url": deployment.url, "CURL_HOME": str(home), "LC_ALL": "C"}
    steps = {step.title: step for step in page.parse((ROOT / "docs" / "demo.md").read_text(encoding="utf-8"))}
    with Shell(ROOT, environment) as shell:
        for block in (block for title in STEPS for block in steps[title].blocks):
            _, wrong = check(block, shell)
            if wrong:
                raise DeployError(f"docs/demo.md, line {block.line}: {wrong}")


def primary_of(load: Load, shard: int) -> str:
    """The service that is a shard's primary, "" if there is none: Patroni calls `db-0-1` `shard-0-node-1`."""
    name = next(one["primary"] for one in load.get("/v1/shards")["results"] if one["shard"] == shard)
    return (name or "").replace("shard", "db").replace("-node", "")


def kill_primary(deployment: Deployment, load: Load) -> None:
    """A shard's primary dies; another takes over; it comes back as a replica."""
    before = primary_of(load, 0)
    run("docker", "kill", *deployment.containers(before))
    began = time.monotonic()
    after = eventually("another primary", lambda: (now := primary_of(load, 0)) != before and now, FAILOVER_SECONDS)
    say(f"  {before} killed; {after} is the primary after {time.monotonic() - began:.0f} s")
    deployment.compose("start", before)
    eventually("two copies again", lambda: is_well(load), HEALTHY_SECONDS)


def kill_journal(deployment: Deployment, load: Load) -> None:
    accepted = load.accepted
    run("docker", "kill", *deployment.containers("journal-1"))
    time.sleep(6)
    deployment.compose("start", "journal-1")
    eventually("writes are accepted again", lambda: load.accepted > accepted + 100, FAILOVER_SECONDS)
    eventually("the journal has two copies again", lambda: is_well(load), HEALTHY_SECONDS)


def scale(deployment: Deployment, load: Load) -> None:
    """More API processes and workers take part without a restart of nginx, and fewer again."""
    nginx = deployment.containers("nginx")
    deployment.up(app=5, worker=10)
    eventually("five API processes answer", lambda: len(load.nodes(50)) == 5, HEALTHY_SECONDS)
    names = eventually(
        "ten workers consume", lambda: len(found := consumers(deployment)) == 10 and found, HEALTHY_SECONDS
    )
    say(f"  5 API processes answer; {len(names)} workers consume")
    eventually("all is well", lambda: is_well(load), HEALTHY_SECONDS)
    deployment.up()
    eventually("two API processes answer", lambda: len(load.nodes(50)) == 2, HEALTHY_SECONDS)
    if deployment.containers("nginx") != nginx:
        raise DeployError("nginx was made again")


def consumers(deployment: Deployment) -> set[str]:
    """The workers that consume a shard's queue, by their heartbeats."""
    program = (
        "import django; django.setup()\n"
        "from runtime import heartbeats, resources\n"
        "with resources.Resources(): print(*(n.split()[2] for n in heartbeats.known() if n.startswith('consumer shard-0')))"
    )
    command = ("exec", "-T", "-e", "DJANGO_SETTINGS_MODULE=counter_project.settings", "app", "python", "-c", program)
    return {name for name in deployment.compose(*command).split() if name.startswith("worker-")}


def upgrade(deployment: Deployment, load: Load) -> None:
    """The next image, by the commands of docs/deployment.md as they are written."""
    began, accepted = time.monotonic(), load.accepted
    before = {one for name in UPGRADED for one in deployment.containers(name)}
    deployment.follow("Upgrade")
    deployment.tag = "2"
    now = {one for name in UPGRADED for one in deployment.containers(name)}
    if before & now or len(now) < len(UPGRADED):
        raise DeployError("a container of the old image still runs, or one of the new image does not")
    eventually("all is well after the upgrade", lambda: is_well(load), HEALTHY_SECONDS)
    say(f"  upgraded in {time.monotonic() - began:.0f} s; {load.accepted - accepted} writes were accepted meanwhile")


FAULTS: dict[str, Callable[[Deployment, Load], None]] = {
    "primary": kill_primary,
    "journal": kill_journal,
    "scale": scale,
    "upgrade": upgrade,
}


def check_nothing_left() -> None:
    """Nothing of the project is left. Raises `DeployError`."""
    for kind in (("ps", "-a"), ("volume", "ls"), ("network", "ls")):
        if left := run("docker", *kind, "-q", "--filter", f"label=com.docker.compose.project={PROJECT}").split():
            raise DeployError(f"left behind ({kind[0]}): {left}")


def go(deployment: Deployment, home: Path, options: argparse.Namespace) -> None:
    run(str(ROOT / "deploy" / "make-secrets"), str(deployment.secrets))
    if not options.no_build:
        say("build")
        deployment.compose("build", "--quiet", seconds=BUILD_SECONDS)
    deployment.close()  # what an earlier test left
    say("up")
    began = time.monotonic()
    deployment.compose("run", "--rm", "begin")
    deployment.up()
    said = deployment.compose("run", "--rm", "-T", "--no-deps", "migrate", "manage", "make_key", "test", *_scopes())
    key = said.split()[-1]
    with Load(deployment.url, key, deployment.secrets / "authority") as load:
        eventually("all is well", lambda: is_well(load), HEALTHY_SECONDS)
        say(f"  up and well after {time.monotonic() - began:.0f} s")
        say("the first steps of docs/demo.md")
        walk(deployment, home, key)
        load.begin()
        for name in options.only.split(",") if options.only else FAULTS:
            say(name)
            FAULTS[name](deployment, load)
        load.end()
        say(f"compare {load.accepted} acknowledged writes, {load.repeated} of them repeated")
        try:
            eventually("every counter has what was acknowledged", lambda: not load.differing(), EXACT_SECONDS)
        except DeployError as error:
            raise DeployError(f"(acknowledged, counted): {load.differing()}") from error
    say("down")
    deployment.close()
    check_nothing_left()


def _scopes() -> Sequence[str]:
    return [f"--scope={scope}" for scope in ("read", "write", "staff")]


def main() -> int:
    parser = argparse.ArgumentParser(prog="make deploy-test", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--stand-ins", action="store_true", help="build the base images from Debian's packages")
    parser.add_argument("--mirror", default="", help="of Debian, instead of the one that debootstrap takes by itself")
    parser.add_argument("--build-network", default="", help="that builds use, e.g. host")
    parser.add_argument("--only", default="", help=f"of {','.join(FAULTS)}, with commas between")
    parser.add_argument("--no-build", action="store_true", help="use the images of an earlier test")
    parser.add_argument("--keep", action="store_true", help="leave everything as it is if a step fails")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix=PROJECT) as directory:
        deployment = Deployment(Path(directory), options)
        failed = True
        try:
            go(deployment, Path(directory), options)
            failed = False
        except DeployError as error:
            say(f"failed: {error}")
            with suppress(DeployError):
                sys.stderr.write(deployment.compose("ps", "-a") + deployment.compose("logs", "--tail", "30"))
            if options.keep:
                input("everything is left as it is until you press Enter ")
        finally:
            if failed:
                with suppress(DeployError):
                    deployment.close()
    if not failed:
        say("everything as it should be")
    return int(failed)


if __name__ == "__main__":
    sys.exit(main())
