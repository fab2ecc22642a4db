"""From the options of `up` to a plan that can be started: lock, layout, ports, secrets, configuration files.

Nothing is started here. What it writes is written anew at every start, apart from the layout and the secrets.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import shutil
from collections.abc import Collection, Mapping
from dataclasses import replace
from pathlib import Path
from typing import IO

import psutil

from replication import apply_delay
from replication.apply_delay import ApplyDelay
from sharding import connection_budget
from sharding.connection_budget import Fleet, TooManyConnections

from . import ClusterError, configs, journal_server, layout, monitoring, programs, sentinels, state
from .archive import Archive
from .configs import NginxSettings
from .layout import Asked, Directory, Layout
from .plan import Planner, base_environment
from .release import release

KEEPS_CLIENTS = (1, 27, 4)  # the first nginx with `keepalive_min_timeout`
LOG_BYTES = 20 * 1024 * 1024  # a larger log is put aside, at the start and while the cluster runs


def lock(directory: Directory) -> IO[str]:
    """The right to run this cluster, held while the returned file is open. Raises `ClusterError` if another has it."""
    file = directory["lock"].open("a")
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        file.close()
        url = state.read(directory).url
        raise ClusterError(
            f"the cluster in {directory.root} is already running{f' at {url}' if url else ''}: "
            "`cluster status` shows it, `cluster down` stops it, --dir and --port make another beside it"
        ) from error
    return file


def planner(directory: Directory, asked: Asked, *, running: bool = False) -> Planner:
    """The plan to start, with its configuration files written. Leftovers must be gone, or their ports look taken.

    `running`: the cluster runs, and its processes have the ports of its layout. The Sentinels keep their files then.
    """
    found = programs.find()
    stored = layout.load(directory)
    wanted = layout.reconcile(stored, asked, directory.root)
    if wanted.monitoring:
        found = programs.with_monitoring(found)
    wanted = _with_more_ports(wanted) if running else _with_ports(wanted, asked)
    check_connections(wanted, os.environ)
    secrets = layout.load_secrets(directory)
    if wanted.archive:
        Archive(Path(wanted.archive)).claim(wanted.archive_id, directory.root, wanted.shards)
    layout.save(directory, wanted)
    base = base_environment(os.environ, directory.root)
    settings = {
        **configs.environment(wanted, directory, secrets, asked.broker),
        **configs.monitoring_links(wanted, grafana=found.grafana is not None),
    }
    own = {
        **base,
        **settings,
        "TALLY_ENV_FILE": str(directory["env"]),
        "DJANGO_SETTINGS_MODULE": "counter_project.settings",
    }
    migrated = directory["migrated"].exists() and directory["migrated"].read_text() == schema(layout.PROJECT)
    plan = Planner(
        wanted,
        directory,
        found,
        secrets,
        base,
        own,
        own_broker=asked.broker is None,
        quorum=asked.quorum,
        release=release(layout.PROJECT, found, own),
        migrated=migrated,
    )
    rotate_all(directory)
    _write_configs(plan, settings, asked.apply_delay)
    if wanted.sentinels and not running:
        if sentinels.are_new(directory, wanted):
            layout.write_private(directory[wanted.journals[0]] / journal_server.BEGIN, "")
        sentinels.write(directory, wanted, stored or wanted, secrets)
    return plan


def rescaled(plan: Planner, counts: Mapping[str, int]) -> Planner:
    """The same plan with other counts (see `layout.scaled`), remembered: ports chosen for the new processes."""
    wanted = plan.layout
    for name, number in counts.items():
        wanted = layout.scaled(wanted, name, number)
    check_connections(wanted, plan.environment)
    wanted = _with_more_ports(wanted, but=layout.port_names(plan.layout))
    layout.save(plan.directory, wanted)
    return replace(plan, layout=wanted)


def schema(project: Path) -> str:
    """A digest of every migration and SQL file of the code: while it is the same, so are the tables."""
    paths = sorted({*project.glob("*/migrations/*.py"), *project.glob("[a-z]*/**/*.sql")})
    digest = hashlib.sha256()
    for path in paths:
        digest.update(f"{path.relative_to(project)}\0".encode() + path.read_bytes())
    return digest.hexdigest()


def write_nginx(plan: Planner, *, left_out: Collection[str] = ()) -> None:
    """nginx' files; `left_out`: API processes that get no requests."""
    home, secrets = plan.directory["nginx"], plan.secrets
    text = configs.nginx(
        plan.layout,
        plan.directory,
        secrets["proxy"],
        as_root=os.geteuid() == 0,
        settings=NginxSettings.of(plan.environment),
        left_out=left_out,
        keeps_clients=programs.version(plan.programs.nginx) >= KEEPS_CLIENTS,
    )
    layout.write_private(home / "nginx.conf", text)
    layout.write_private(home / "doors.conf", configs.doors(plan.layout, plan.directory, secrets["metrics"]))
    layout.write_private(home / "flower-users", configs.flower_users(secrets["flower"]))


def check_connections(wanted: Layout, environment: Mapping[str, str]) -> None:
    """Raises `ClusterError` where the processes could open more connections than a PostgreSQL server takes."""
    try:
        connection_budget.check(fleet(wanted, environment))
    except TooManyConnections as error:
        raise ClusterError(str(error)) from error


def fleet(wanted: Layout, environment: Mapping[str, str]) -> Fleet:
    """The processes of a layout, with these settings."""
    return Fleet(
        api=wanted.scale["api"],
        workers=[wanted.workers(shard) for shard in range(wanted.shards)],
        spill_workers=wanted.scale["spill-worker"],
        pool_size=_whole(environment, "TALLY_DATABASE_POOL_SIZE", 10),
        worker_concurrency=_whole(environment, "TALLY_WORKER_CONCURRENCY", 8),
        max_connections=configs.MAX_CONNECTIONS,
    )


def _whole(environment: Mapping[str, str], name: str, default: int) -> int:
    """A setting of the processes; its default is that of counter_project/config.py. Raises `ClusterError`."""
    text = environment.get(name, str(default))
    if not text.strip().isdecimal():
        raise ClusterError(f"{name}: {text!r} is no whole number")
    return int(text)


def _with_ports(wanted: Layout, asked: Asked) -> Layout:
    remembered = dict(wanted.ports)
    port = asked.port if asked.port is not None else remembered.get("nginx", layout.DEFAULT_PORT)
    if port:
        _require_free(port)
        remembered["nginx"] = port
        names = layout.port_names(wanted)
    else:
        remembered.pop("nginx", None)
        names = [*layout.port_names(wanted), "nginx"]
    return replace(wanted, ports=layout.choose_ports(names, remembered, layout.port_is_free, layout.random_start()))


def _with_more_ports(wanted: Layout, but: Collection[str] | None = None) -> Layout:
    """With ports for what has none yet: for all but those processes that run, by default those with a remembered port."""
    running = wanted.ports if but is None else but
    new = [name for name in layout.port_names(wanted) if name not in running]
    return replace(wanted, ports=layout.choose_ports(new, wanted.ports, layout.port_is_free, layout.random_start()))


def _require_free(port: int) -> None:
    if layout.port_is_free(port):
        return
    if port < 1024 and os.geteuid() != 0:
        raise ClusterError(f"port {port} is for root only, or in use: choose another with --port (0: any free one)")
    raise ClusterError(
        f"port {port} is in use{_listener(port)}: stop that, or choose another with --port (0: any free one)"
    )


def _listener(port: int) -> str:
    try:
        for connection in psutil.net_connections("tcp"):
            if connection.status == psutil.CONN_LISTEN and connection.laddr[1:] == (port,) and connection.pid:
                return f" by {psutil.Process(connection.pid).name()} (pid {connection.pid})"
    except psutil.Error:
        pass
    return ""


def rotate(log: Path) -> None:
    """Put a log aside that has grown too large: copy it and empty it, because its writers keep it open. They append.

    What they write between the two is lost, as with logrotate's `copytruncate`.
    """
    if log.exists() and log.stat().st_size > LOG_BYTES:
        shutil.copyfile(log, log.with_suffix(".log.1"))
        os.truncate(log, 0)


def rotate_all(directory: Directory) -> None:
    for log in directory.logs.glob("*.log"):
        rotate(log)


def _delay(config: Path, asked: ApplyDelay | None) -> int:
    """The apply delay (ms) of a node: one out of the range that is asked for, or the one that it has."""
    if asked is not None:
        return asked.choose()
    if not config.exists():
        return 0
    import yaml

    return apply_delay.of(yaml.safe_load(config.read_text()))


def _write_configs(plan: Planner, settings: dict[str, str], delay: ApplyDelay | None) -> None:
    directory, ports = plan.directory, plan.layout.ports
    layout.write_private(directory["env"], configs.env_file(settings))
    layout.write_private(directory["metrics-token"], plan.secrets["metrics"] + "\n")
    renders = {
        "redis-journal": configs.redis_journal,
        "redis-cache": configs.redis_cache,
        "redis-broker": configs.redis_broker,
    }
    for name, render in renders.items():
        text = render(ports[name], plan.secrets[name], directory[name]) + configs.CALM
        layout.write_private(directory[name] / "redis.conf", text)
    for name in plan.layout.journals if plan.layout.sentinels else ():
        text = configs.redis_journal_copy(ports[name], plan.secrets["redis-journal"], directory[name])
        layout.write_private(directory[f"{name}.conf"], text)
    for shard, node in plan.layout.nodes:
        config = directory.patroni_config(shard, node)
        config.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        text = configs.patroni(
            plan.layout,
            directory,
            plan.secrets,
            shard=shard,
            node=node,
            bin_dir=plan.programs.postgres_bin,
            lz4=plan.programs.postgres_lz4,
            delay=_delay(config, delay),
        )
        layout.write_private(config, text)
    write_nginx(plan)
    directory.monitoring.mkdir(exist_ok=True, mode=0o700)
    if plan.layout.monitoring:
        monitoring.write_prometheus(directory, plan.secrets)
        if plan.programs.grafana:
            monitoring.write_grafana(directory, plan.layout.ports, plan.secrets)
