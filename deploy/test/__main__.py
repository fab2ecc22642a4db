"""`make deploy-test`: docker-compose.production.yml on this machine's Docker engine, from the build to `down`.

Build; up; the first steps of docs/demo.md; then under writes: a killed primary, a killed journal, scale to five API processes
and ten workers and back, an upgrade to a next image; then every counter is compared with what was acknowledged; down.

It has a project, secrets and ports of its own and leaves nothing behind but the images. `--stand-ins` builds the base images
from Debian's packages, for a machine that can pull none (it needs root and `debootstrap`). `--variants` starts those images
in other forms instead (`deploy.test.variants`).
"""

from __future__ import annotations

import argparse
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path

from benchmarks.demo import page
from benchmarks.demo.__main__ import check
from benchmarks.demo.shell import Shell
from deploy.test import variants
from deploy.test.deployment import (
    BUILD_SECONDS,
    HEALTHY_SECONDS,
    ROOT,
    DeployError,
    Deployment,
    Shape,
    attempt,
    check_nothing_left,
    compare,
    consumers,
    eventually,
    is_well,
    run,
    say,
)
from deploy.test.load import Load

STEPS = ("Health", "Write and read back")  # of docs/demo.md
UPGRADED = ("app", "worker", "nginx", "cache", "journal-1", "db-0-1", "etcd-1")  # some of the services
FAILOVER_SECONDS = 180.0
USUAL = {"app": 2, "worker": 2}


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
        "ten workers consume", lambda: len(found := consumers(deployment, 0)) == 10 and found, HEALTHY_SECONDS
    )
    say(f"  5 API processes answer; {len(names)} workers consume")
    eventually("all is well", lambda: is_well(load), HEALTHY_SECONDS)
    deployment.up(**USUAL)
    eventually("two API processes answer", lambda: len(load.nodes(50)) == 2, HEALTHY_SECONDS)
    if deployment.containers("nginx") != nginx:
        raise DeployError("nginx was made again")


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


def go(deployment: Deployment, home: Path, options: argparse.Namespace) -> None:
    if not options.no_build:
        say("build")
        deployment.compose("build", "--quiet", seconds=BUILD_SECONDS)
    deployment.close()  # what an earlier test left
    say("up")
    began = time.monotonic()
    key = deployment.start(**USUAL)
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
        compare(load)
    say("down")
    deployment.close()
    check_nothing_left()


def main() -> int:
    parser = argparse.ArgumentParser(prog="make deploy-test", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--stand-ins", action="store_true", help="build the base images from Debian's packages")
    parser.add_argument("--mirror", default="", help="of Debian, instead of the one that debootstrap takes by itself")
    parser.add_argument("--build-network", default="", help="that builds use, e.g. host")
    parser.add_argument("--only", default="", help=f"of {','.join(FAULTS)}, with commas between")
    parser.add_argument("--variants", default="", help=f"of {','.join(variants.VARIANTS)}, instead of all that")
    parser.add_argument("--no-build", action="store_true", help="use the images of an earlier test")
    parser.add_argument("--keep", action="store_true", help="leave everything as it is if a step fails")
    options = parser.parse_args()
    if options.variants:
        done = variants.go(options.variants.split(","), options)
    else:
        done = attempt(options, Shape(), lambda deployment, home: go(deployment, home, options))
    if done:
        say("everything as it should be")
    return int(not done)


if __name__ == "__main__":
    sys.exit(main())
