"""The contract: every call answers as the schema says, for any input. The documentation pages are complete."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import urljoin, urlsplit

import httpx
import msgspec
import pytest

from tests.support.cluster import Cluster
from tests.support.commands import ROOT

CALLS = {
    ("get", "/livez"),
    ("get", "/readyz"),
    ("get", "/health"),
    ("get", "/v1/counters"),
    ("get", "/v1/counters/{key}"),
    ("put", "/v1/counters/{key}"),
    ("delete", "/v1/counters/{key}"),
    ("post", "/v1/counters/{key}/increments"),
    ("post", "/v1/increments"),
    ("get", "/v1/writes/{write_id}"),
    ("get", "/v1/likes/{type}/{item}/users/{user}"),
    ("put", "/v1/likes/{type}/{item}/users/{user}"),
    ("delete", "/v1/likes/{type}/{item}/users/{user}"),
    ("get", "/v1/likes/{type}/{item}/users"),
    ("get", "/v1/likes/{type}/{item}"),
    ("get", "/v1/likes/{type}"),
    ("get", "/v1/likes/users/{user}"),
    ("delete", "/v1/likes/users/{user}"),
    ("get", "/v1/removals/{id}"),
    ("post", "/v1/likes"),
    ("get", "/v1/shards"),
    ("get", "/v1/shards/quorum"),
    ("get", "/v1/shards/{shard}/quorum"),
    ("get", "/v1/shards/{shard}/replicas"),
    ("get", "/v1/shards/{shard}/replicas/{node}/counters"),
    ("get", "/v1/shards/{shard}/digest"),
}
# Not to be called at random: see test_write_quorum and test_switchover. Their entries in schemathesis.toml say so too.
STEERING = {
    ("put", "/v1/shards/quorum"),
    ("put", "/v1/shards/{shard}/quorum"),
    ("post", "/v1/shards/{shard}/switchover"),
    ("post", "/v1/shards/{shard}/failover"),
    ("post", "/v1/shards/{shard}/replicas/{node}/rejoin"),
    ("post", "/v1/shards/{shard}/replicas/{node}/reinitialise"),
    ("put", "/v1/shards/{shard}/replicas/{node}/delay"),
}
PHASES = ("Examples", "Coverage", "Fuzzing", "Stateful")


@pytest.mark.timeout(360)
def test_every_call_answers_as_documented(cluster: Cluster, tmp_path: Path) -> None:
    """All checks of schemathesis over the schema that nginx serves: examples, the edges of every rule, random data, and
    sequences.

    Its command rather than its pytest plugin: only the command has all four phases. One process has them one after the
    other: a second one would spend a third more processor time, to load schemathesis and to read the schema again.
    """
    command = [
        *(
            str(Path(sys.executable).with_name("schemathesis")),
            "--config-file",
            str(ROOT / "tests" / "cluster" / "contract" / "schemathesis.toml"),
        ),
        *("run", f"{cluster.url}/v1/schema", "--header", f"Authorization: Api-Key {cluster.key}", "--no-color"),
        *("--phases", ",".join(PHASES).lower()),
    ]
    environment = os.environ | {"SCHEMATHESIS_HOOKS": "tests.cluster.contract.hooks", "PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert f"Tested: {len(CALLS)}" in done.stdout, done.stdout
    assert tuple(re.findall(r"✅ +(\w+) \(in ", done.stdout)) == PHASES, done.stdout
    assert done.stdout.count(f"✅ {len(CALLS)} passed") == 2, "every call had its edges, and random data"


def test_the_schema_has_every_call(client: httpx.Client) -> None:
    document = msgspec.json.decode(client.get("/v1/schema", headers={"Accept": "application/json"}).content)
    assert {(method, path) for path, calls in document["paths"].items() for method in calls} == CALLS | STEERING


def test_the_schema_is_valid_and_made_without_a_warning(cluster: Cluster, tmp_path: Path) -> None:
    done = cluster.manage(
        "spectacular", "--validate", "--fail-on-warn", "--file", str(tmp_path / "schema.yaml"), check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr


class Assets(HTMLParser):
    """Addresses that a page loads by itself."""

    def __init__(self) -> None:
        super().__init__()
        self.addresses: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        names = dict(attrs)
        address = names.get("href") if tag == "link" else names.get("src")
        if address and not address.startswith("data:"):
            self.addresses.append(address)


def test_the_documentation_needs_nobody_else(client: httpx.Client, cluster: Cluster) -> None:
    """/v1/docs loads what it needs from this server, and all of it is there."""
    page = client.get("/v1/docs", headers={"Accept": "text/html"})
    assert page.status_code == 200
    assets = Assets()
    assets.feed(page.text)
    assert any(address.endswith(".js") for address in assets.addresses)
    assert any(address.endswith(".css") for address in assets.addresses)
    assert "https://" not in page.text, "nor does a script of the page itself fetch from elsewhere"
    for address in assets.addresses:
        absolute = urljoin(f"{cluster.url}/v1/docs", address)
        assert urlsplit(absolute).netloc == urlsplit(cluster.url).netloc, absolute
        assert client.get(absolute).status_code == 200, absolute
