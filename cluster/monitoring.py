"""Prometheus and Grafana of `cluster up --monitoring`: their files and their commands.

Rules, data source and dashboards are those of the package `monitoring`, read from its files. Both programs listen on
127.0.0.1, where every user of the machine can connect, so both ask for a password.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from .layout import MONITORING_USER, PROJECT, Directory, write_private
from .redis import LOCAL

HOME = PROJECT / "monitoring"
RULES = ("prometheus.yml", "alerts.yml")
WEB = "web.yml"
PROVISIONING = HOME / "grafana"
KEPT_TIME, KEPT_SIZE = "15d", "1GB"  # of series; what comes first
NO_ORIGIN = "none"  # whose pages may read Prometheus' answers; by default it lets those of every site
BCRYPT_ROUNDS = 4  # the fewest: the password is random, and nobody can guess it


def write_prometheus(directory: Directory, secrets: Mapping[str, str]) -> None:
    """What Prometheus starts with, but for the targets, which the supervisor writes."""
    for name in RULES:
        write_private(directory.monitoring / name, (HOME / name).read_text())
    write_private(directory.monitoring / "metrics-token", secrets["metrics"] + "\n")
    write_private(directory.monitoring / WEB, web_config(secrets["prometheus"]))
    directory["prometheus"].mkdir(exist_ok=True, mode=0o700)


def web_config(password: str) -> str:
    """The file by which Prometheus knows its user; it takes bcrypt alone."""
    import bcrypt

    hashed = bcrypt.hashpw(password.encode(), bcrypt.gensalt(BCRYPT_ROUNDS)).decode()
    return f"basic_auth_users:\n  {MONITORING_USER}: {hashed}\n"


def prometheus(program: Path, directory: Directory, port: int) -> tuple[str, ...]:
    """Its command. It keeps exemplars, and answers this machine alone."""
    return (
        *(str(program), f"--config.file={directory.monitoring / RULES[0]}"),
        *(f"--web.config.file={directory.monitoring / WEB}", f"--web.cors.origin={NO_ORIGIN}"),
        f"--web.listen-address={LOCAL}:{port}",
        *(f"--storage.tsdb.path={directory['prometheus']}", "--enable-feature=exemplar-storage"),
        *(f"--storage.tsdb.retention.time={KEPT_TIME}", f"--storage.tsdb.retention.size={KEPT_SIZE}"),
        "--log.level=warn",
    )


def grafana(program: Path, directory: Directory) -> tuple[str, ...]:
    """Its command. `grafana-server` is what `grafana server` was called before Grafana 10."""
    verb = () if program.name == "grafana-server" else ("server",)
    home = _home_of_grafana(program)
    files = (f"--config={directory['grafana'] / 'grafana.ini'}", *([f"--homepath={home}"] if home else []))
    return (str(program), *verb, *files)


def _home_of_grafana(program: Path) -> Path | None:
    """Where the files are that come with it: of its archive, of Homebrew, of Debian's package. None: it knows itself."""
    above = program.resolve().parent.parent
    homes = (above, above / "share/grafana", Path("/usr/share/grafana"))
    return next((home for home in homes if (home / "conf/defaults.ini").is_file()), None)


def write_grafana(directory: Directory, ports: Mapping[str, int], secrets: Mapping[str, str]) -> None:
    """What Grafana starts with. It takes its own password at the first start alone."""
    home = directory["grafana"]
    for name in ("", "provisioning", "provisioning/datasources", "provisioning/dashboards"):
        (home / name).mkdir(exist_ok=True, mode=0o700)
    write_private(home / "grafana.ini", grafana_ini(home, ports["grafana"], secrets["grafana"]))
    source = {
        "url": f"http://{LOCAL}:{ports['prometheus']}",
        "basicAuth": True,
        "basicAuthUser": MONITORING_USER,
        "secureJsonData": {"basicAuthPassword": secrets["prometheus"]},
    }
    folder = {"options": {"path": str(PROVISIONING / "dashboards")}}
    for name, kind, changes in (
        ("datasources/prometheus.yml", "datasources", source),
        ("dashboards/tally.yml", "providers", folder),
    ):
        write_private(home / "provisioning" / name, provisioned(PROVISIONING / name, kind, changes))


def grafana_ini(home: Path, port: int, password: str) -> str:
    """grafana.ini: this machine alone, log-in by password, and no call to grafana.com."""
    sections: dict[str, Mapping[str, object]] = {
        "paths": {
            "data": home / "data",
            "logs": home / "logs",
            "plugins": home / "plugins",
            "provisioning": home / "provisioning",
        },
        "server": {"protocol": "http", "http_addr": LOCAL, "http_port": port},
        "security": {"admin_user": MONITORING_USER, "admin_password": password},
        "users": {"allow_sign_up": "false"},
        "auth.anonymous": {"enabled": "false"},
        "analytics": {
            "reporting_enabled": "false",
            "check_for_updates": "false",
            "check_for_plugin_updates": "false",
        },
        "news": {"news_feed_enabled": "false"},
        "plugins": {"preinstall_disabled": "true"},
        "log": {"mode": "console", "level": "warn"},
    }
    return "\n".join(
        f"[{name}]\n" + "".join(f"{key} = {value}\n" for key, value in values.items())
        for name, values in sections.items()
    )


def provisioned(path: Path, kind: str, changes: Mapping[str, Any]) -> str:
    """A file that Grafana's container is provisioned with, its one entry of this kind changed for a cluster."""
    import yaml

    document = yaml.safe_load(path.read_text())
    (entry,) = document[kind]
    entry.update(changes)
    text: str = yaml.safe_dump(document, sort_keys=False)
    return text
