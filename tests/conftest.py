"""Fixtures: the cluster of the run, a client with a key of every scope, keys of a test's own."""

from __future__ import annotations

import logging
import os
import subprocess
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from io import StringIO
from pathlib import Path
from typing import Any
from uuid import uuid4

import httpx
import psutil
import psycopg
import pytest
from django.core.management import call_command
from django.db import close_old_connections

from cluster import processes, state
from cluster.layout import Directory
from replication import flush
from sharding import databases
from tests.browser import Browser
from tests.cluster_plugin import MANAGE, ROOT, clean, directory, read_env

logging.getLogger("httpx").setLevel(logging.WARNING)


@dataclass
class Cluster:
    """The running cluster: where it listens, its API key, its settings, and commands on it."""

    dir: Path
    url: str = ""
    key: str = ""
    env: dict[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.url = self.status()["url"]
        self.key = (self.dir / "api-key").read_text().strip()
        self.env = read_env(self.dir)

    def status(self) -> dict[str, Any]:
        """What `cluster status --json` prints (test_cluster_status.py compares them) but for lanes, without starting the command."""
        return state.current(Directory(self.dir)).public({})

    def processes(self, role: str, shard: int | None = None) -> list[dict[str, Any]]:
        """Processes of a role."""
        found = self.status()["processes"]
        return [one for one in found if one["role"] == role and (shard is None or one["shard"] == shard)]

    def all_running(self, role: str | None = None) -> bool:
        """Whether all processes (of a role) are up: so says the supervisor, and each pid lives, as it takes a moment to see an end."""
        rows = [row for row in state.current(Directory(self.dir)).processes if role in (None, row["role"])]
        return all(row["state"] == "running" and processes.known(row) for row in rows)

    def manage(self, *args: str, check: bool = True, **options: Any) -> subprocess.CompletedProcess[str]:
        """Run `manage.py`."""
        env = {**os.environ, **self.env, "TALLY_ENV_FILE": str(self.dir / "env")}
        return subprocess.run([*MANAGE, *args], cwd=ROOT, env=env, check=check, capture_output=True, text=True, **options)

    def command(self, name: str, *args: str) -> str:
        """What a management command says, run in this process, which has the settings of the cluster; `manage` tests the command line."""
        said = StringIO()
        call_command(name, *args, stdout=said)
        return said.getvalue().strip()

    def make_key(self, scope: str) -> str:
        """A new API key, known to every API process: each looks for a key it does not know twice a second at most."""
        key = self.command("make_key", f"of a test, {scope}", "--scope", scope)
        addresses = [f"http://127.0.0.1:{api['port']}/v1/counters/test" for api in self.processes("api")]
        headers = {"Authorization": f"Api-Key {key}"}
        eventually(lambda: all(httpx.get(address, headers=headers).status_code != 401 for address in addresses))
        return key

    def client(self, key: str | None = None, **options: Any) -> httpx.Client:
        """An HTTP client with an API key (the cluster's own by default; "" for none)."""
        key = self.key if key is None else key
        headers = {"Authorization": f"Api-Key {key}"} if key else {}
        return httpx.Client(base_url=self.url, headers=headers, timeout=60, **options)

    def wait_until_whole(self, seconds: float = 90) -> None:
        """Wait until every component is up, as every fault test leaves it to the next."""
        with self.client() as client:
            eventually(lambda: client.get("/health").json()["status"] == "ok" and all(map(is_streaming, (0, 1))), seconds)


def is_streaming(shard: int) -> bool:
    """Whether a shard's replica follows its primary."""
    try:
        with databases.connect(databases.primary(shard), autocommit=True) as conn:
            return flush.flushed(conn, 1) is not None
    except psycopg.OperationalError:
        return False


def eventually(condition: Callable[[], Any], seconds: float = 30, pause: float = 0.1) -> Any:
    """What `condition` gives, once it is true; fails if that takes longer."""
    deadline = time.monotonic() + seconds
    last: Exception | None = None
    while time.monotonic() < deadline:
        try:
            if found := condition():
                return found
        except (httpx.HTTPError, psutil.Error, ValueError, KeyError, AssertionError) as error:
            last = error
        time.sleep(pause)
    raise AssertionError(f"not true within {seconds} s: {condition} {last or ''}")


@pytest.fixture(scope="session")
def cluster(django_db_blocker: Any) -> Iterator[Cluster]:
    """The cluster of this run; code under test may use its databases from this process, too."""
    with django_db_blocker.unblock():
        yield Cluster(directory())


@pytest.fixture(scope="session")
def put_away() -> Iterator[Callable[[Path], None]]:
    """Destroys a cluster of a module's own while the tests of other modules go on; the run ends when all are gone."""
    running: list[subprocess.Popen[bytes]] = []

    def put_away(directory: Path) -> None:
        command = [*MANAGE, "cluster", "destroy", "--yes", "--dir", str(directory)]
        running.append(subprocess.Popen(command, cwd=ROOT, env=clean(), stdout=subprocess.DEVNULL))

    yield put_away
    assert [one.wait(180) for one in running] == [0] * len(running)


@pytest.fixture(autouse=True)
def checked_connections() -> None:
    """Django's connection of this process is looked at before it is used, as in each request: a test may have killed its server."""
    close_old_connections()


@pytest.fixture(scope="session")
def client(cluster: Cluster) -> Iterator[httpx.Client]:
    """A client with every scope."""
    with cluster.client() as client:
        yield client


@pytest.fixture
def key() -> str:
    """A counter's key that no other test uses."""
    return f"test:{uuid4().hex}"


@pytest.fixture(scope="module")
def browse(cluster: Cluster) -> Iterator[Callable[..., Browser]]:
    """Makes browsers: of a superuser, or of staff who have certain permissions. Each comes from an address of its own."""
    from django.contrib.auth import models  # noqa: PLC0415 - Django is not set up when this file is read

    opened: list[Browser] = []
    port = cluster.processes("api")[0]["port"]
    users: list[models.User] = []

    def browse(*permissions: str, superuser: bool = False, log_in: bool = True) -> Browser:
        # Straight to an API process, where X-Real-IP is the test's to give: so one test's log-ins do not count for another.
        last = uuid4().bytes
        headers = {"X-Real-IP": f"10.{last[0]}.{last[1]}.{last[2]}", "Host": cluster.url.removeprefix("http://")}
        browser = Browser(base_url=f"http://127.0.0.1:{port}", headers=headers, timeout=60, follow_redirects=True)
        opened.append(browser)
        if log_in:
            user = models.User.objects.create_user(f"u{uuid4().hex}", is_staff=True, is_superuser=superuser)
            user.user_permissions.set(models.Permission.objects.filter(codename__in=permissions))
            users.append(user)
            browser.resume(user)
        return browser

    yield browse
    for browser in opened:
        browser.close()
    for user in users:
        user.delete()


@pytest.fixture(scope="module")
def root(browse: Callable[..., Browser]) -> Browser:
    return browse(superuser=True)


def value_of(client: httpx.Client, key: str) -> int:
    """A counter's value on its primary."""
    answer = client.get(f"/v1/counters/{key}", params={"consistency": "primary"})
    assert answer.status_code == 200, answer.text
    value: int = answer.json()["value"]
    return value
