"""What a cluster consists of: its directory, its counts of processes, its ports and its secrets, as remembered on disk.

Pure as far as possible: `reconcile`, `scaled`, `choose_ports` and `port_names` take values and return values; reading
and writing stand in `load`, `save` and `load_secrets`. It is not the plan of processes (plan.py), nor what runs now
(state.py).
"""

from __future__ import annotations

import json
import re
import secrets as random_secrets
import socket
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path

from replication.apply_delay import ApplyDelay
from runtime.balancing import ROUND_ROBIN
from sharding.roles import ROLES

from . import ClusterError

PROJECT = Path(__file__).resolve().parent.parent
DEFAULT_PORT = 8000
PORT_RANGE = range(20000, 30000)  # below every usual ephemeral range (Linux 32768, macOS 49152)
SCALABLE = {"api": (1, 32), "worker": (0, 32), "spill-worker": (0, 32)}  # role: least and most (worker: per shard)
_WORKERS_OF_SHARD = re.compile(r"worker-(0|[1-9][0-9]*)")
PATRONI_USER = "tally"
FLOWER_USER = "tally"
MONITORING_USER = "tally"  # of Prometheus and Grafana
ETCD_HOST = "etcd"  # in patroni.yml: its socket
MOST_SOCKET_PATH = 103  # bytes of a Unix socket's path: macOS' limit, the smallest
SECRET_NAMES = (
    "secret-key",
    "postgres",
    "replication",
    "rewind",
    "tally",
    *ROLES,
    "patroni",
    "redis-journal",
    "redis-cache",
    "redis-broker",
    "sentinel",
    "flower",
    "prometheus",
    "grafana",
    "proxy",
    "metrics",
)
SENTINELS = 3  # that watch a replicated journal; two of them decide


@dataclass(frozen=True)
class Directory:
    """Where everything of one cluster is kept."""

    root: Path

    def __getitem__(self, name: str) -> Path:
        return self.root / name

    def socket(self, name: str) -> Path:
        """The Unix socket of a process. Only the owner can enter its directory. etcd wants a name like `host:port`."""
        return self.root / "sockets" / f"{name}:0"

    @property
    def logs(self) -> Path:
        return self.root / "logs"

    @property
    def monitoring(self) -> Path:
        """What a Prometheus reads: the targets; with `--monitoring`, its configuration and the rules as well."""
        return self.root / "monitoring"

    def log(self, name: str) -> Path:
        return self.logs / f"{name}.log"

    def node(self, shard: int, node: int) -> Path:
        """Home of one PostgreSQL server: `data/` and `patroni.yml`."""
        return self.root / "shards" / str(shard) / str(node)

    def patroni_config(self, shard: int, node: int) -> Path:
        return self.node(shard, node) / "patroni.yml"

    def prepare(self) -> None:
        """Make the directory and its fixed rooms, for the owner alone; raises `ClusterError` where that is not
        allowed."""
        if len(bytes(self.socket("etcd-peer"))) > MOST_SOCKET_PATH:
            raise ClusterError(f"the path {self.root} is too long for Unix sockets: give a shorter one with --dir")
        try:
            self.root.mkdir(parents=True, exist_ok=True, mode=0o700)
            self.root.chmod(0o700)
            rooms = (
                "logs",
                "etcd",
                "redis-journal",
                "redis-cache",
                "redis-broker",
                "nginx",
                "beat",
                "static",
                "flower",
                "sockets",
            )
            for name in rooms:
                self[name].mkdir(exist_ok=True, mode=0o700)
            write_private(self["writable"], "")
            self["writable"].unlink()
        except OSError as error:
            reason = error.strerror or str(error)
            raise ClusterError(
                f"cannot write to {self.root} ({reason}): give a directory of your own with --dir"
            ) from error


@dataclass(frozen=True)
class Layout:
    """Counts and ports. Shards are numbered from 0; nodes of a shard, API processes and workers from 1.

    `scale` has the number of processes of each role in `SCALABLE`; `worker` is the number for each shard. `worker-0` is
    the number of workers of shard 0, where that one has a number of its own. `journal_replicas`: servers that have a copy
    of the journal beside its primary. `archive`: directory of the WAL archive, "" without one; `archive_id` is this
    cluster's name there. `balancing`: how nginx spreads requests over the API processes. `monitoring`: whether Prometheus
    and, where it is installed, Grafana run as well. `shared_buffers`: of each PostgreSQL server, as PostgreSQL writes it.
    """

    shards: int = 2
    replicas: int = 1
    scale: dict[str, int] = field(default_factory=lambda: {"api": 2, "worker": 1, "spill-worker": 1})
    ports: dict[str, int] = field(default_factory=dict)
    journal_replicas: int = 0
    archive: str = ""
    archive_id: str = ""
    balancing: str = ROUND_ROBIN
    monitoring: bool = False
    shared_buffers: str = "128MB"

    @property
    def journals(self) -> list[str]:
        """The names of the journal's servers; which of them is the primary, the Sentinels say."""
        return ["redis-journal", *(f"redis-journal-{n}" for n in range(2, self.journal_replicas + 2))]

    @property
    def sentinels(self) -> list[str]:
        """The names of the Sentinels, which only a replicated journal has."""
        return [f"sentinel-{n}" for n in range(1, SENTINELS + 1)] if self.journal_replicas else []

    @property
    def nodes(self) -> list[tuple[int, int]]:
        """(shard, node) of every PostgreSQL server."""
        return [(shard, node) for shard in range(self.shards) for node in range(1, self.replicas + 2)]

    def workers(self, shard: int) -> int:
        """The number of workers of a shard."""
        return self.scale.get(f"worker-{shard}", self.scale["worker"])

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.ports['nginx']}"


@dataclass(frozen=True)
class Asked:
    """Options of `up`; None where not given."""

    shards: int | None = None
    replicas: int | None = None
    api: int | None = None
    port: int | None = None
    broker: str | None = None
    journal_replicas: int | None = None
    apply_delay: ApplyDelay | None = None
    quorum: int | None = None
    archive: str | None = None
    monitoring: bool | None = None
    shared_buffers: str | None = None


def reconcile(stored: Layout | None, asked: Asked, directory: Path) -> Layout:
    """The layout to start: the stored one with what may change changed. Raises `ClusterError` for what may not."""
    layout = stored or Layout(shards=asked.shards or 2, replicas=1 if asked.replicas is None else asked.replicas)
    other = "`cluster destroy` removes it with its data; --dir makes another beside it"
    if asked.shards not in (None, layout.shards):
        raise ClusterError(f"{directory} was made with {count(layout.shards, 'shard')}, not {asked.shards}: {other}")
    if asked.replicas is not None and asked.replicas < layout.replicas:
        raise ClusterError(
            f"{directory} was made with {count(layout.replicas, 'replica')} each; ask for more, not fewer: {other}"
        )
    journal_replicas = layout.journal_replicas if asked.journal_replicas is None else asked.journal_replicas
    if journal_replicas < layout.journal_replicas:
        raise ClusterError(
            f"the journal in {directory} has {count(layout.journal_replicas, 'replica')}; ask for more, not fewer: {other}"
        )
    replicas = layout.replicas if asked.replicas is None else asked.replicas
    if asked.quorum is not None and asked.quorum > replicas:
        raise ClusterError(
            f"a write quorum of {asked.quorum} can never be met with {count(replicas, 'replica')} of each shard: "
            "--replicas makes more"
        )
    scale = layout.scale if asked.api is None else {**layout.scale, "api": asked.api}
    monitoring = layout.monitoring if asked.monitoring is None else asked.monitoring
    layout = replace(
        layout,
        replicas=replicas,
        scale=scale,
        journal_replicas=journal_replicas,
        monitoring=monitoring,
        shared_buffers=asked.shared_buffers or layout.shared_buffers,
    )
    return layout if asked.archive is None else with_archive(layout, asked.archive)


def with_archive(layout: Layout, archive: str) -> Layout:
    """The layout with this archive ("" for none); another archive gets another id."""
    if archive == layout.archive:
        return layout
    return replace(layout, archive=archive, archive_id=random_secrets.token_hex(8) if archive else "")


def role_of(name: str) -> str | None:
    """The role that `cluster scale NAME=N` counts; NAME is the role itself, or `worker-SHARD`. None where it is
    neither."""
    role = name if shard_of(name) is None else "worker"
    return role if role in SCALABLE else None


def shard_of(name: str) -> int | None:
    """The shard whose workers `cluster scale NAME=N` counts; None where NAME is something else."""
    found = _WORKERS_OF_SHARD.fullmatch(name)
    return int(found[1]) if found else None


def scaled(layout: Layout, name: str, number: int) -> Layout:
    """The layout with another number of processes of a role, or of workers of one shard (`worker-0`).

    `worker` sets every shard, also those that had a number of their own. Raises `ClusterError` for a shard that the
    cluster does not have.
    """
    shard = shard_of(name)
    if shard is not None and shard >= layout.shards:
        shards = ", ".join(map(str, range(layout.shards)))
        raise ClusterError(f"there is no shard {shard}: this cluster has {count(layout.shards, 'shard')} ({shards})")
    scale = layout.scale
    if name == "worker":
        scale = {other: current for other, current in scale.items() if shard_of(other) is None}
    return replace(layout, scale={**scale, name: number})


def count(number: int, noun: str) -> str:
    return f"{number} {noun}{'' if number == 1 else 's'}"


def port_names(layout: Layout) -> list[str]:
    """Every port that this layout needs, apart from nginx's: the name of its process (of etcd, that of its metrics)."""
    names = ["etcd", *layout.journals, *layout.sentinels, "redis-cache", "redis-broker", "beat", "flower", "disks"]
    names += ["prometheus", "grafana"] if layout.monitoring else []
    names += [f"{kind}-{shard}-{node}" for kind in ("patroni", "postgres") for shard, node in layout.nodes]
    names += [f"worker-{s}-{i}" for s in range(layout.shards) for i in range(1, layout.workers(s) + 1)]
    names += [f"{role}-{i}" for role in ("api", "spill-worker") for i in range(1, layout.scale[role] + 1)]
    return names


def choose_ports(
    names: Iterable[str], remembered: Mapping[str, int], is_free: Callable[[int], bool], start: int
) -> dict[str, int]:
    """The remembered ports and one for each of `names`: the remembered while it is free, else the next free one."""
    chosen = dict(remembered)
    reserved = set(remembered.values())
    turned = [*PORT_RANGE[start - PORT_RANGE.start :], *PORT_RANGE[: start - PORT_RANGE.start]]
    candidates = (port for port in turned if port not in reserved and is_free(port))
    for name in names:
        if name not in chosen or not is_free(chosen[name]):
            port = next(candidates, None)
            if port is None:
                raise ClusterError(
                    f"no free port between {PORT_RANGE.start} and {PORT_RANGE.stop - 1}: stop other clusters"
                )
            chosen[name] = port
    return chosen


def random_start() -> int:
    return PORT_RANGE.start + random_secrets.randbelow(len(PORT_RANGE))


def port_is_free(port: int) -> bool:
    """Whether nobody listens on 127.0.0.1:`port` and we may."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
            probe.listen(1)
        except OSError:
            return False
    return True


def load(directory: Directory) -> Layout | None:
    """The stored layout, or None where there is none yet. Raises `ClusterError` for a broken one."""
    path = directory["layout.json"]
    if not path.exists():
        return None
    try:
        raw = json.loads(path.read_text())
        layout = Layout(
            shards=int(raw["shards"]),
            replicas=int(raw["replicas"]),
            scale={name: int(raw["scale"][name]) for name in {**SCALABLE, **raw["scale"]}},
            ports={str(name): int(port) for name, port in raw["ports"].items()},
            journal_replicas=int(raw.get("journal_replicas", 0)),
            archive=str(raw.get("archive", "")),
            archive_id=str(raw.get("archive_id", "")),
            balancing=str(raw.get("balancing", ROUND_ROBIN)),
            monitoring=bool(raw.get("monitoring", False)),
            shared_buffers=str(raw.get("shared_buffers", Layout.shared_buffers)),
        )
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise ClusterError(
            f"{path} is broken ({error!r}): restore it, or remove this cluster and its data with `cluster destroy`"
        ) from error
    return layout


def save(directory: Directory, layout: Layout) -> None:
    write_private(directory["layout.json"], json.dumps(asdict(layout), indent=2) + "\n")


def load_secrets(directory: Directory) -> dict[str, str]:
    """Passwords and keys by the name of who asks for them; made at the first start, kept for ever after."""
    path = directory["secrets.json"]
    kept: dict[str, str] = {}
    if path.exists():
        try:
            kept = {str(name): str(value) for name, value in json.loads(path.read_text()).items()}
        except (OSError, ValueError, AttributeError) as error:
            raise ClusterError(
                f"{path} is broken ({error!r}): restore it, or `cluster destroy` this cluster"
            ) from error
    elif directory["shards"].exists():
        raise ClusterError(f"{path} is missing, and the databases beside it need it: restore it, or `cluster destroy`")
    wanted = {name: kept.get(name) or random_secrets.token_urlsafe(36) for name in SECRET_NAMES}
    if wanted != kept:
        write_private(path, json.dumps(wanted, indent=2) + "\n")
    return wanted


def write_private(path: Path, text: str) -> None:
    """Replace a file at once (readers see the old or the new text), readable by its owner alone."""
    beside = path.with_name(path.name + ".new")
    beside.touch(mode=0o600)
    beside.chmod(0o600)
    beside.write_text(text)
    beside.replace(path)
