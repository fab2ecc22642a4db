"""One cluster for three modules: a shard with two followers, a journal with a copy and, where it is installed, Prometheus."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.support.cluster import Cluster
from tests.support.commands import up

FOLLOWERS = 2
DELAYS = (150, 250)  # ms: more than a write takes
SETTINGS = {"TALLY_JOURNAL_ONE_COPY": "true"}


@pytest.fixture(scope="session")
def followed(tmp_path_factory: pytest.TempPathFactory, put_away: Callable[[Path], None]) -> Iterator[Cluster]:
    """It is new for test_journal_copies, whose name comes first."""
    directory = tmp_path_factory.mktemp("followed")
    options = ("--shards", "1", "--replicas", str(FOLLOWERS), "--journal-replicas", "1", "--api", "1", "--port", "0")
    monitoring = ["--monitoring"] if shutil.which("prometheus") else []
    try:
        up(
            directory,
            *options,
            "--quorum",
            "2",
            "--apply-delay",
            f"{DELAYS[0]}ms..{DELAYS[1]}ms",
            *monitoring,
            **SETTINGS,
        )
        cluster = Cluster(directory)
        said = cluster.manage("quorum").stdout.splitlines()
        assert said == ["shard 0: quorum 2, in force: 2 confirm, 2 follow"]
        cluster.manage("quorum", "0", "--shard", "0", "--reason", "the tests begin")
        yield cluster
    finally:
        put_away(directory)
