"""What a container of Tally runs: `python -m cluster.container ROLE [ARGUMENT…]` writes the configuration of one process from
the environment and the secrets in `/run/secrets`, and becomes that process.

docker-compose.production.yml has the roles and what each gets. Texts and command lines are those of the local cluster
(configs.py, argv.py). Here is only what differs: others reach a container by its address, its secrets are files, and how
much memory it may use says its limit. With TLS set, all between processes and stores is TLS of the authority in the
secrets. All that is written goes to `/tmp`, but what must stay: that is in `/srv/data`.
"""

from __future__ import annotations

import asyncio
import json
import os
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import yaml

from sharding import roles

from . import ClusterError, argv, configs
from .configs import Front, Member, NginxSettings, Tls
from .layout import FLOWER_USER, PROJECT, write_private

SECRETS = Path("/run/secrets")
TEMPORARY = Path("/tmp")  # noqa: S108 — a file system of the container's own
DATA = Path("/srv/data")
STATIC = Path("/srv/static")
AUTHORITY = SECRETS / "authority"
ANYWHERE = "0.0.0.0"  # noqa: S104 — who reaches the container, its networks say
PASSWORDS = {configs.ROLE: "database", roles.API: "database-api", roles.WORKER: "database-worker"}  # role → secret
LOCAL = ("127.0.0.1", "localhost")  # first: the health check's
API_PORT, POSTGRES_PORT, PATRONI_PORT, REDIS_PORT, FLOWER_PORT = 8000, 5432, 8008, 6379, 5555
NGINX_PORT, OPERATORS_PORT, FIGURES_PORT = 8080, 8081, 8082
SHARED_BUFFERS_SHARE, JOURNAL_SHARE, CACHE_SHARE = 0.25, 0.5, 0.75  # of the container's memory
LEAST_SHARED_BUFFERS = 32 * 1024**2  # bytes
PRIMARY_SECONDS = 300.0  # for every shard to have a primary at the first start
_LIMITS = ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes")  # cgroup 2, cgroup 1
_RESOLV_CONF = Path("/etc/resolv.conf")

Command = Sequence[str]


def secret(name: str) -> str:
    """Raises `ClusterError`."""
    try:
        return (SECRETS / name).read_text().strip()
    except OSError as error:
        raise ClusterError(
            f"cannot read the secret {error.filename} ({error.strerror}); deploy/make-secrets makes it"
        ) from error


def setting(name: str) -> str:
    """A variable of the environment. Raises `ClusterError`."""
    if value := os.environ.get(name, "").strip():
        return value
    raise ClusterError(f"{name} is not set; docker-compose.production.yml has it")


def memory(share: float, least: int = 1024**2) -> int:
    """A share of the memory that this container may use, in bytes; of the machine's if it has no limit."""
    found = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    for path in map(Path, _LIMITS):
        if path.exists() and (text := path.read_text().strip()).isdecimal():
            found = min(found, int(text))
    return max(least, int(found * share))


def application(command: Command) -> Command:
    """A process of Tally's own. Its name is unique, however many containers its service has."""
    os.environ.setdefault("TALLY_NODE_ID", _name())
    os.environ.setdefault("TALLY_STATIC_ROOT", str(STATIC))
    if _has_tls():
        os.environ |= {"PGSSLMODE": "verify-ca", "PGSSLROOTCERT": str(AUTHORITY)}
    return command


def _has_tls() -> bool:
    return bool(os.environ.get("TLS"))


def _certificate(name: str) -> Tls | None:
    return Tls(SECRETS / f"{name}-cert", SECRETS / f"{name}-key", AUTHORITY) if _has_tls() else None


def _name() -> str:
    return f"{sys.argv[1]}-{socket.gethostname()}"


def api() -> Command:
    """Prometheus asks each process at its address, so it answers to that, too."""
    hosts = json.loads(os.environ.get("TALLY_ALLOWED_HOSTS") or "[]")
    os.environ["TALLY_ALLOWED_HOSTS"] = json.dumps([*(hosts or LOCAL), *own_addresses()])
    return application(argv.api(ANYWHERE, API_PORT))


def own_addresses() -> list[str]:
    """The container's addresses in all its networks, as they stand in a URL."""
    found = {address[0] for *_, address in socket.getaddrinfo(socket.gethostname(), None, type=socket.SOCK_STREAM)}
    return sorted(f"[{one}]" if ":" in str(one) else str(one) for one in found)


def worker(*shards: str) -> Command:
    """A worker of these shards, or of all."""
    count = len(json.loads(setting("TALLY_SHARDS")))
    return application(argv.worker(_name(), ",".join(f"shard-{shard}" for shard in shards or range(count))))


def spill_worker() -> Command:
    return application(argv.spill_worker(_name()))


def beat() -> Command:
    return application(argv.beat(str(TEMPORARY / "schedule")))


def flower() -> Command:
    """nginx asks for its password first, and Flower again."""
    os.environ["FLOWER_BASIC_AUTH"] = f"{FLOWER_USER}:{secret('operators')}"
    return application(argv.flower(f"--address={ANYWHERE}", f"--port={FLOWER_PORT}", "--url-prefix=flower"))


def manage(*command: str) -> Command:
    return application(argv.manage(*command))


def migrate() -> Command:
    """Wait until every shard has a primary, then migrate. Raises `ClusterError`, also where a shard that was made by an
    older version lacks the roles of the processes: only a superuser can make them."""
    import psycopg

    command = manage("set_up")
    for number, shard in enumerate(json.loads(setting("TALLY_SHARDS"))):
        hosts, ports = (",".join(str(node[key]) for node in shard["nodes"]) for key in ("host", "port"))
        deadline = time.monotonic() + PRIMARY_SECONDS
        login = psycopg.conninfo.make_conninfo(
            host=hosts,
            port=ports,
            dbname=configs.CONTROL_DATABASE if number == 0 else configs.DATABASE,
            user=configs.ROLE,
            password=secret("database"),
            target_session_attrs="primary",
            connect_timeout=2,
        )
        while True:
            try:
                with psycopg.connect(login) as conn:
                    missing = roles.missing(conn.execute(roles.EXISTING).fetchall())
                break
            except psycopg.OperationalError as error:
                if time.monotonic() > deadline:
                    raise ClusterError(f"shard {number} has no primary: {error}") from error
                time.sleep(1)
        if missing:
            raise ClusterError(
                f"shard {number} has no role {' or '.join(missing)}: run `python -m cluster.container provide` in the "
                "container of its primary (docs/deployment.md#upgrade)"
            )
    return command


def postgres() -> Command:
    """A PostgreSQL server under Patroni. SHARD and NODE are its numbers, ADDRESS is its address for the others, NETWORK
    says where these are, as in pg_hba.conf."""
    home, address = DATA, setting("ADDRESS")
    if home.stat().st_uid == os.geteuid():  # a volume of Kubernetes is root's
        home.chmod(0o700)
    shared = memory(SHARED_BUFFERS_SHARE, LEAST_SHARED_BUFFERS)
    tls = _certificate("postgres")
    if tls:  # PostgreSQL wants its key for itself
        write_private(TEMPORARY / "key", tls.key.read_text())
        tls = replace(tls, key=TEMPORARY / "key")
    member = Member(
        int(setting("SHARD")),
        int(setting("NODE")),
        home=home,
        bin_dir=_postgres_programs(),
        postgres=(f"{ANYWHERE}:{POSTGRES_PORT}", f"{address}:{POSTGRES_PORT}"),
        rest=(f"{ANYWHERE}:{PATRONI_PORT}", f"{address}:{PATRONI_PORT}"),
        etcd={
            "hosts": setting("ETCD").split(","),
            "protocol": "https",
            "cacert": str(AUTHORITY),
            **{name: str(SECRETS / f"etcd-{name}") for name in ("cert", "key")},
        },
        network=os.environ.get("NETWORK", "samenet"),
        shared_buffers=f"{shared // 1024}kB",
        max_connections=int(setting("MAX_CONNECTIONS")),
        parameters={"effective_cache_size": f"{2 * shared // 1024}kB", "maintenance_work_mem": f"{shared // 4096}kB"},
        post_bootstrap=f"{sys.executable} -m cluster.container provide",
        tls=tls,
    )
    names = ("postgres", "replication", "rewind", "patroni")
    config = TEMPORARY / "patroni.yml"
    write_private(config, yaml.safe_dump(configs.patroni_of(member, {name: secret(name) for name in names})))
    os.environ["TALLY_METRICS_TOKEN"] = secret("metrics")
    return (sys.executable, "-m", "cluster.guarded_patroni", str(config))


def _postgres_programs() -> Path:
    """The newest PostgreSQL of the image: Debian's packages and the official image have it in the same place."""
    found = sorted(Path("/usr/lib/postgresql").glob("*/bin"), key=lambda path: int(path.parent.name))
    if not found:
        raise ClusterError("there is no PostgreSQL in /usr/lib/postgresql")
    return found[-1]


def provide(*_url: str) -> Command:
    """What Patroni runs when it has made a shard: Tally's roles and databases. Safe to run again, on the primary."""
    from .postgres import provide

    passwords = {role: secret(name) for role, name in PASSWORDS.items()}
    asyncio.run(provide(POSTGRES_PORT, secret("postgres"), passwords, control=setting("SHARD") == "0"))
    return ("true",)


def journal() -> Command:
    """A server of the journal: one of several with Sentinels (ADDRESS, PRIMARY, SENTINELS), or the only one."""
    if os.environ.get("SENTINELS"):
        os.environ["MAXMEMORY"] = str(memory(JOURNAL_SHARE))
        return _start("journal", REDIS_PORT)
    return _redis("journal", configs.redis_journal, DATA, JOURNAL_SHARE)


def sentinel() -> Command:
    return _start("sentinel", 26379)


def begin() -> Command:
    """Order that an empty journal begins: once, on the server that is PRIMARY (docs/journal.md)."""
    (DATA / "begin").touch(mode=0o600)
    return ("true",)


def _start(kind: str, port: int) -> Command:
    os.environ |= {
        f"{kind.upper()}_ADDRESS": f"{setting('ADDRESS')}:{port}",
        f"{kind.upper()}_DIRECTORY": str(DATA),
        "JOURNAL_PASSWORD": secret("journal"),
        "SENTINEL_PASSWORD": secret("sentinel"),
        "PYTHON": sys.executable,
    }
    if tls := _certificate("valkey"):
        named = {"AUTHORITY": tls.authority, "CERTIFICATE": tls.certificate, "KEY": tls.key}
        os.environ |= {f"TLS_{name}": str(path) for name, path in named.items()}
    return (str(PROJECT / "deploy" / "journal" / "start"), kind)


def cache() -> Command:
    return _redis("cache", configs.redis_cache, TEMPORARY, CACHE_SHARE)


def broker() -> Command:
    return _redis("broker", configs.redis_broker, TEMPORARY, CACHE_SHARE)


def _redis(name: str, render: Callable[..., str], directory: Path, share: float) -> Command:
    config = TEMPORARY / "redis.conf"
    text = render(REDIS_PORT, secret(name), directory, host=ANYWHERE, memory=str(memory(share)))
    write_private(config, text + configs.redis_tls(REDIS_PORT, _certificate("valkey")))
    return ("valkey-server", str(config))


def nginx() -> Command:
    """Before the API processes, as many as there are: it asks the DNS for their addresses every second."""
    home = TEMPORARY / "nginx"
    home.mkdir(exist_ok=True, mode=0o700)
    servers = {f"{_whole('app')}:{API_PORT}": "resolve max_fails=1 fail_timeout=1s"}
    front = Front(_listen(NGINX_PORT), servers, resolver=resolver(_RESOLV_CONF.read_text()))
    text = configs.nginx_before(front, STATIC, secret("proxy"), NginxSettings.of(os.environ))
    write_private(home / "nginx.conf", text)
    write_private(home / "doors.conf", _operators_door())
    if has_figures("nginx"):
        write_private(home / "doors-figures.conf", FIGURES_DOOR)
    write_private(home / "operators", configs.flower_users(secret("operators")))
    return ("nginx", "-p", f"{home}/", "-c", "nginx.conf", "-e", "stderr")


def resolver(resolv_conf: str) -> str:
    """The DNS servers of a resolv.conf, for nginx, which has none of its own. Raises `ClusterError`."""
    lines = (line.split() for line in resolv_conf.splitlines())
    found = [words[1] for words in lines if len(words) == 2 and words[0] == "nameserver"]
    if not found:
        raise ClusterError("there is no nameserver in /etc/resolv.conf")
    return " ".join(f"[{one}]" if ":" in one else one for one in found) + " valid=1s ipv6=off"


def _whole(service: str) -> str:
    """The name of a service as nginx has to ask for it: it does not know the domains to search (DOMAIN)."""
    return f"{service}{os.environ.get('DOMAIN', '')}"


def _listen(port: int) -> str:
    if os.environ.get("TALLY_HTTPS") == "false":
        return f"listen {port} backlog=4096;"
    lines = (
        f"listen {port} ssl backlog=4096;",
        f"ssl_certificate {SECRETS}/tls-cert;",
        f"ssl_certificate_key {SECRETS}/tls-key;",
        "ssl_protocols TLSv1.2 TLSv1.3;",
        "ssl_session_cache shared:tls:10m;",
    )
    return "\n        ".join(lines)


# nginx' own figures, for the exporter beside it: no host publishes this port.
FIGURES_DOOR = f"""server {{
    listen {FIGURES_PORT};
    access_log off;

    location = /stub_status {{
        stub_status;
    }}

    location / {{
        return 404;
    }}
}}
"""


def has_figures(nginx: str) -> bool:
    """Whether this nginx was built with stub_status, as its images and packages are; the one of the wheel was not."""
    done = subprocess.run([nginx, "-V"], capture_output=True, text=True, check=False, timeout=10)
    return "--with-http_stub_status_module" in done.stderr


def _operators_door() -> str:
    """Flower, Prometheus and Grafana behind a password, whichever of them runs."""
    lines = [
        _listen(OPERATORS_PORT),
        f"resolver {resolver(_RESOLV_CONF.read_text())};",
        'auth_basic "Tally";',
        "auth_basic_user_file operators;",
    ]
    for name, port in {"flower": FLOWER_PORT, "prometheus": 9090, "grafana": 3000}.items():
        lines += [
            f"location /{name}/ {{",
            f"    set $place {_whole(name)}:{port};",  # looked up at each request, so it need not run
            "    proxy_set_header Host $http_host;",
            "    proxy_pass http://$place;",
            "}",
        ]
    return "\n    ".join(["server {", *lines]) + "\n}\n"


ROLES: Mapping[str, Callable[..., Command]] = {
    "api": api,
    "worker": worker,
    "spill-worker": spill_worker,
    "beat": beat,
    "flower": flower,
    "manage": manage,
    "migrate": migrate,
    "postgres": postgres,
    "provide": provide,
    "journal": journal,
    "begin": begin,
    "sentinel": sentinel,
    "cache": cache,
    "broker": broker,
    "nginx": nginx,
}


def main(role: str = "", *arguments: str) -> None:
    """Become a process. Does not return. Raises `ClusterError`."""
    if role not in ROLES:
        raise ClusterError(f"say what to run: {', '.join(ROLES)}")
    os.umask(0o077)
    os.chdir(PROJECT)
    command = ROLES[role](*arguments)
    os.execvp(command[0], list(command))  # noqa: S606


if __name__ == "__main__":
    try:
        main(*sys.argv[1:])
    except ClusterError as error:
        sys.exit(f"error: {error}")
