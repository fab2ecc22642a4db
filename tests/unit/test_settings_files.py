"""Settings: any may stand in a file, and a name that is no setting stops the start."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from counter_project.config import PREFIX, Config, ConfigError, load
from tests.support.settings import LEAST

VALUES = {
    "shards": LEAST["TALLY_SHARDS"],
    "allowed_hosts": json.dumps(["tally.example"]),
    "database_user": "somebody",
    "max_wait_seconds": "12.5",
    "debug": "true",
    "metrics_port": "9100",
    "static_root": "/srv/static",
}


@pytest.fixture
def environ(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    """An environment with nothing but what must be there."""
    for name in os.environ:
        if name.startswith(PREFIX):
            monkeypatch.delenv(name)
    for name, value in LEAST.items():
        monkeypatch.setenv(name, value)
    return monkeypatch


@pytest.mark.parametrize("field", VALUES)
def test_any_setting_may_stand_in_a_file(environ: pytest.MonkeyPatch, tmp_path: Path, field: str) -> None:
    name = PREFIX + field.upper()
    environ.setenv(name, VALUES[field])
    expected = getattr(load(), field)
    environ.delenv(name)
    (tmp_path / "value").write_text(f"{VALUES[field]}\n")
    environ.setenv(f"{name}_FILE", str(tmp_path / "value"))
    assert getattr(load(), field) == expected
    assert expected != Config.model_fields[field].default


def test_a_bad_value_in_a_file_is_named(environ: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "value").write_text("[")
    environ.setenv("TALLY_ALLOWED_HOSTS_FILE", str(tmp_path / "value"))
    with pytest.raises(ConfigError, match="TALLY_ALLOWED_HOSTS: this is no JSON"):
        load()


@pytest.mark.parametrize(
    ("name", "meant"),
    [("TALLY_DATABSE_USER", "TALLY_DATABASE_USER"), ("TALLY_SECRETKEY_FILE", "TALLY_SECRET_KEY_FILE")],
)
def test_a_misspelt_name_stops_the_start(environ: pytest.MonkeyPatch, name: str, meant: str) -> None:
    environ.setenv(name, "swordfish")
    with pytest.raises(ConfigError, match=f"{name}: there is no such setting; {meant} is meant") as error:
        load()
    assert "swordfish" not in str(error.value)


def test_a_name_like_no_other_stops_the_start(environ: pytest.MonkeyPatch) -> None:
    environ.setenv("TALLY_XYZZY", "1")
    with pytest.raises(ConfigError, match="TALLY_XYZZY: there is no such setting"):
        load()


def test_names_of_others_may_be_there(environ: pytest.MonkeyPatch) -> None:
    """What tests, the local cluster and Kubernetes put into the environment."""
    for name, value in {
        "TALLY_ENV_FILE": "/nowhere",
        "TALLY_TEST_CLUSTER": "/tmp/x",
        "TALLY_CLUSTER_DIR": "/tmp/x",
        "TALLY_SERVICE_HOST": "10.0.0.1",
        "TALLY_SERVICE_PORT": "80",
        "TALLY_API_SERVICE_PORT_HTTP": "80",
        "TALLY_PORT": "tcp://10.0.0.1:80",
        "TALLY_PORT_80_TCP": "tcp://10.0.0.1:80",
        "TALLY_PORT_80_TCP_PROTO": "tcp",
    }.items():
        environ.setenv(name, value)
    assert load().shard_count == 2
