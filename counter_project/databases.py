"""`settings.DATABASES`: one alias for each role of a database (see `sharding.databases`)."""

from __future__ import annotations

from typing import Any

from counter_project.config import Config
from sharding.databases import ANY_REPLICA, CONTROL, BoundedConnection, ControlConnection
from sharding.nodes import Shard


def django_databases(config: Config) -> dict[str, Any]:
    """`settings.DATABASES` for a configuration."""
    databases = {CONTROL: _database(config, config.shards[0], config.control_database_name, "primary")}
    for number, shard in enumerate(config.shards):
        databases[f"shard-{number}"] = _database(config, shard, config.database_name, "primary")
        if shard.replicas:
            databases[f"shard-{number}-replica"] = _database(config, shard, config.database_name, ANY_REPLICA)
    return databases


def _database(config: Config, shard: Shard, name: str, target: str) -> dict[str, Any]:
    is_control = name == config.control_database_name
    # Django's own tables wait for no replica: operators must be able to steer a shard whose write quorum is lost.
    own = {"options": "-c synchronous_commit=local"} if is_control else {}
    return {
        "ENGINE": "django.db.backends.postgresql",
        "NAME": name,
        "USER": config.database_user,
        "PASSWORD": config.database_password.get_secret_value(),
        "HOST": ",".join(node.host for node in shard.nodes),
        "PORT": ",".join(str(node.port) for node in shard.nodes),
        "CONN_HEALTH_CHECKS": is_control,  # for the others see `sharding.databases.connection`
        "OPTIONS": {
            **own,
            "target_session_attrs": target,
            "connect_timeout": 2,  # seconds for each node; libpq's minimum
            "keepalives_idle": 5,
            "keepalives_interval": 2,
            "keepalives_count": 3,
            "tcp_user_timeout": 10_000,
            "application_name": config.node_id,
            # reconnect_timeout: psycopg_pool backs off for up to this long. It is short, so a shard that is up again is
            # used at once.
            "pool": {
                "connection_class": ControlConnection if is_control else BoundedConnection,
                "min_size": 0,
                "max_size": config.database_pool_size,
                "timeout": ControlConnection.timeout if is_control else 5.0,
                "reconnect_timeout": 1.0,
                "max_idle": 60.0,
            },
        },
        "TEST": {"MIRROR": "shard-" + str(config.shards.index(shard))} if target == ANY_REPLICA else {},
    }
