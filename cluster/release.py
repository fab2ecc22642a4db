"""What processes are started with, as digests: an upgrade replaces those that were started with something else.

Processes that run Tally's code (the *product*) have one digest: code, packages, settings. Most others have another one:
the programs, and the code that makes their configuration. So a change of the product leaves the databases alone. Those
that watch have a third: their programs, and the rules and provisioning as well, which leave all others alone.
"""

from __future__ import annotations

import hashlib
import sys
from collections.abc import Iterable, Mapping
from dataclasses import fields
from importlib import metadata
from pathlib import Path
from typing import NamedTuple

from .programs import Programs

PRODUCT = ("counter_project", "counters", "likes", "replication", "runtime", "sharding")  # packages
ROLES = {"api", "worker", "spill-worker", "beat", "flower", "disks"}  # that run the product
MONITORING = {"prometheus", "grafana"}  # that watch; fields of `Programs`, too


class Release(NamedTuple):
    """The digests."""

    product: str = ""
    programs: str = ""
    monitoring: str = ""

    def of(self, role: str) -> str:
        """The digest of the processes of a role."""
        if role in MONITORING:
            return self.monitoring
        return self.product if role in ROLES else self.programs


def release(project: Path, programs: Programs, environment: Mapping[str, str]) -> Release:
    """Of the code in `project`, these programs, the packages installed here, and the settings in an environment."""
    place = [str(project), sys.executable]
    settings = [f"{name}={value}" for name, value in sorted(environment.items()) if name.startswith("TALLY_")]
    code = list(_contents(project, ["cluster"]))
    watching = [programs.prometheus, programs.grafana]
    return Release(
        _digest([*place, *_packages(), *settings, *_contents(project, PRODUCT)]),
        _digest([*place, f"patroni=={metadata.version('patroni')}", *_files(_serving(programs)), *code]),
        _digest([*place, *_files(filter(None, watching)), *code, *_rules(project / "monitoring")]),
    )


def _packages() -> list[str]:
    """Name and version of each package that is installed, by its folder: to read what each says of itself takes a
    tenth of a second."""
    return sorted({path.stem for place in sys.path for path in Path(place).glob("*.dist-info")})


def _contents(project: Path, packages: Iterable[str]) -> Iterable[str | bytes]:
    for package in packages:
        for path in sorted((project / package).rglob("*")):
            if path.is_file() and path.suffix != ".pyc":
                yield str(path.relative_to(project))
                yield path.read_bytes()


def _rules(monitoring: Path) -> Iterable[str | bytes]:
    """What the processes that watch are given of the package `monitoring`. Grafana reads changed dashboards by itself."""
    for path in sorted({*monitoring.glob("*.yml"), *monitoring.glob("grafana/*/*.yml")}):
        yield str(path)
        yield path.read_bytes()


def _serving(programs: Programs) -> Iterable[Path]:
    """The programs of the processes that do not watch."""
    for one in fields(programs):
        if one.name not in MONITORING and isinstance(path := getattr(programs, one.name), Path):
            yield path
    yield programs.postgres_bin / "postgres"


def _files(programs: Iterable[Path]) -> Iterable[str]:
    """Each program as it is on the disk now."""
    for path in programs:
        state = path.stat()
        yield f"{path} {state.st_size} {state.st_mtime_ns}"


def _digest(parts: Iterable[str | bytes]) -> str:
    found = hashlib.sha256()
    for part in parts:
        found.update(part.encode() if isinstance(part, str) else part)
        found.update(b"\0")
    return found.hexdigest()[:16]
