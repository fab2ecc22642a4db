"""TLS to PostgreSQL and Valkey in production: what is written for them, and who takes which certificate. The programs of the
wheels have no TLS, so no server runs here; docs/deployment.md says what was run."""

from __future__ import annotations

import os
import socket
import ssl
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from pydantic import SecretStr
from redis.connection import Connection, SSLConnection

from cluster import alive, configs, container
from cluster.configs import Member, Tls
from runtime import redis
from tests.support.commands import ROOT, clean

SECRETS = dict.fromkeys(("postgres", "replication", "rewind", "patroni"), "secret")
FILES = Tls(Path("/cert"), Path("/key"), Path("/authority"))


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    home = tmp_path_factory.mktemp("secrets")
    subprocess.run([ROOT / "deploy" / "make-secrets", home], check=True, env={**os.environ, "DOMAIN": "tally.svc"})
    return home


@pytest.mark.parametrize(
    ("name", "purpose", "takes"),
    [
        ("etcd", "sslclient", True),
        ("postgres", "sslserver", True),
        ("postgres", "sslclient", False),
        ("valkey", "sslserver", True),
        ("valkey", "sslclient", False),
        ("tls", "sslclient", False),
    ],
)
def test_only_its_own_certificate_opens_etcd(made: Path, name: str, purpose: str, takes: bool) -> None:
    done = subprocess.run(
        [
            "openssl",
            "verify",
            "-x509_strict",
            "-purpose",
            purpose,
            "-CAfile",
            made / "authority",
            made / f"{name}-cert",
        ],
        capture_output=True,
        check=False,
    )
    assert (done.returncode == 0) == takes


def test_etcds_certificate_has_the_names_of_pods(made: Path) -> None:
    command = ["openssl", "x509", "-in", str(made / "etcd-cert"), "-noout", "-checkhost", "etcd-1.etcd.tally.svc"]
    assert "does match" in subprocess.run(command, capture_output=True, text=True, check=True).stdout


def member(tls: Tls | None) -> dict[str, Any]:
    where = ("0.0.0.0:5432", "db:5432")
    home, bin_dir = Path("/d"), Path("/b")
    found = Member(
        *(0, 1),
        home=home,
        bin_dir=bin_dir,
        postgres=where,
        rest=where,
        etcd={},
        network="all",
        shared_buffers="1GB",
        tls=tls,
    )
    postgresql: dict[str, Any] = configs.patroni_of(found, SECRETS)["postgresql"]
    return postgresql


def test_with_tls_nobody_connects_to_postgres_without_it() -> None:
    found = member(FILES)
    assert found["parameters"]["ssl"] == "on"
    assert {rule.split()[3]: rule.split()[0] for rule in found["pg_hba"]} == {"127.0.0.1/32": "host", "all": "hostssl"}
    for name in ("replication", "rewind"):
        login = found["authentication"][name]
        assert (login["sslmode"], login["sslrootcert"]) == ("verify-ca", "/authority")


def test_without_tls_postgres_asks_for_none() -> None:
    found = member(None)
    assert not {"ssl", "ssl_cert_file"} & found["parameters"].keys()
    assert {rule.split()[0] for rule in found["pg_hba"]} == {"host"}
    assert "sslmode" not in found["authentication"]["replication"]


@pytest.mark.parametrize(("setting", "mode"), [("require", "verify-ca"), ("", None)])
def test_tallys_processes_verify_postgres(monkeypatch: pytest.MonkeyPatch, setting: str, mode: str | None) -> None:
    monkeypatch.setattr(os, "environ", {"TLS": setting})
    container.application(())
    assert os.environ.get("PGSSLMODE") == mode


@pytest.mark.parametrize("kind", ["journal", "sentinel"])
def test_the_journal_and_its_sentinels_speak_tls_alone(tmp_path: Path, kind: str) -> None:
    settings = {
        "PRIMARY": "10.0.0.5:6379",
        "SENTINELS": "10.0.0.5:26379",
        f"{kind.upper()}_ADDRESS": "10.0.0.5:1234",
        f"{kind.upper()}_DIRECTORY": str(tmp_path),
        "JOURNAL_PASSWORD": "a",
        "SENTINEL_PASSWORD": "b",
        "VALKEY": "true",
        "PYTHON": "true",
    }
    files = {"TLS_AUTHORITY": "/authority", "TLS_CERTIFICATE": "/cert", "TLS_KEY": "/key"}
    subprocess.run([ROOT / "deploy" / "journal" / "start", kind], check=True, env=clean(**settings, **files))
    text = (tmp_path / f"{kind}.conf").read_text()
    assert text.endswith(configs.redis_tls(1234, FILES))


@pytest.mark.parametrize(
    ("url", "kind"),
    [
        ("rediss://:p@journal:6379/0?ssl_ca_certs=/authority&ssl_check_hostname=false", SSLConnection),
        ("redis://:p@journal:6379/0", Connection),
    ],
)
def test_the_sentinels_are_asked_as_the_journal_is(monkeypatch: pytest.MonkeyPatch, url: str, kind: type) -> None:
    tally = SimpleNamespace(
        journal_sentinels=["a:1", "b:1"], journal_sentinel_password=SecretStr("p"), journal_url=SecretStr(url)
    )
    monkeypatch.setattr(redis, "settings", SimpleNamespace(TALLY=tally))
    pools = [sentinel.connection_pool for sentinel in redis.sentinels().sentinels]
    assert [pool.connection_class for pool in pools] == [kind] * 2
    assert all(
        pool.connection_kwargs.get("ssl_ca_certs") == ("/authority" if kind is SSLConnection else None)
        for pool in pools
    )


@pytest.fixture
def answering(made: Path) -> Iterator[int]:
    """A port on which somebody with Valkey's certificate answers PONG."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(made / "valkey-cert", made / "valkey-key")
    with socket.create_server(("127.0.0.1", 0)) as server:

        def answer() -> None:
            try:
                with context.wrap_socket(server.accept()[0], server_side=True) as connection:
                    connection.recv(4096)
                    connection.sendall(b"+OK\r\n+PONG\r\n")
                    connection.unwrap()
            except OSError:
                pass  # who connects without TLS

        thread = threading.Thread(target=answer, daemon=True)
        thread.start()
        yield server.getsockname()[1]
        thread.join(10)


@pytest.mark.parametrize(("scheme", "status"), [("rediss", 0), ("redis", 1)])
def test_a_health_check_speaks_tls(answering: int, scheme: str, status: int) -> None:
    assert alive.main(f"{scheme}://127.0.0.1:{answering}") == status
