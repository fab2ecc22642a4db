"""Settings: read from the environment, each documented, and a bad value stops the start with a sentence."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from pydantic import SecretStr

from counter_project.config import PREFIX, Config, ConfigError, load
from tests.support.commands import ROOT
from tests.support.settings import LEAST, SECRET

SECRETS = [field for field, info in Config.model_fields.items() if info.annotation is SecretStr]


@pytest.fixture
def environ(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    """An environment with nothing but what must be there."""
    for name in os.environ:
        if name.startswith(PREFIX):
            monkeypatch.delenv(name)
    for name, value in LEAST.items():
        monkeypatch.setenv(name, value)
    return monkeypatch


def test_the_least_that_must_be_there(environ: pytest.MonkeyPatch) -> None:
    config = load()
    assert config.shard_count == 2
    assert config.database_name == "tally"
    assert config.journal_url.get_secret_value() == "redis://journal/0"
    assert [config.replicas_required_of(shard) for shard in (0, 1)] == [1, 0]


@pytest.mark.parametrize("name", LEAST)
def test_what_is_missing_is_named(environ: pytest.MonkeyPatch, name: str) -> None:
    environ.delenv(name)
    with pytest.raises(ConfigError, match=rf"{name}: Field required"):
        load()


BAD = [
    ("TALLY_SECRET_KEY", "short", "at least 32 characters"),
    ("TALLY_DEBUG", "perhaps", "boolean"),
    ("TALLY_ALLOWED_HOSTS", "a,b", "no JSON"),
    ("TALLY_SHARDS", "[", "no JSON"),
    ("TALLY_SHARDS", "[]", "at least 1 item"),
    ("TALLY_SHARDS", '[{"nodes": []}]', "at least 1 item"),
    ("TALLY_SHARDS", '[{"nodes": [{"host": "a"}]}]', r"\['port'\]: Field required"),
    ("TALLY_SHARDS", '[{"nodes": [{"host": "a", "port": 65536}]}]', "less than or equal to 65535"),
    ("TALLY_SHARDS", json.dumps([{"nodes": [{"host": "a", "port": 1}]}] * 65), "at most 64 items"),
    ("TALLY_NODE_ID", "a node", "should match pattern"),
    ("TALLY_NODE_ID", "node\n", "should match pattern"),
    ("TALLY_REPLICA_STRATEGY", "nearest", "'random', 'least_lag' or 'round_robin'"),
    ("TALLY_DATABASE_POOL_SIZE", "0", "greater than or equal to 1"),
    ("TALLY_DATABASE_POOL_SIZE", "11", "less than or equal to 10"),
    ("TALLY_DATABASE_POOL_SIZE", "ten", "integer"),
    ("TALLY_DATABASE_TIMEOUT_SECONDS", "0", "greater than 0"),
    ("TALLY_REPLICAS_REQUIRED", "-1", "greater than or equal to 0"),
    ("TALLY_JOURNAL_URL", "", "at least 1"),
    ("TALLY_JOURNAL_SENTINELS", '["sentinel"]', "'sentinel' is not host:port"),
    ("TALLY_MAX_WAIT_SECONDS", "inf", "less than"),
    ("TALLY_MAX_WAIT_SECONDS", "nan", ""),
    ("TALLY_WINDOW_SECONDS", "11", "less than or equal to 10"),
    ("TALLY_RETENTION_DAYS", "0.5", "integer"),
    ("TALLY_MAX_BODY_BYTES", "16 MiB", "integer"),
    ("TALLY_ANONYMOUS_RATE", "0", "greater than or equal to 1"),
    ("TALLY_PAGES_RATE", "100 a minute", "should match pattern"),
    ("TALLY_TRUSTED_PROXIES", '["10.0.0.1/8"]', "has host bits set"),
    ("TALLY_METRICS_PORT", "70000", "less than or equal to 65535"),
    ("TALLY_LOG_LEVEL", "verbose", "DEBUG|INFO|WARNING|ERROR"),
    ("TALLY_LOG_FORMAT", "xml", "json|console"),
]


@pytest.mark.parametrize(("name", "value", "rule"), BAD, ids=[f"{name}={value[:30]}" for name, value, _ in BAD])
def test_a_bad_value_is_named_with_its_rule(environ: pytest.MonkeyPatch, name: str, value: str, rule: str) -> None:
    environ.setenv(name, value)
    with pytest.raises(ConfigError, match=rf"{name}\b.*{rule}"):
        load()


def test_all_bad_values_are_named_at_once_and_none_is_shown(environ: pytest.MonkeyPatch) -> None:
    environ.setenv("TALLY_SECRET_KEY", "hunter2")
    environ.setenv("TALLY_LOG_LEVEL", "loud")
    environ.delenv("TALLY_CACHE_URL")
    with pytest.raises(ConfigError) as error:
        load()
    assert "TALLY_LOG_LEVEL" in str(error.value)
    assert "TALLY_CACHE_URL" in str(error.value)
    assert "hunter2" not in str(error.value)


@pytest.mark.parametrize("field", SECRETS)
def test_a_secret_may_stand_in_a_file(environ: pytest.MonkeyPatch, tmp_path: Path, field: str) -> None:
    name = PREFIX + field.upper()
    environ.delenv(name, raising=False)
    environ.setenv(f"{name}_FILE", str(tmp_path / "secret"))
    (tmp_path / "secret").write_text(f"{SECRET}-of-{field}\n")
    assert getattr(load(), field).get_secret_value() == f"{SECRET}-of-{field}"
    assert name not in os.environ, "processes that this one starts do not inherit it"


def test_what_the_environment_gives_itself_comes_first(environ: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "secret").write_text("from-the-file")
    environ.setenv("TALLY_DATABASE_PASSWORD_FILE", str(tmp_path / "secret"))
    assert load().database_password.get_secret_value() == "swordfish"


@pytest.mark.parametrize("content", [None, b"\xff\xfe"])
def test_an_unreadable_secret_is_named(environ: pytest.MonkeyPatch, tmp_path: Path, content: bytes | None) -> None:
    path = tmp_path / "secret"
    if content is not None:
        path.write_bytes(content)
    environ.delenv("TALLY_SECRET_KEY")
    environ.setenv("TALLY_SECRET_KEY_FILE", str(path))
    with pytest.raises(ConfigError, match=f"TALLY_SECRET_KEY_FILE: cannot read {path}"):
        load()


def test_a_bad_secret_in_a_file_is_named_and_not_shown(environ: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "secret").write_text("hunter2")
    environ.delenv("TALLY_SECRET_KEY")
    environ.setenv("TALLY_SECRET_KEY_FILE", str(tmp_path / "secret"))
    with pytest.raises(ConfigError, match="TALLY_SECRET_KEY must have at least 32 characters") as error:
        load()
    assert "hunter2" not in str(error.value)


def test_the_file_of_the_local_cluster_is_no_secret(environ: pytest.MonkeyPatch) -> None:
    """`TALLY_ENV_FILE` is manage.py's, and no setting."""
    environ.setenv("TALLY_ENV_FILE", "/nowhere")
    assert load().shard_count == 2
    assert "TALLY_ENV" not in os.environ


def test_secrets_are_not_printed(environ: pytest.MonkeyPatch) -> None:
    shown = repr(load())
    assert SECRET not in shown
    assert "swordfish" not in shown
    assert "redis://" not in shown


@pytest.mark.parametrize("field", Config.model_fields)
def test_every_setting_is_described(field: str) -> None:
    description = Config.model_fields[field].description
    assert description
    assert description.endswith(".")


def test_a_command_stops_with_the_sentence() -> None:
    """No traceback: `manage.py` says what is wrong and exits with 1."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith(PREFIX)}
    command = [sys.executable, str(ROOT / "manage.py"), "check"]
    done = subprocess.run(
        command,
        cwd=ROOT,
        env={**environment, **LEAST, "TALLY_ENV_FILE": "/nowhere", "TALLY_LOG_LEVEL": "loud"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 1
    assert "TALLY_LOG_LEVEL" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize(
    ("host", "name"), [("app-7", "app-7"), ("büro pc", "bropc"), ("x" * 200, "x" * 100), ("é", "local")]
)
def test_a_process_is_called_as_its_host_unless_told_otherwise(
    environ: pytest.MonkeyPatch, host: str, name: str
) -> None:
    environ.setattr("socket.gethostname", lambda: host)
    assert load().node_id == name
    environ.setenv("TALLY_NODE_ID", "api-1")
    assert load().node_id == "api-1"
