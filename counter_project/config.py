"""Every setting of Tally, typed, in one place, read from the environment (or from the file that `<NAME>_FILE` names).

This is the only reader of `TALLY_*`. The rest of the code uses `django.conf.settings.TALLY`, an instance of `Config`.
Names and descriptions state the units. A bad value stops the start with a sentence (`ConfigError`).
"""

from __future__ import annotations

import os
import re
import socket
from collections.abc import Iterable, Mapping
from difflib import get_close_matches
from importlib.util import find_spec
from ipaddress import ip_network
from pathlib import Path
from typing import Any, ClassVar, Literal

from runtime.hidden import without_plugins

with without_plugins():
    from pydantic import Field, SecretStr, ValidationError, field_validator, model_validator
    from pydantic_settings import (
        BaseSettings,
        EnvSettingsSource,
        PydanticBaseSettingsSource,
        SettingsConfigDict,
        SettingsError,
    )

from counters.limits.policies import MOST
from sharding import replica_choice
from sharding.lanes import check as check_lanes
from sharding.nodes import Shard

PREFIX = "TALLY_"
# `TALLY_` names that are not settings: the file with the local cluster's settings for manage.py, the cluster of a test
# run, and the mark of a local cluster's processes.
NO_SETTINGS = frozenset({"TALLY_ENV_FILE", "TALLY_TEST_CLUSTER", "TALLY_CLUSTER_DIR"})
# What Kubernetes sets in each pod for a service whose name begins with "tally".
_SERVICE_LINK = re.compile(r"TALLY_(.*_)?(SERVICE_HOST|SERVICE_PORT(_.*)?|PORT_[0-9]+_(TCP|UDP|SCTP)(_.*)?)")
_SERVICE_URLS = ("tcp://", "udp://", "sctp://")
_HINT = "Set them in the environment, or start the local cluster (make run), which writes them to .cluster/env."


# The rate of a limit that django-ratelimit keeps: tries, or pages, in so many seconds, minutes, hours or days.
_RATE = "^[1-9][0-9]{0,8}/[0-9]{0,4}[smhd]$"


class ConfigError(Exception):
    """A setting is missing, unknown or has a bad value; the text says which, and what to do."""


def _limit(unit: str, description: str, *, in_admin: bool = False, **field: Any) -> Any:
    """A field that is a limit, for the table in docs/limits.md. `in_admin`: the admin may set another."""
    return Field(description=description, json_schema_extra={"unit": unit, "in_admin": in_admin}, **field)


def _host_name() -> str:
    """The host's name, as far as a process may be called so."""
    return re.sub(r"[^!-~]", "", socket.gethostname())[:100] or "local"


class _Environment(EnvSettingsSource):
    """The environment. A setting missing from it is read from the file that `<NAME>_FILE` names."""

    def _load_env_vars(self) -> Mapping[str, str | None]:
        return {**_from_files(self.settings_cls.model_fields), **super()._load_env_vars()}


class Config(BaseSettings):
    """`TALLY_<FIELD NAME>` for each field; lists and objects are JSON."""

    model_config = SettingsConfigDict(env_prefix=PREFIX, extra="forbid")
    # Django looks this up on each access to the setting, and pydantic is slow to report a missing attribute.
    _mask_wrapped: ClassVar[bool] = True

    secret_key: SecretStr = Field(description="Django's signing key; at least 32 characters.")
    debug: bool = Field(default=False, description="Django's debug pages; never in production.")
    allowed_hosts: list[str] = Field(
        default=["127.0.0.1", "localhost"], description="Host names that the API answers to."
    )
    https: bool = Field(
        default=True, description="Served over HTTPS: cookies are secure, and browsers are told to use HTTPS only."
    )
    demo_pages: bool = Field(
        default=False,
        description="Serve /demo/likes, where anybody may like a few items of the type `demo`; on in the local cluster.",
    )
    second_factor: Literal["off", "optional", "required"] = Field(
        default="required",
        description="Who shows a code after the password, in the admin and on /status: `required`: all staff; `optional`: those who "
        "have set it up, as in the local cluster; `off`: nobody.",
    )
    flower_url: str = Field(
        default="",
        pattern=r"^(https?://\S+)?$",
        description="Where Flower is, for the link that /status shows to staff; empty: no link.",
    )
    prometheus_url: str = Field(
        default="",
        pattern=r"^(https?://\S+)?$",
        description="Likewise, where Prometheus is.",
    )
    grafana_url: str = Field(
        default="",
        pattern=r"^(https?://\S+)?$",
        description="Likewise, where Grafana is.",
    )
    node_id: str = Field(
        default_factory=_host_name,
        pattern="^[!-~]{1,100}$",
        description="Name of this process in `Tally-Node`, /health, logs and metrics: 1 to 100 printable ASCII characters, no spaces. "
        "The host's name by default.",
    )
    proxy_secret: SecretStr = Field(
        default=SecretStr(""),
        description="What nginx sends as `X-Tally-Proxy`. Without it `X-Real-IP` is not believed: the connection's address counts.",
    )
    static_root: Path = Field(
        default=Path("static"), description="Where collectstatic puts files and nginx finds them."
    )

    shards: list[Shard] = Field(
        min_length=1,
        max_length=64,
        description='The shards, by number: `[{"nodes": [{"host", "port", "patroni", "patroni_config"}]}]`; the last two may be missing.',
    )
    database_user: str = Field(
        default="tally",
        description="Role of this process in every PostgreSQL, not a superuser: `tally_api` of API processes, `tally_worker` of "
        "workers, beat, Flower and `disks`; the default owns the tables.",
    )
    database_password: SecretStr = Field(description="Its password.")
    database_name: str = Field(default="tally", description="The database of the counters, in every shard.")
    control_database_name: str = Field(
        default="tally_control", description="Django's own tables, in shard 0's cluster."
    )
    database_pool_size: int = _limit(
        "connections", "Connections per process and database, at most.", default=10, ge=1, le=10
    )
    database_timeout_seconds: float = Field(
        default=0.8,
        gt=0,
        description="For a read to get a connection, and for its answer; half of it where two servers may be asked. nginx allows 0.9 s.",
    )
    replicas_required: int = Field(
        default=1,
        ge=0,
        description="Replicas that must have flushed a commit before its journal entry goes; 0 where a shard has none.",
    )

    replica_lag_seconds: float = Field(
        default=2.0, gt=0, description="A replica that is further behind is left out of reads until it has caught up."
    )
    replica_strategy: replica_choice.Name = Field(
        default="random",
        description="Which replica reads go to: `random`, `round_robin`, or `least_lag` (the one that is least behind).",
    )
    primary_wait_seconds: float = Field(
        default=10.0,
        ge=0,
        description="How long a read of the primary waits for one, as during a failover: longer than a breaker stays open.",
    )
    patroni_user: str = Field(
        default="tally", description="User of Patroni's REST API, for the calls that change something."
    )
    patroni_password: SecretStr = Field(
        default=SecretStr(""), description="Its password; without one Tally cannot change anything through Patroni."
    )

    journal_url: SecretStr = Field(min_length=1, description="Redis of the journal: AOF, fsync always, noeviction.")
    journal_sentinels: list[str] = Field(
        default=[],
        description='Sentinels of a replicated journal, `["host:port", …]`; its address in `TALLY_JOURNAL_URL` is not used then.',
    )
    journal_sentinel_password: SecretStr = Field(default=SecretStr(""), description="Their password, if they have one.")
    journal_service: str = Field(default="journal", min_length=1, description="The name that they know the journal by.")
    journal_replicas: int = Field(
        default=0,
        ge=0,
        le=8,
        description="Replicas of the journal. All of them must have a write on their disks before it is accepted; in production 1 or more.",
    )
    journal_one_copy: bool = Field(
        default=False,
        description="While a replica of the journal is missing: go on with one copy (true), or refuse writes with 503 (false).",
    )
    disk_reserve_bytes: int = _limit(
        "bytes",
        "Writes are refused while the disk of the journal or of the shard's primary has less free. 0: never.",
        default=1024**3,
        ge=0,
    )
    broker_url: SecretStr = Field(
        min_length=1,
        description="Celery's broker: a Redis, not the journal's (it needs no persistence), or a RabbitMQ.",
    )
    cache_url: SecretStr = Field(min_length=1, description="Redis of the cache: LRU, no persistence.")
    redis_timeout_seconds: float = Field(
        default=2.0, gt=0, description="To connect to a Redis and for one answer of it."
    )

    cache_ttl_seconds: int = Field(default=60, ge=1, description="Life of a value that the worker put into the cache.")
    cache_fill_ttl_seconds: int = Field(
        default=30, ge=1, description="Life of a value that a read put there (a replica may lag)."
    )
    warm_keys: int = Field(
        default=5000,
        ge=0,
        le=1_000_000,
        description="Counters read most that a process knows and puts into a cache that was emptied or replaced; 0: none.",
    )
    warm_keys_per_second: int = _limit(
        "counters a second",
        "That all processes together read to warm the cache: a bound on what the shards are asked.",
        default=5000,
        ge=1,
    )
    breaker_failures: int = _limit(
        "failures", "Failures in a row that open the breaker of a shard and role.", default=5, ge=1
    )
    breaker_reset_seconds: int = _limit(
        "seconds", "Time an open breaker waits before it lets one call through.", default=2, ge=1
    )

    anonymous_rate: int = _limit(
        "requests a minute",
        "Of one address without an API key (IPv6: of a /64 network); more get 429.",
        in_admin=True,
        default=100,
        ge=1,
        le=MOST,
    )
    api_key_rate: int = _limit(
        "requests a minute",
        "Of one API key, unless the admin gives it another quota; more get 429.",
        in_admin=True,
        default=6_000_000,
        ge=1,
        le=MOST,
    )
    api_key_increments_rate: int = _limit(
        "increments a minute",
        "Of one API key, unless the admin gives it another quota; more get 429.",
        in_admin=True,
        default=600_000_000,
        ge=1,
        le=MOST,
    )
    pages_rate: str = _limit(
        "pages in a time",
        "Of one address: the front page, /status and the admin; more get 429.",
        default="600/m",
        pattern=_RATE,
    )
    login_address_rate: str = _limit(
        "tries in a time", "To log in to the admin, of one address.", default="10/m", pattern=_RATE
    )
    login_pair_rate: str = _limit(
        "tries in a time", "To log in with one name, of one address.", default="5/m", pattern=_RATE
    )
    login_name_rate: str = _limit(
        "tries in a time",
        "To log in with one name, from wherever; after more, the name is under attack.",
        default="100/h",
        pattern=_RATE,
    )
    login_attacked_rate: str = _limit(
        "tries in a time",
        "To log in with a name that is under attack, of one address.",
        default="1/10m",
        pattern=_RATE,
    )
    login_device_rate: str = _limit(
        "tries in a time",
        "To log in, of a browser that has logged in with this name before.",
        default="10/m",
        pattern=_RATE,
    )
    login_code_rate: str = _limit(
        "tries in a time", "To show a second factor, of one user, from wherever.", default="5/m", pattern=_RATE
    )

    trusted_proxies: list[str] = Field(
        default=[],
        description='Proxies before nginx, `["10.0.0.0/8", …]`: the client is whom they name in `X-Forwarded-For`. For nginx.',
    )
    connections_per_address: int = _limit(
        "connections",
        "Of one address (IPv6: of a /64 network) that have a request under way; more get 429. For nginx.",
        default=1_000,
        ge=1,
    )
    client_timeout_seconds: int = _limit(
        "seconds",
        "For a client to send all of a request's headers, the next part of its body, or to take the next part of its "
        "answer; then its connection is closed. For nginx.",
        default=10,
        ge=1,
    )
    idle_timeout_seconds: int = _limit(
        "seconds", "That a connection may stay open between two requests. For nginx.", default=75, ge=1
    )
    max_header_bytes: int = _limit(
        "bytes",
        "Of the request line, and of one header line; more get 414 or 431. For nginx.",
        default=256 * 1024,
        ge=1024,
    )
    max_body_bytes: int = _limit("bytes", "Largest request body; more gets 413.", default=16 * 1024 * 1024, ge=1024)
    status_viewers: int = _limit(
        "viewers", "Of a process that /status sends news to at once; more get 503.", default=100, ge=1, le=10_000
    )
    max_increments: int = _limit(
        "increments", "Most increments in one bulk request; more gets 413.", default=100_000, ge=1
    )
    max_keys: int = _limit("keys", "Most keys of one multi-get and largest page of a listing.", default=1_000, ge=1)
    max_wait_seconds: float = _limit(
        "seconds",
        "Longest `?wait=`, and how long PUT and DELETE wait for their result.",
        default=30.0,
        gt=0,
        le=3600,
    )
    api_threads: int = _limit(
        "threads",
        "Threads of an API process, for requests that have to wait for a database or to be applied.",
        default=64,
        ge=4,
        le=4096,
    )
    max_writing: int = _limit(
        "writes",
        "Writes of a process that may wait for the journal at once; more are refused until it answers.",
        default=1024,
        ge=1,
    )
    max_singles: int = _limit(
        "writes",
        "Single increments that nobody waits for which nginx passes to an API process at once; more get 503.",
        default=128,
        ge=1,
    )
    max_bodies: int = _limit(
        "requests", "Bulk requests that nginx passes to an API process at once; more get 503.", default=16, ge=1
    )
    slow_write_seconds: float = _limit(
        "seconds",
        "That a write of one counter takes to the journal when bulk bodies rest half of the time. 0: they never rest.",
        default=0.06,
        ge=0,
    )
    max_waiting: int = _limit(
        "threads",
        "Threads of a process that may wait for a shard at once; others are answered without the result.",
        default=24,
        ge=1,
    )
    flush_max_writes: int = _limit("writes", "Most writes in one batch.", default=4096, ge=2, le=100_000)
    flush_max_bytes: int = _limit(
        "bytes",
        "Most bytes of bulk writes in one batch; a larger write is the only one in its batch.",
        default=192 * 1024,
        ge=1,
    )

    key_rate: int = _limit(
        "increments",
        "Increments of a counter in a window that go the usual way; more go to the excess queue. 0: no limit.",
        default=100_000,
        ge=0,
        le=2**40,
    )
    key_rate_window_seconds: float = _limit(
        "seconds", "The sliding window of `TALLY_KEY_RATE`.", default=10.0, ge=0.1, le=3600
    )
    excess_increments: int = _limit(
        "increments",
        "Increments in the excess queue of a shard; what is more gets 429.",
        default=1_000_000,
        ge=0,
        le=2**40,
    )
    stale_seconds: float = _limit(
        "seconds",
        "Age from which increments that a worker finds go to the stale queue; longer than a failover takes. 0: never.",
        default=30.0,
        ge=0,
    )
    spill_share: float = _limit(
        "part of the time",
        "Part of the time that a spill queue may be applied while its shard has fresh increments; without them, all of it.",
        default=0.1,
        gt=0,
        le=1,
    )
    backlog_increments: int = _limit(
        "increments",
        "Increments of a lane that may wait in the journal; while there are more, its keys get 429. 0: no limit.",
        default=5_000_000,
        ge=0,
    )
    backlog_bytes: int = _limit(
        "bytes",
        "Bytes of a lane that may wait in the journal; while there are more, its keys get 429. 0: no limit.",
        default=128 * 1024 * 1024,
        ge=0,
    )

    likes_recent_seconds: int = Field(
        default=3600,
        ge=0,
        description="How long the cache knows an accepted event of each user and item, so repeats are not written again; 0: not at all.",
    )

    lanes: int = Field(
        default=4,
        description="Lanes of each shard in a new system, 1, 2, 4, 8 or 16. An old one keeps what it has: `manage.py lanes` changes it.",
    )
    lease_seconds: float = Field(
        default=3.0,
        gt=0,
        le=60,
        description="How long a lane waits for a worker that shows no sign of life, or for a message that does not arrive.",
    )
    shift_seconds: float = Field(
        default=1.0,
        gt=0,
        le=60,
        description="About how long one task applies its lane; if there is more, it sends the next task.",
    )
    linger_seconds: float = Field(
        default=0.1,
        ge=0,
        le=10,
        description="How long a task that has applied everything waits for more before it ends.",
    )
    worker_concurrency: int = Field(
        default=8,
        ge=1,
        le=256,
        description="Tasks that one worker of a shard runs at once, one lane each.",
    )
    worker_prefetch: int = Field(
        default=1, ge=1, le=64, description="Messages a worker takes ahead for each task it can run at once."
    )
    worker_memory_bytes: int = Field(
        default=0,
        ge=0,
        description="A worker that uses more than this ends after its tasks and is started again; 0: no limit.",
    )
    window_seconds: float = Field(
        default=1.0, gt=0, le=10, description="An apply transaction is kept under this by taking fewer batches."
    )
    completion_interval_seconds: float = Field(
        default=0.01, gt=0, description="Pause between looks at what the replicas have flushed."
    )
    journal_hold_seconds: float = _limit(
        "seconds",
        "How long an applied batch may wait in the journal for its replicas; after that the shard is degraded.",
        default=600.0,
        gt=0,
    )
    journal_hold_bytes: int = _limit(
        "bytes",
        "How much of a shard may be applied and wait in the journal for its replicas; above that the shard is degraded.",
        default=256 * 1024 * 1024,
        ge=0,
    )
    overdue_seconds: float = Field(
        default=5.0, gt=0, description="Age from which a journal entry is dispatched again by the relay."
    )
    relay_interval_seconds: float = Field(default=2.0, gt=0, description="Pause between rounds of the relay.")
    retention_days: int = Field(
        default=7, ge=1, description="How long the ledger, outcomes and idempotency keys are kept."
    )
    idempotency_redis_seconds: int = Field(
        default=3600,
        ge=60,
        description="How long an idempotency key stays in the journal's Redis after it is safe in its shard.",
    )

    counter_fillfactor: int = Field(
        default=45,
        ge=10,
        le=100,
        description="Fill of the counters' pages in percent: more is smaller and slower. `migrate_all` puts it in force.",
    )

    reconcile_interval_seconds: float = Field(
        default=600.0,
        gt=0,
        description="Pause between rounds of reconciliation: replicas and cache compared with the primaries.",
    )
    reconcile_seconds: float = Field(
        default=30.0,
        gt=0,
        description="How long a round waits, for each lane, until a replica shows the same moment as its primary.",
    )
    reconcile_rows: int = Field(
        default=2_000_000,
        ge=1,
        description="Rows of each table of likes that a round compares in a shard, about; the next round goes on behind them.",
    )
    reconcile_cache_rate: int = Field(
        default=20_000, ge=1, description="Entries of the cache that a round looks at in a second."
    )

    heal_after_seconds: float = Field(
        default=20.0,
        ge=0,
        description="How long a replica may fail to follow a well primary before it is copied again; doubles with each copy. 0: never.",
    )
    heal_differing: bool = Field(
        default=True, description="Copy a replica again that differed in two rounds of reconciliation."
    )
    heal_interval_seconds: float = Field(default=2.0, gt=0, le=10, description="Pause between looks at the replicas.")

    api_key_ttl_seconds: float = Field(
        default=5.0, ge=0, description="A revoked API key is refused by every process after this."
    )
    metrics_port: int | None = Field(
        default=None,
        ge=1,
        le=65535,
        description="Port of this process's own /metrics (workers, beat); none: no server.",
    )
    metrics_host: str = Field(
        default="127.0.0.1", min_length=1, description="The address that it listens on; `0.0.0.0` in a container."
    )
    metrics_token: SecretStr = Field(
        default=SecretStr(""),
        description="Bearer token that every /metrics asks for; without one /metrics answers nobody.",
    )
    log_level: str = Field(
        default="INFO", pattern="^(DEBUG|INFO|WARNING|ERROR)$", description="Lowest level that is logged."
    )
    access_log_percent: int = Field(
        default=0,
        ge=0,
        le=100,
        description="Share of the requests that nginx logs, in percent: a line of JSON each. It logs every 5xx, too. For nginx.",
    )
    traces_endpoint: str = Field(
        default="",
        pattern=r"^(https?://\S+)?$",
        description="Where spans go, by OTLP over HTTP, such as `http://collector:4318/v1/traces`; empty: there are none. Needs the "
        "extra `otel`.",
    )
    traces_percent: float = Field(
        default=1.0,
        ge=0,
        le=100,
        description="Share of the requests without a `traceparent` that begin a trace, in percent; of the others, its flag decides.",
    )
    log_format: str = Field(
        default="json", pattern="^(json|console)$", description="One JSON object a line, or for people."
    )

    @classmethod
    def settings_customise_sources(
        cls, settings_cls: type[BaseSettings], *_: PydanticBaseSettingsSource, **_other: PydanticBaseSettingsSource
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """The environment is the only source."""
        return (_Environment(settings_cls),)

    @field_validator("lanes")
    @classmethod
    def _lanes_divide_the_table(cls, lanes: int) -> int:
        return check_lanes(lanes)

    @field_validator("journal_sentinels")
    @classmethod
    def _sentinels_have_ports(cls, sentinels: list[str]) -> list[str]:
        for sentinel in sentinels:
            host, _, port = sentinel.rpartition(":")
            if not host or not port.isdecimal() or not 0 < int(port) < 65536:
                raise ValueError(f"{sentinel!r} is not host:port")
        return sentinels

    @field_validator("traces_endpoint")
    @classmethod
    def _traces_need_the_extra(cls, url: str) -> str:
        try:
            is_there = not url or find_spec("opentelemetry.exporter.otlp.proto.http") is not None
        except ModuleNotFoundError:  # not even a package above it
            is_there = False
        if not is_there:
            raise ValueError("traces need OpenTelemetry: pip install 'tally[otel]', or requirements/traces.txt")
        return url

    @field_validator("trusted_proxies")
    @classmethod
    def _proxies_are_networks(cls, proxies: list[str]) -> list[str]:
        for proxy in proxies:
            ip_network(proxy)
        return proxies

    @model_validator(mode="after")
    def _one_copy_needs_sentinels(self) -> Config:
        if self.journal_one_copy and not self.journal_sentinels:
            raise ValueError(
                "TALLY_JOURNAL_ONE_COPY needs TALLY_JOURNAL_SENTINELS, which it tells to promote no replica"
            )
        return self

    @model_validator(mode="after")
    def _secret_is_long(self) -> Config:
        if len(self.secret_key.get_secret_value()) < 32:
            raise ValueError("TALLY_SECRET_KEY must have at least 32 characters")
        return self

    @property
    def shard_count(self) -> int:
        return len(self.shards)

    def replicas_required_of(self, shard: int) -> int:
        """How many replicas must have flushed a commit of this shard: `replicas_required`, or all if it has fewer."""
        return min(self.replicas_required, self.shards[shard].replicas)


def load() -> Config:
    """Read the environment; any setting may be given as `TALLY_X_FILE=/path`. Raises `ConfigError`."""
    _refuse_unknown(os.environ)
    try:
        return Config()  # type: ignore[call-arg]
    except SettingsError as error:  # its text has the field's name in quotes, and no part of the value
        name = PREFIX + str(error).partition('"')[2].partition('"')[0].upper()
        raise ConfigError(f"bad settings:\n  {name}: this is no JSON: {error.__cause__}\n{_HINT}") from error
    except ValidationError as error:
        lines = []
        for problem in error.errors():
            name = PREFIX + str(problem["loc"][0]).upper() if problem["loc"] else "settings"
            where = "".join(f"[{part!r}]" for part in problem["loc"][1:])
            lines.append(f"{name}{where}: {problem['msg']}")
        raise ConfigError("bad settings:\n  " + "\n  ".join(lines) + f"\n{_HINT}") from error


def _from_files(fields: Iterable[str]) -> dict[str, str]:
    """Settings that the environment sets only through files, by their lower-case names, as pydantic expects them.
    Raises `ConfigError`."""
    found = {}
    for field in fields:
        name = PREFIX + field.upper()
        path = os.environ.get(f"{name}_FILE")
        if path is None or name in os.environ:
            continue
        try:
            found[name.lower()] = Path(path).read_text().strip()
        except (OSError, UnicodeDecodeError) as error:
            raise ConfigError(f"{name}_FILE: cannot read {path}: {error}") from error
    return found


def _refuse_unknown(environ: Mapping[str, str]) -> None:
    """Raises `ConfigError` for unknown names: a misspelt one would leave its setting at the default."""
    names = {PREFIX + field.upper() for field in Config.model_fields}
    known = names | {f"{name}_FILE" for name in names} | NO_SETTINGS

    def is_unknown(name: str, value: str) -> bool:
        of_kubernetes = _SERVICE_LINK.fullmatch(name) or value.startswith(_SERVICE_URLS)
        return name.startswith(PREFIX) and name not in known and not of_kubernetes

    unknown = sorted(name for name, value in environ.items() if is_unknown(name, value))
    if unknown:
        lines = [f"{name}: there is no such setting{_meant(name, known)}" for name in unknown]
        raise ConfigError("bad settings:\n  " + "\n  ".join(lines) + "\ndocs/settings.md has all of them.")


def _meant(name: str, known: Iterable[str]) -> str:
    nearest = get_close_matches(name, known, n=1)
    return f"; {nearest[0]} is meant, perhaps" if nearest else ""


def markdown() -> str:
    """The table of all settings in docs/settings.md."""
    rows = ["| setting | default | meaning |", "| --- | --- | --- |"]
    for name, field in Config.model_fields.items():
        default = "required" if field.is_required() else "" if field.default_factory else f"`{field.default}`"
        rows.append(f"| `{PREFIX}{name.upper()}` | {default} | {field.description} |")
    return "\n".join(rows) + "\n"


def limits_markdown() -> str:
    """The table of all limits in docs/limits.md."""
    rows = ["| limit | default | unit | in the admin | of what |", "| --- | --- | --- | --- | --- |"]
    for name, field in Config.model_fields.items():
        if isinstance(extra := field.json_schema_extra, dict):
            in_admin = "yes" if extra["in_admin"] else ""
            rows.append(
                f"| `{PREFIX}{name.upper()}` | `{field.default}` | {extra['unit']} | {in_admin} | {field.description} |"
            )
    return "\n".join(rows) + "\n"
