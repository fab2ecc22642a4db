"""Texts of every configuration file: patroni.yml, each redis.conf, nginx.conf, the env file. Values in, text out."""

from __future__ import annotations

import json
import shlex
import sys
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, fields
from ipaddress import ip_network
from pathlib import Path
from typing import Any

from replication import apply_delay
from runtime.balancing import LEAST_CONN
from sharding.roles import ROLES

from . import ClusterError, archive_wal
from .archive import Archive
from .layout import ETCD_HOST, FLOWER_USER, PATRONI_USER, Directory, Layout
from .redis import LOCAL

CONTROL_DATABASE = "tally_control"
DATABASE = "tally"
ROLE = "tally"  # the owner; those of the processes are in sharding/roles.py
REPLICATOR = "replicator"
KEEP_CLIENTS_SECONDS = 2  # that nginx, when it reloads, serves a client's idle connection before it closes it
MAX_CONNECTIONS = 200  # of each PostgreSQL
ACCESS_LOG = "/dev/stdout"  # of nginx: beside its errors, where its supervisor has both
JOURNAL_MEMORY = "1gb"
CACHE_MEMORY = BROKER_MEMORY = "256mb"  # and what each of these may use
ARCHIVE_SECONDS = 60  # after which a segment with new WAL is archived although it is not full
# For a local Redis that has no replicas: how often a second it does its chores, and sees that it is to stop. Ten times
# took more processor time than all commands of an idle cluster.
CALM = "hz 4\n"


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
    access_log_percent: int = 0
    trusted_proxies: Sequence[str] = ()

    def __post_init__(self) -> None:
        if not 0 <= self.access_log_percent <= 100:
            raise ClusterError(f"TALLY_ACCESS_LOG_PERCENT: {self.access_log_percent} is not from 0 to 100")

    @classmethod
    def of(cls, environment: Mapping[str, str]) -> NginxSettings:
        """From the environment of Tally's processes. Raises `ClusterError`."""
        given: dict[str, Any] = {}
        for one in fields(cls):
            text = environment.get(name := f"TALLY_{one.name.upper()}")
            if text is None:
                continue
            if one.name == "trusted_proxies":
                given[one.name] = _networks(name, text)
            elif text.strip().isdecimal():
                given[one.name] = int(text)
            else:
                raise ClusterError(f"{name}: {text!r} is no whole number")
        return cls(**given)


def _networks(name: str, text: str) -> list[str]:
    try:
        return [str(ip_network(one)) for one in json.loads(text)]
    except (TypeError, ValueError) as error:
        raise ClusterError(f'{name}: {text!r} is no list of networks, as ["10.0.0.0/8"]') from error


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


@dataclass(frozen=True)
class Front:
    """Where nginx listens, and the API processes behind it.

    `listen`: lines of the main server. `servers`: address and options of each, without `max_conns`. `strategy`: how they
    take turns. `resolver`: the DNS server that has their addresses, where they are names (`resolve`).
    """

    listen: str
    servers: Mapping[str, str]
    strategy: str = ""
    resolver: str = ""

    def upstream(self, name: str, limit: str = "") -> str:
        """The lines of an upstream. One whose servers change keeps them in a zone."""
        lines = [self.strategy] if self.strategy else []
        lines += [f"zone {name} 256k;", f"resolver {self.resolver};"] if self.resolver else []
        lines += [f"server {address}{limit} {options};" for address, options in self.servers.items()]
        return "\n".join(f"        {line}" for line in lines)


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
    front = Front(f"listen {LOCAL}:{layout.ports['nginx']} backlog=4096;", *_servers(layout, left_out))
    return nginx_before(
        front,
        directory["static"],
        proxy_secret,
        settings or NginxSettings(),
        user="user root;" if as_root else "",
        keeps_clients=keeps_clients,
    )


def nginx_before(  # noqa: PLR0913
    front: Front,
    static: Path,
    proxy_secret: str,
    settings: NginxSettings,
    *,
    user: str = "",
    keeps_clients: bool = True,
) -> str:
    """nginx.conf for any API processes, wherever they are; `static`: the folder of the static files."""
    return _filled(
        "nginx.conf.in",
        USER=user,
        LISTEN=front.listen,
        BODY_BYTES=str(settings.max_body_bytes),
        HEADER_BYTES=str(settings.max_header_bytes),
        CONNECTIONS=str(settings.connections_per_address),
        CLIENT_SECONDS=str(settings.client_timeout_seconds),
        IDLE_SECONDS=str(settings.idle_timeout_seconds),
        PROXIES="\n".join(f"        {proxy} 1;" for proxy in settings.trusted_proxies),
        REAL_IP="\n".join(f"    set_real_ip_from {proxy};" for proxy in settings.trusted_proxies),
        PROXY_SECRET=proxy_secret,
        STATIC=str(static),
        SERVERS=front.upstream("api"),
        SINGLES_SERVERS=front.upstream("api_singles", f" max_conns={settings.max_singles}"),
        BODIES_SERVERS=front.upstream("api_bodies", f" max_conns={settings.max_bodies}"),
        SAMPLED=f"        {settings.access_log_percent}% 1;" if settings.access_log_percent else "",
        ACCESS_LOG=ACCESS_LOG,
        KEEP_CLIENTS=f"keepalive_min_timeout {KEEP_CLIENTS_SECONDS}s;" if keeps_clients else "",
    )


def _servers(layout: Layout, left_out: Collection[str]) -> tuple[dict[str, str], str]:
    """The servers of an upstream, and its strategy."""
    servers = {}
    for name in (f"api-{number}" for number in range(1, layout.scale["api"] + 1)):
        out = " down" if name in left_out else ""
        servers[f"{LOCAL}:{layout.ports[name]}"] = f"max_fails=1 fail_timeout=1s{out}"
    return servers, "least_conn;" if layout.balancing == LEAST_CONN else ""


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
    document = {"type": f"urn:tally:problem:{slug}", "title": title, "status": status, "detail": detail}
    body = json.dumps(document | {"request_id": "$tally_request_id"})
    header = {
        401: "WWW-Authenticate 'Bearer realm=\"metrics\"'",
        429: 'Retry-After "1"',
        503: 'Retry-After "1"',
        405: 'Allow "GET, HEAD, POST, PUT, DELETE, OPTIONS"',
    }.get(status)
    own = ("Tally-Node nginx", "X-Request-ID $tally_request_id")
    headers = "".join(f"            add_header {one} always;\n" for one in (header, *own) if one)
    return (
        f"        location = /.problem/{status} {{\n"
        "            internal;\n"
        "            default_type application/problem+json;\n"
        f"{headers}"
        f"            return {status} '{body}';\n"
        "        }"
    )


def redis_journal(port: int, password: str, directory: Path, *, host: str = LOCAL, memory: str = JOURNAL_MEMORY) -> str:
    """Journal: an answered write is on the disk, and nothing is ever evicted. Its AOF can be cut at a moment."""
    return _redis(port, password, directory, host) + (
        "databases 4\nappendonly yes\nappendfsync always\nno-appendfsync-on-rewrite no\naof-timestamp-enabled yes\n"
        f"maxmemory {memory}\nmaxmemory-policy noeviction\n"
    )


def redis_tls(port: int, tls: Tls | None) -> str:
    """More of the configuration of a server or Sentinel that speaks nothing but TLS; "" without."""
    if tls is None:
        return ""
    files = f"tls-ca-cert-file {tls.authority}\ntls-cert-file {tls.certificate}\ntls-key-file {tls.key}\n"
    return f"port 0\ntls-port {port}\n{files}tls-auth-clients no\ntls-replication yes\n"


def redis_journal_copy(port: int, password: str, directory: Path) -> str:
    """A server of a replicated journal, to which `journal_server` adds its role. A replica keeps its old copy until it has
    the whole new one (`repl-diskless-load`)."""
    return redis_journal(port, password, directory) + (
        f"masterauth {password}\nrepl-timeout 10\nrepl-diskless-sync yes\nrepl-diskless-sync-delay 0\n"
        "repl-diskless-load disabled\nrepl-backlog-size 16mb\n"
    )


def redis_broker(port: int, password: str, directory: Path, *, host: str = LOCAL, memory: str = BROKER_MEMORY) -> str:
    """Celery's broker: nothing on the disk, as messages may be lost (I4), and nothing is evicted."""
    return (
        _redis(port, password, directory, host)
        + f"databases 1\nappendonly no\nmaxmemory {memory}\nmaxmemory-policy noeviction\n"
    )


def redis_cache(port: int, password: str, directory: Path, *, host: str = LOCAL, memory: str = CACHE_MEMORY) -> str:
    """Cache: nothing on the disk, the least recently used goes first."""
    return (
        _redis(port, password, directory, host)
        + f"databases 1\nappendonly no\nmaxmemory {memory}\nmaxmemory-policy allkeys-lru\n"
    )


def _redis(port: int, password: str, directory: Path, host: str) -> str:
    return (
        f'bind {host}\nport {port}\nrequirepass {password}\ndir "{directory}"\nsave ""\n'
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
    """patroni.yml of one node of the local cluster, with an apply delay (ms)."""
    postgres, rest = (f"{LOCAL}:{layout.ports[f'{kind}-{shard}-{node}']}" for kind in ("postgres", "patroni"))
    member = Member(
        shard,
        node,
        home=directory.node(shard, node),
        bin_dir=bin_dir,
        postgres=(postgres, postgres),
        rest=(rest, rest),
        etcd={"host": ETCD_HOST, "protocol": "http", "use_proxies": True},  # see `guarded_patroni`
        shared_buffers=layout.shared_buffers,
        wal_compression="lz4" if lz4 else "off",
        parameters=_logging(directory, shard, node) | _archiving(layout, shard),
        recovery_conf=_restoring(layout, shard),
    )
    import yaml

    dumper = getattr(yaml, "CSafeDumper", yaml.SafeDumper)  # without libyaml it takes 20 times as long
    text: str = yaml.dump(apply_delay.put(patroni_of(member, secrets), delay), Dumper=dumper, sort_keys=False)
    return text


@dataclass(frozen=True)
class Tls:
    """Files of a server: its certificate, its key, and the certificate of who signed those of all servers."""

    certificate: Path
    key: Path
    authority: Path


@dataclass(frozen=True, kw_only=True)
class Member:
    """One PostgreSQL server with its Patroni. `home` has its data; `postgres` and `rest` (Patroni's API) are HOST:PORT, where
    it listens and where the others find it. `network` is where the others are, as pg_hba.conf says it."""

    shard: int = field(kw_only=False)
    node: int = field(kw_only=False)
    home: Path
    bin_dir: Path
    postgres: tuple[str, str]
    rest: tuple[str, str]
    etcd: Mapping[str, Any]
    network: str = f"{LOCAL}/32"
    shared_buffers: str
    wal_compression: str = "lz4"
    max_connections: int = MAX_CONNECTIONS
    parameters: Mapping[str, Any] = field(default_factory=dict)  # more of PostgreSQL's
    recovery_conf: Mapping[str, str] = field(default_factory=dict)
    post_bootstrap: str = ""  # command for a new shard's first primary
    tls: Tls | None = None  # with it, nobody connects from other hosts without


def patroni_of(member: Member, secrets: Mapping[str, str]) -> dict[str, Any]:
    """patroni.yml of one server; ttl ≥ loop_wait + 2 * retry_timeout (seconds) is Patroni's own rule.

    What is steered at run time must not stand here: it would win over what Patroni keeps in etcd.
    """
    verified = {"sslmode": "verify-ca", "sslrootcert": str(member.tls.authority)} if member.tls else {}
    return {
        "scope": f"shard-{member.shard}",
        "namespace": "/tally/",
        "name": f"shard-{member.shard}-node-{member.node}",
        "log": {"level": "INFO", "deduplicate_heartbeat_logs": True},
        "restapi": {
            "listen": member.rest[0],
            "connect_address": member.rest[1],
            "authentication": {"username": PATRONI_USER, "password": secrets["patroni"]},
        },
        "etcd3": dict(member.etcd),
        "bootstrap": {"dcs": _dynamic(member.max_connections), "initdb": _initdb()}
        | ({"post_bootstrap": member.post_bootstrap} if member.post_bootstrap else {}),
        "postgresql": {
            "listen": member.postgres[0],
            "connect_address": member.postgres[1],
            "data_dir": str(member.home / "data"),
            "bin_dir": str(member.bin_dir),
            "pgpass": str(member.home / "pgpass"),
            "authentication": {
                "superuser": {"username": "postgres", "password": secrets["postgres"]},
                "replication": {"username": REPLICATOR, "password": secrets["replication"], **verified},
                "rewind": {"username": "rewind", "password": secrets["rewind"], **verified},
            },
            "basebackup": [{"checkpoint": "fast"}],
            "pg_hba": _pg_hba(member.network, "hostssl" if member.tls else "host"),
            "parameters": _parameters(member) | dict(member.parameters),
            "recovery_conf": dict(member.recovery_conf),
        },
        "watchdog": {"mode": "off"},
    }


def shared_settings() -> dict[str, Any]:
    """What each start writes to etcd, through Patroni: a shard that an older version made has other settings. What
    operators change at run time (`replication.steering`) stays."""
    return {name: value for name, value in _dynamic().items() if name != "synchronous_mode"}


def _dynamic(max_connections: int = MAX_CONNECTIONS) -> dict[str, Any]:
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
                "max_connections": max_connections,
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


def _pg_hba(network: str, kind: str) -> list[str]:
    """The superuser connects from the server's own host only. `kind`: of the others' connections."""
    rules = (
        ("host", "all", "postgres", f"{LOCAL}/32"),
        (kind, "postgres", "rewind", network),
        (kind, "replication", REPLICATOR, network),
        (kind, f"{DATABASE},{CONTROL_DATABASE}", ",".join((ROLE, *ROLES)), network),
    )
    return [f"{kind} {database} {role} {whence} scram-sha-256" for kind, database, role, whence in rules]


def _parameters(member: Member) -> dict[str, Any]:
    return {
        "unix_socket_directories": "",
        "password_encryption": "scram-sha-256",
        "shared_buffers": member.shared_buffers,
        "hot_standby_feedback": "on",
        "wal_receiver_status_interval": "1s",  # that feedback's: until it comes, no old version of a row makes room for the next
        "wal_compression": member.wal_compression,
        "max_wal_size": "2GB",
        "min_wal_size": "256MB",
        "checkpoint_timeout": "5min",
        "max_slot_wal_keep_size": "4GB",
        "wal_sender_timeout": "10s",  # a replica, or a primary, that stands still is given up after this
        "wal_receiver_timeout": "10s",
        "tcp_keepalives_idle": 5,
        "tcp_keepalives_interval": 2,
        "tcp_keepalives_count": 3,
        **_tls(member.tls),
        "shared_preload_libraries": "pg_stat_statements",
        "timezone": "UTC",
        "log_timezone": "UTC",
        "log_line_prefix": "%m [%p] %q%u@%d %a ",
        "log_checkpoints": "off",
        "log_connections": "off",
        "log_lock_waits": "on",
    }


def _tls(tls: Tls | None) -> dict[str, str]:
    return {"ssl": "on", "ssl_cert_file": str(tls.certificate), "ssl_key_file": str(tls.key)} if tls else {}


def _logging(directory: Directory, shard: int, node: int) -> dict[str, Any]:
    """Settings by which a server has a log file of its own."""
    return {
        "logging_collector": "on",
        "log_directory": str(directory.logs),
        "log_filename": f"postgres-{shard}-{node}.log",
        "log_file_mode": "0600",
        "log_rotation_age": 0,
        "log_rotation_size": 0,
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
        "TALLY_SECOND_FACTOR": "optional",
        "TALLY_FLOWER_URL": f"http://127.0.0.1:{ports['flower']}/",
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


def monitoring_links(layout: Layout, *, grafana: bool) -> dict[str, str]:
    """The settings by which /status shows staff where Prometheus and Grafana are, those of them that run."""
    if not layout.monitoring:
        return {}
    ports, shown = layout.ports, {"PROMETHEUS": "prometheus"} | ({"GRAFANA": "grafana"} if grafana else {})
    return {f"TALLY_{name}_URL": f"http://{LOCAL}:{ports[port]}/" for name, port in shown.items()}


def env_file(values: Mapping[str, str]) -> str:
    """One `NAME=value` a line; the value is all that follows the first `=`, unquoted."""
    return "".join(f"{name}={value}\n" for name, value in values.items())
