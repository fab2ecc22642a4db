"""Steering the cluster under test: the quorum, what a commit waits for, and the followers' delays. Through Patroni and PostgreSQL."""

from __future__ import annotations

import base64
import http.client
import json
import re
import time
from collections.abc import Mapping, Sequence
from typing import Any
from urllib.parse import urlsplit

import psycopg
import yaml

from benchmarks.chaos.subject import Subject
from cluster.layout import write_private

SHARD = 0
IN_FORCE_SECONDS = 60.0
PARAMETER = "recovery_min_apply_delay"
DELAY = f"SELECT setting::integer FROM pg_settings WHERE name = '{PARAMETER}'"  # noqa: S608
END = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE usename = %s AND datname = %s"
IN_FORCE = """
SELECT current_setting('synchronous_standby_names'), count(*) FILTER (WHERE state = 'streaming' AND sync_state = 'quorum')
FROM pg_stat_replication"""


def _superuser(subject: Subject, port: int) -> psycopg.Connection[Any]:
    secrets = json.loads((subject.directory.root / "secrets.json").read_text())
    return psycopg.connect(host="127.0.0.1", port=port, user="postgres", password=secrets["postgres"], dbname="postgres", autocommit=True)


def _primary(subject: Subject) -> psycopg.Connection[Any]:
    return _superuser(subject, subject.primary(SHARD)["port"])


def wait_for_apply(subject: Subject) -> None:
    """A commit of the service returns when the quorum has applied it (not only flushed): so delays of applying count.

    Its connections are ended, as they took the setting when they began. Raises `psycopg.Error`.
    """
    role = subject.env["TALLY_DATABASE_USER"]
    with _primary(subject) as conn:
        conn.execute(psycopg.sql.SQL("ALTER ROLE {} SET synchronous_commit = remote_apply").format(psycopg.sql.Identifier(role)))
        conn.execute(END, (role, subject.env["TALLY_DATABASE_NAME"]))


def set_delays(subject: Subject, milliseconds: Mapping[str, int]) -> None:
    """Give each follower (by the name of its process) the delay after which it applies a commit; returns when that is so.

    It stands in the node's own Patroni configuration: from PostgreSQL's Patroni would remove it. Raises `TimeoutError`.
    """
    for name, delay in milliseconds.items():
        node = int(name.rpartition("-")[2])
        path = subject.directory.node(SHARD, node) / "patroni.yml"
        config = yaml.safe_load(path.read_text())
        config["postgresql"]["recovery_conf"] = {PARAMETER: f"{delay}ms"}
        write_private(path, yaml.safe_dump(config, sort_keys=False))
        _patroni(subject, node, "POST", "/reload", {})
    deadline = time.monotonic() + IN_FORCE_SECONDS
    while delays(subject, list(milliseconds)) != list(milliseconds.values()):
        if time.monotonic() > deadline:
            raise TimeoutError(f"the delays of the followers were not in force within {IN_FORCE_SECONDS:g} s")
        time.sleep(0.2)


def delays(subject: Subject, names: Sequence[str]) -> list[int]:
    """The delays of followers that are in force, in milliseconds. Raises `psycopg.Error`."""
    ports = {row["name"]: row["port"] for row in subject.rows("postgres", SHARD)}
    found = []
    for name in names:
        with _superuser(subject, ports[name]) as conn:
            found.append(conn.execute(DELAY).fetchall()[0][0])
    return found


def followers(subject: Subject) -> list[str]:
    """Names of the processes of all servers but the primary's."""
    primary = subject.primary(SHARD)["name"]
    return [row["name"] for row in subject.rows("postgres", SHARD) if row["name"] != primary]


def set_quorum(subject: Subject, quorum: int) -> float:
    """So many followers must confirm a commit; returns the seconds until that was in force. Raises `TimeoutError`."""
    started = time.monotonic()
    changes = {"synchronous_mode": "quorum", "synchronous_node_count": quorum} if quorum else {"synchronous_mode": False}
    _patroni(subject, 1, "PATCH", "/config", changes)
    members = len(followers(subject))
    with _primary(subject) as conn:
        while not _in_force(conn, quorum, members):
            if time.monotonic() - started > IN_FORCE_SECONDS:
                raise TimeoutError(f"a quorum of {quorum} was not in force within {IN_FORCE_SECONDS:g} s")
            time.sleep(0.1)
    return time.monotonic() - started


def _in_force(conn: psycopg.Connection[Any], quorum: int, members: int) -> bool:
    names, confirming = conn.execute(IN_FORCE).fetchall()[0]
    if not quorum:
        return bool(names == "")
    asked = re.match(r"ANY (\d+) \(", names)
    return bool(asked and int(asked[1]) == quorum and confirming == members)


def _patroni(subject: Subject, node: int, method: str, path: str, body: Mapping[str, Any]) -> None:
    """Ask the Patroni of a node (from 1). Raises `RuntimeError`, `OSError`."""
    url = urlsplit(subject.shards[SHARD]["nodes"][node - 1]["patroni"])
    login = f"{subject.env['TALLY_PATRONI_USER']}:{subject.env['TALLY_PATRONI_PASSWORD']}"
    headers = {"Authorization": "Basic " + base64.b64encode(login.encode()).decode(), "Content-Type": "application/json"}
    connection = http.client.HTTPConnection(url.netloc, timeout=10)
    try:
        connection.request(method, path, json.dumps(body), headers)
        answer = connection.getresponse()
        if answer.status not in (200, 202):
            raise RuntimeError(f"Patroni answers {answer.status}: {answer.read().decode(errors='replace')}")
    finally:
        connection.close()
