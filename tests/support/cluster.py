"""The running cluster of a test, and waiting for what it is to become."""

from __future__ import annotations

import os
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from io import StringIO
from pathlib import Path
from typing import Any

import httpx
import psutil
from django.core.management import call_command

from cluster import processes, state
from cluster.layout import Directory
from tests.support.cluster_plugin import NotWhole
from tests.support.commands import MANAGE, ROOT, read_env


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
        """What `cluster status --json` prints (test_cluster_status.py compares them) but for lanes, without starting
        the command."""
        return state.current(Directory(self.dir)).public({})

    def processes(self, role: str, shard: int | None = None) -> list[dict[str, Any]]:
        """Processes of a role."""
        found = self.status()["processes"]
        return [one for one in found if one["role"] == role and (shard is None or one["shard"] == shard)]

    def named(self, *names: str) -> list[dict[str, Any]]:
        """The processes of these names."""
        found = {row["name"]: row for row in self.status()["processes"]}
        return [found[name] for name in names]

    def all_running(self, role: str | None = None) -> bool:
        """Whether all processes (of a role) run: in the supervisor's state, and by pid, because the supervisor notices a death
        late."""
        rows = [row for row in state.current(Directory(self.dir)).processes if role in (None, row["role"])]
        return all(row["state"] == "running" and processes.known(row) for row in rows)

    def manage(self, *args: str, check: bool = True, **options: Any) -> subprocess.CompletedProcess[str]:
        """Run `manage.py`."""
        env = {**os.environ, **self.env, "TALLY_ENV_FILE": str(self.dir / "env")}
        return subprocess.run(
            [*MANAGE, *args], cwd=ROOT, env=env, check=check, capture_output=True, text=True, **options
        )

    def command(self, name: str, *args: str, check: bool = True) -> str:
        """What a management command says, run in this process, which has the settings of the cluster; `manage` tests
        the command line."""
        said, status = in_process(name, *args)
        if check and status:
            raise SystemExit(status)
        return said.strip()

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

    def metrics(self, process: dict[str, Any], *names: str) -> str:
        """What a process answers to a scraper: all of its metrics, or those of these names. Some ask every server."""
        headers = {"Authorization": f"Bearer {self.env['TALLY_METRICS_TOKEN']}"}
        address, params = f"http://127.0.0.1:{process['metrics_port']}/metrics", {"name[]": list(names)}
        answer = httpx.get(address, params=params, headers=headers, timeout=10)
        return answer.raise_for_status().text

    def from_address(self, address: str) -> dict[str, str]:
        """The headers by which nginx tells an API process a client's address."""
        return {"X-Real-IP": address, "X-Tally-Proxy": self.env["TALLY_PROXY_SECRET"]}

    def wait_until_whole(self, seconds: float = 90) -> None:
        """Wait until every process runs and every component is up. Raises `NotWhole`."""
        began = datetime.now(UTC).isoformat(timespec="milliseconds")  # earlier looks are shared for a while
        try:
            with self.client() as client:
                eventually(
                    lambda: (
                        self.all_running()
                        and (now := client.get("/health").json())["status"] == "ok"
                        and now["at"] > began
                    ),
                    seconds,
                )
        except AssertionError as error:
            raise NotWhole(f"{error}; {self.down()}") from error

    def down(self) -> str:
        """What is not up, for a message."""
        try:
            with self.client() as client:
                health = client.get("/health").text
        except httpx.HTTPError as error:
            health = repr(error)
        processes = {row["name"]: row["state"] for row in self.status()["processes"] if row["state"] != "running"}
        return f"health {health}, processes {processes}"


def eventually(condition: Callable[[], Any], seconds: float = 30, pause: float = 0.1) -> Any:
    """Return the first true value of `condition`. Fails after `seconds`."""
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


def in_process(name: str, *args: str) -> tuple[str, int]:
    """What a management command says, and its exit status, without a process of its own. Raises `CommandError`."""
    said, status = StringIO(), 0
    try:
        call_command(name, *args, stdout=said)
    except SystemExit as ended:
        status = int(ended.code or 0)
    return said.getvalue(), status


@contextmanager
def frozen(*rows: dict[str, Any]) -> Iterator[None]:
    """These processes of a cluster, and their children, stand still."""
    assert rows
    processes: list[psutil.Process] = []
    try:
        for row in rows:
            processes.append(parent := psutil.Process(row["pid"]))
            parent.suspend()  # from now on it has no new children
            for child in parent.children(recursive=True):
                processes.append(child)
                with suppress(psutil.NoSuchProcess):
                    child.suspend()
        yield
    finally:
        for process in reversed(processes):
            with suppress(psutil.NoSuchProcess):
                process.resume()


def value_of(client: httpx.Client, key: str) -> int:
    """A counter's value on its primary."""
    answer = client.get(f"/v1/counters/{key}", params={"consistency": "primary"})
    assert answer.status_code == 200, answer.text
    value: int = answer.json()["value"]
    return value


def wait_applied(client: httpx.Client, key: str, delta: int = 1) -> dict[str, object]:
    answer: dict[str, object] = (
        client.post(f"/v1/counters/{key}/increments", json={"delta": delta}, params={"wait": 30})
        .raise_for_status()
        .json()
    )
    return answer
