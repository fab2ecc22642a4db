"""Texts of every configuration file: patroni.yml, each redis.conf, nginx.conf, the env file. Values in, text out."""

from __future__ import annotations

import json
import shlex
import sys
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from replication import apply_delay
from runtime.balancing import LEAST_CONN

from . import archive_wal
from .archive import Archive
from .layout import ETCD_HOST, FLOWER_USER, PATRONI_USER, Directory, Layout

CONTROL_DATABASE = "tally_control"
DATABASE = "tally"
ROLE = "tally"
REPLICATOR = "replicator"
KEEP_CLIENTS_SECONDS = 2  # that nginx, when it reloads, serves a client's idle connection before it closes it
MAX_CONNECTIONS = 200  # of each PostgreSQL
ARCHIVE_SECONDS = 60  # after which a segment with new WAL is archived although it is not full


@dataclass(frozen=True)
class NginxSettings:
    """What nginx allows a client, whom it asks for the client's address, and how many writes it passes on at once to an API
    process. The defaults are those of the settings."""

    max_body_bytes: int = 16 * 1024 * 1024
    max_header_bytes: int = 256 * 1024
    connections_per_address: int = 1_000
    max_singles: int = 128
    max_bodies: int = 16
    client_timeout_seconds: int = 10
    idle_timeout_seconds: int = 75
    trusted_proxies: Sequence[str] = ()


# nginx's own errors, as RFC 9457 problem documents: nginx's statuses → status, slug, title, detail.
PROBLEMS: tuple[tuple[tuple[int, ...], int, str, str, str], ...] = (
    ((400,), 400, "bad-request", "Bad request", "This is not a well-formed HTTP request."),
    ((401,), 401, "unauthorized", "Unauthorized", "This needs the token of the scrapers."),
    ((405,), 405, "method-not-allowed", "Method not allowed", "This method is not served."),
    ((403, 404), 404, "not-found", "Not found", "There is nothing at this address."),
    ((408,), 408, "request-timeout", "Request timeout", "The request did not arrive in time."),
    (
        (413,),
        413,
        "payload-too-large",
        "Payload too large",
        "The body is larger than TALLY_MAX_BODY_BYTES; split the batch.",
    ),
    ((414,), 414, "uri-too-long", "URI too long", "The request line is longer than TALLY_MAX_HEADER_BYTES."),
    (
        (494, 431),
        431,
        "headers-too-large",
        "Request header fields too large",
        "A header line is longer than TALLY_MAX_HEADER_BYTES, or there are too many.",
    ),
    (
        (429,),
        429,
        "too-many-connections",
        "Too many connections",
        "This address has more than TALLY_CONNECTIONS_PER_ADDRESS requests under way.",
    ),
    ((500,), 500, "internal-error", "Internal error", "The proxy failed; its log says why."),
    ((501,), 501, "not-implemented", "Not implemented", "This transfer encoding is not served."),
    ((505,), 505, "http-version", "HTTP version not supported", "HTTP/1.1 and HTTP/1.0 are served."),
    (
        (502, 503, 504),
        503,
        "unavailable",
        "Service unavailable",
        "Every API process is down or has all it can take; try again.",
    ),
)


def nginx(  # noqa: PLR0913
    layout: Layout,
    directory: Directory,
    proxy_secret: str,
    *,
    as_root: bool,
    settings: NginxSettings | None = None,
    left_out: Collection[str] = (),
    keeps_clients: bool = True,
) -> str:
    """nginx.conf; paths in it are relative to its prefix, `<dir>/nginx`. An API process knows nginx by
    `proxy_secret`. `left_out`: API processes that get no requests. `keeps_clients`: this nginx can keep idle connections
    of clients for a while at a reload."""
    settings = settings or NginxSettings()
    return _filled(
        "nginx.conf.in",
        USER="user root;" if as_root else "",
        PORT=str(layout.ports["nginx"]),
        BODY_BYTES=str(settings.max_body_bytes),
        HEADER_BYTES=str(settings.max_header_bytes),
        CONNECTIONS=str(settings.connections_per_address),
        CLIENT_SECONDS=str(settings.client_timeout_seconds),
        IDLE_SECONDS=str(settings.idle_timeout_seconds),
        PROXIES="\n".join(f"        {proxy} 1;" for proxy in settings.trusted_proxies),
        REAL_IP="\n".join(f"    set_real_ip_from {proxy};" for proxy in settings.trusted_proxies),
        PROXY_SECRET=proxy_secret,
        STATIC=str(directory["static"]),
        SERVERS=_servers(layout, left_out),
        SINGLES_SERVERS=_servers(layout, left_out, f" max_conns={settings.max_singles}"),
        BODIES_SERVERS=_servers(layout, left_out, f" max_conns={settings.max_bodies}"),
        KEEP_CLIENTS=f"keepalive_min_timeout {KEEP_CLIENTS_SECONDS}s;" if keeps_clients else "",
    )


def _servers(layout: Layout, left_out: Collection[str], limit: str = "") -> str:
    """The strategy and the servers of an upstream."""
    lines = ["least_conn;"] if layout.balancing == LEAST_CONN else []
    for name in (f"api-{number}" for number in range(1, layout.scale["api"] + 1)):
        out = " down" if name in left_out else ""
        lines.append(f"server 127.0.0.1:{layout.ports[name]} max_fails=1 fail_timeout=1s{limit}{out};")
    return "\n".join(f"        {line}" for line in lines)


def doors(layout: Layout, directory: Directory, token: str) -> str:
    """doors.conf, part of nginx.conf: the ports of etcd's metrics and of Flower."""
    return _filled(
        "doors.conf.in",
        METRICS_TOKEN=token,
        ETCD_PORT=str(layout.ports["etcd"]),
        ETCD_SOCKET=str(directory.socket("etcd")),
        FLOWER_PORT=str(layout.ports["flower"]),
        FLOWER_SOCKET=str(directory.socket("flower")),
    )


def _filled(template: str, **fields: str) -> str:
    text = Path(__file__).with_name(template).read_text()
    fields |= {
        "ERROR_PAGES": "\n".join(_error_page(*problem[:2]) for problem in PROBLEMS),
        "PROBLEMS": "\n".join(_problem(*problem[1:]) for problem in PROBLEMS),
    }
    for name, value in fields.items():
        text = text.replace(f"@{name}@", value)
    return text


def flower_users(password: str) -> str:
    """The file by which nginx knows Flower's user."""
    return f"{FLOWER_USER}:{{PLAIN}}{password}\n"


def _error_page(codes: Sequence[int], status: int) -> str:
    return f"        error_page {' '.join(map(str, codes))} ={status} /.problem/{status};"


def _problem(status: int, slug: str, title: str, detail: str) -> str:
    body = json.dumps({"type": f"urn:tally:problem:{slug}", "title": title, "status": status, "detail": detail})
    header = {
        401: "WWW-Authenticate 'Bearer realm=\"metrics\"'",
        429: 'Retry-After "1"',
        503: 'Retry-After "1"',
        405: 'Allow "GET, HEAD, POST, PUT, DELETE, OPTIONS"',
    }.get(status)
    headers = "".join(f"            add_header {one} always;\n" for one in (header, "Tally-Node nginx") if one)
    return (
        f"        location = /.problem/{status} {{\n"
        "            internal;\n"
        "            default_type application/problem+json;\n"
        f"{headers}"
        f"            return {status} '{body}';\n"
        "        }"
    )


def redis_journal(port: int, password: str, directory: Path) -> str:
    """Journal: an answered write is on the disk, and nothing is ever evicted. Its AOF can be cut at a moment."""
    return _redis(port, password, directory) + (
        "databases 4\nappendonly yes\nappendfsync always\nno-appendfsync-on-rewrite no\naof-timestamp-enabled yes\n"
        "maxmemory 1gb\nmaxmemory-policy noeviction\n"
    )


def redis_journal_copy(port: int, password: str, directory: Path) -> str:
    """A server of a replicated journal, to which `journal_server` adds its role. A replica keeps its old copy until it has
    the whole new one (`repl-diskless-load`)."""
    return redis_journal(port, password, directory) + (
        f"masterauth {password}\nrepl-timeout 10\nrepl-diskless-sync yes\nrepl-diskless-sync-delay 0\n"
        "repl-diskless-load disabled\nrepl-backlog-size 16mb\n"
    )


def redis_broker(port: int, password: str, directory: Path) -> str:
    """Celery's broker: nothing on the disk, as messages may be lost (I4), and nothing is evicted."""
    return (
        _redis(port, password, directory) + "databases 1\nappendonly no\nmaxmemory 256mb\nmaxmemory-policy noeviction\n"
    )


def redis_cache(port: int, password: str, directory: Path) -> str:
    """Cache: nothing on the disk, the least recently used goes first."""
    return (
        _redis(port, password, directory)
        + "databases 1\nappendonly no\nmaxmemory 256mb\nmaxmemory-policy allkeys-lru\n"
    )


def _redis(port: int, password: str, directory: Path) -> str:
    return (
        f'bind 127.0.0.1\nport {port}\nrequirepass {password}\ndir "{directory}"\nsave ""\n'
        'daemonize no\nprotected-mode yes\ntcp-keepalive 60\nloglevel notice\nlogfile ""\n'
    )


def patroni(  # noqa: PLR0913
    layout: Layout,
    directory: Directory,
    secrets: Mapping[str, str],
    *,
    shard: int,
    node: int,
    bin_dir: Path,
    lz4: bool,
    delay: int = 0,
) -> str:
    """patroni.yml of one node, with an apply delay (ms); ttl ≥ loop_wait + 2 * retry_timeout (seconds) is Patroni's own
    rule.

    What is steered at run time must not stand here: it would win over what Patroni keeps in etcd.
    """
    home = directory.node(shard, node)
    postgres_port = layout.ports[f"postgres-{shard}-{node}"]
    rest = f"127.0.0.1:{layout.ports[f'patroni-{shard}-{node}']}"
    config: dict[str, Any] = {
        "scope": f"shard-{shard}",
        "namespace": "/tally/",
        "name": f"shard-{shard}-node-{node}",
        "log": {"level": "INFO", "deduplicate_heartbeat_logs": True},
        "restapi": {
            "listen": rest,
            "connect_address": rest,
            "authentication": {"username": PATRONI_USER, "password": secrets["patroni"]},
        },
        "etcd3": {"host": ETCD_HOST, "protocol": "http", "use_proxies": True},  # see `guarded_patroni`
        "bootstrap": {"dcs": _dynamic(), "initdb": _initdb()},
        "postgresql": {
            "listen": f"127.0.0.1:{postgres_port}",
            "connect_address": f"127.0.0.1:{postgres_port}",
            "data_dir": str(home / "data"),
            "bin_dir": str(bin_dir),
            "pgpass": str(home / "pgpass"),
            "authentication": {
                "superuser": {"username": "postgres", "password": secrets["postgres"]},
                "replication": {"username": REPLICATOR, "password": secrets["replication"]},
                "rewind": {"username": "rewind", "password": secrets["rewind"]},
            },
            "basebackup": [{"checkpoint": "fast"}],
            "pg_hba": _pg_hba(),
            "parameters": _parameters(directory, shard, node, lz4=lz4) | _archiving(layout, shard),
            "recovery_conf": _restoring(layout, shard),
        },
        "watchdog": {"mode": "off"},
    }
    return yaml.safe_dump(apply_delay.put(config, delay), sort_keys=False)


def shared_settings() -> dict[str, Any]:
    """What each start writes to etcd, through Patroni: a shard that an older version made has other settings. What
    operators change at run time (`replication.steering`) stays."""
    return {name: value for name, value in _dynamic().items() if name != "synchronous_mode"}


def _dynamic() -> dict[str, Any]:
    """Settings shared by a shard's nodes, kept in etcd.

    A node that cannot be rewound is copied again. The slot of a member that is away is kept for `member_slots_ttl` seconds;
    `wal_keep_size` is for those that lost theirs in a failover. A replica that has not heard of the last timeline would
    begin another one with the same number; `check_timeline` says that it must not.
    """
    return {
        "ttl": 20,
        "loop_wait": 2,
        "retry_timeout": 5,
        "maximum_lag_on_failover": 64 * 1024 * 1024,
        "primary_start_timeout": 0,
        "failsafe_mode": True,
        "check_timeline": True,
        "synchronous_mode": False,
        "member_slots_ttl": 1800,
        "postgresql": {
            "use_pg_rewind": True,
            "use_slots": True,
            "remove_data_directory_on_rewind_failure": True,
            "remove_data_directory_on_diverged_timelines": True,
            "parameters": {
                "max_connections": MAX_CONNECTIONS,
                "max_wal_senders": 20,
                "max_replication_slots": 20,
                "wal_level": "replica",
                "wal_log_hints": "on",
                "wal_keep_size": "1GB",
            },
        },
    }


def _initdb() -> list[Any]:
    return [
        "data-checksums",
        {"encoding": "UTF8"},
        {"locale": "C"},
        {"locale-provider": "builtin"},
        {"builtin-locale": "C.UTF-8"},
        {"auth-host": "scram-sha-256"},
        {"auth-local": "scram-sha-256"},
    ]


def _pg_hba() -> list[str]:
    rules = (
        ("all", "postgres"),
        ("postgres", "rewind"),
        ("replication", REPLICATOR),
        (f"{DATABASE},{CONTROL_DATABASE}", ROLE),
    )
    return [f"host {database} {role} 127.0.0.1/32 scram-sha-256" for database, role in rules]


def _parameters(directory: Directory, shard: int, node: int, *, lz4: bool) -> dict[str, Any]:
    return {
        "unix_socket_directories": "",
        "password_encryption": "scram-sha-256",
        "shared_buffers": "128MB",
        "hot_standby_feedback": "on",
        "wal_receiver_status_interval": "1s",  # that feedback's: until it comes, no old version of a row makes room for the next
        "wal_compression": "lz4" if lz4 else "off",
        "max_wal_size": "2GB",
        "min_wal_size": "256MB",
        "checkpoint_timeout": "5min",
        "max_slot_wal_keep_size": "4GB",
        "wal_sender_timeout": "10s",  # a replica, or a primary, that stands still is given up after this
        "wal_receiver_timeout": "10s",
        "tcp_keepalives_idle": 5,
        "tcp_keepalives_interval": 2,
        "tcp_keepalives_count": 3,
        "shared_preload_libraries": "pg_stat_statements",
        "timezone": "UTC",
        "log_timezone": "UTC",
        "logging_collector": "on",
        "log_directory": str(directory.logs),
        "log_filename": f"postgres-{shard}-{node}.log",
        "log_file_mode": "0600",
        "log_rotation_age": 0,
        "log_rotation_size": 0,
        "log_line_prefix": "%m [%p] %q%u@%d %a ",
        "log_checkpoints": "off",
        "log_connections": "off",
        "log_lock_waits": "on",
    }


def _archiving(layout: Layout, shard: int) -> dict[str, Any]:
    """Settings by which every node of a shard archives its WAL, also while it is a replica."""
    if not layout.archive:
        return {}
    wal = str(Archive(Path(layout.archive)).wal(shard))
    return {
        "archive_mode": "always",
        "archive_command": f'{_shell(sys.executable, "-I", "-S", "-B", archive_wal.__file__)} "%p" {_shell(wal)}',
        "archive_timeout": ARCHIVE_SECONDS,
    }


def _restoring(layout: Layout, shard: int) -> dict[str, str]:
    """Where a replica, and pg_rewind, find WAL that no server has any more."""
    return {"restore_command": restore_command(Archive(Path(layout.archive)).wal(shard))} if layout.archive else {}


def restore_command(wal: Path) -> str:
    """PostgreSQL's `restore_command` for an archive of WAL."""
    return f'cp {_shell(str(wal))}/"%f" "%p"'


def _shell(*words: str) -> str:
    """Words of a shell command in which PostgreSQL puts file names in place of `%p` and `%f`."""
    return shlex.join(words).replace("%", "%%")


def environment(
    layout: Layout, directory: Directory, secrets: Mapping[str, str], broker: str | None = None
) -> dict[str, str]:
    """The settings of this cluster: `TALLY_*` names of counter_project/config.py and their values.

    `broker`: URL of a broker that is none of the cluster's processes.
    """
    ports = layout.ports
    journal = f"redis://:{secrets['redis-journal']}@127.0.0.1:{ports['redis-journal']}"
    own_broker = f"redis://:{secrets['redis-broker']}@127.0.0.1:{ports['redis-broker']}/0"
    shards = [
        {
            "nodes": [
                {
                    "host": "127.0.0.1",
                    "port": ports[f"postgres-{shard}-{node}"],
                    "patroni": f"http://127.0.0.1:{ports[f'patroni-{shard}-{node}']}",
                    "patroni_config": str(directory.patroni_config(shard, node)),
                }
                for node in range(1, layout.replicas + 2)
            ]
        }
        for shard in range(layout.shards)
    ]
    replicated = {
        "TALLY_JOURNAL_REPLICAS": str(layout.journal_replicas),
        "TALLY_JOURNAL_SENTINELS": json.dumps([f"127.0.0.1:{ports[name]}" for name in layout.sentinels]),
        "TALLY_JOURNAL_SENTINEL_PASSWORD": secrets["sentinel"],
    }
    return {
        "TALLY_SECRET_KEY": secrets["secret-key"],
        "TALLY_HTTPS": "false",
        "TALLY_DEMO_PAGES": "true",
        "TALLY_ALLOWED_HOSTS": json.dumps(["127.0.0.1", "localhost"]),
        "TALLY_STATIC_ROOT": str(directory["static"]),
        "TALLY_SHARDS": json.dumps(shards),
        "TALLY_DATABASE_USER": ROLE,
        "TALLY_DATABASE_PASSWORD": secrets["tally"],
        "TALLY_DATABASE_NAME": DATABASE,
        "TALLY_CONTROL_DATABASE_NAME": CONTROL_DATABASE,
        "TALLY_JOURNAL_URL": f"{journal}/0",
        **(replicated if layout.journal_replicas else {}),
        "TALLY_BROKER_URL": broker or own_broker,
        "TALLY_CACHE_URL": f"redis://:{secrets['redis-cache']}@127.0.0.1:{ports['redis-cache']}/0",
        "TALLY_PROXY_SECRET": secrets["proxy"],
        "TALLY_METRICS_TOKEN": secrets["metrics"],
        "TALLY_PATRONI_USER": PATRONI_USER,
        "TALLY_PATRONI_PASSWORD": secrets["patroni"],
    }


def env_file(values: Mapping[str, str]) -> str:
    """One `NAME=value` a line; the value is all that follows the first `=`, unquoted."""
    return "".join(f"{name}={value}\n" for name, value in values.items())
