"""The cluster of a test run.

It is laid out before Django's settings are read, as they come from the environment. It is started when tests were
selected that need it: those that use the fixture `cluster`, themselves or through another fixture. Tests of other
clusters that come first take minutes, for which it would only take the processor: it is started when few of them are left.
`TALLY_TEST_CLUSTER=DIR` uses a cluster that runs already (`manage.py cluster up --dir DIR --detach`) and leaves it
alone.

Where the cluster is not whole and does not become so, the run ends: each of the tests to come would wait for it in
vain.
"""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import sys
import tempfile
from collections.abc import Generator, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import pytest

from cluster import prepare
from cluster.layout import Asked, Directory
from cluster.redis import LOCAL
from tests.support.commands import MANAGE, ROOT, clean, read_env

NEEDS_NO_SETTINGS = {"--help", "-h", "--version", "--markers", "--fixtures"}
OTHER_CLUSTERS = ROOT / "tests" / "faults" / "other_clusters"
WHILE_OTHERS = 2  # tests of other clusters, during which the cluster starts
_AWAITED = pytest.StashKey[pytest.Item | None]()
_SUSPECT = pytest.StashKey[bool]()  # a test of the cluster failed, and nobody has looked at the cluster since

_own: Path | None = None
_held: list[socket.socket] = []  # listeners on the cluster's ports: clusters that start meanwhile take others
_starting: subprocess.Popen[str] | None = None


class NotWhole(AssertionError):
    """A component of the run's cluster is down and stays down."""


def directory() -> Path:
    """The directory of the cluster of this run."""
    return Path(os.environ["TALLY_TEST_CLUSTER"])


def needs_cluster(item: pytest.Item) -> bool:
    """Whether a test uses the cluster of the run."""
    return "cluster" in getattr(item, "fixturenames", ())


def _lay_out() -> None:
    """Choose the cluster's directory, ports and passwords, and take its settings into the environment."""
    global _own  # noqa: PLW0603
    if "TALLY_TEST_CLUSTER" not in os.environ:
        _own = Path(tempfile.mkdtemp(prefix="tally-test-"))
        os.environ["TALLY_TEST_CLUSTER"] = str(_own)
        home = Directory(_own)
        home.prepare()
        plan = prepare.planner(home, Asked(port=0))
        _held.extend(socket.create_server((LOCAL, port)) for port in plan.layout.ports.values())
    os.environ["TALLY_TEST_CLUSTER"] = str(directory().resolve())  # for commands in other directories
    os.environ.update(read_env(directory()))


def awaited(items: Sequence[pytest.Item]) -> pytest.Item | None:
    """The test with which the cluster is to be started, so that it is ready when the first one needs it; None if none
    does."""
    first = next((number for number, item in enumerate(items) if needs_cluster(item)), None)
    if first is None:
        return None
    others = [item for item in items[:first] if OTHER_CLUSTERS in item.path.parents]
    return others[-WHILE_OTHERS] if len(others) > WHILE_OTHERS else items[0]


def _let_go() -> None:
    """Give the cluster's ports back."""
    while _held:
        _held.pop().close()


def pytest_collection_finish(session: pytest.Session) -> None:
    """Find out when the cluster is to be started."""
    session.config.stash[_AWAITED] = awaited(session.items)


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_protocol(item: pytest.Item) -> None:
    """Start the cluster; tests that do not need it run meanwhile."""
    global _starting  # noqa: PLW0603
    if _own and item is item.config.stash[_AWAITED]:
        _let_go()
        command = [*MANAGE, "cluster", "up", "--dir", str(_own), "--detach"]
        _starting = subprocess.Popen(
            command, cwd=ROOT, env=clean(), stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
        )


@cache
def wait_until_started() -> None:
    """Return when the cluster is ready. Ends the run where it does not start."""
    if _starting is None:
        return
    said, _ = _starting.communicate()
    if _starting.returncode:
        pytest.exit(f"the test cluster did not start; its logs are in {_own}/logs\n{said}", 1)
    if any(os.environ.get(name) != value for name, value in read_env(directory()).items()):
        pytest.exit("another program took a port of the test cluster before it was started: run the tests again", 1)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item, call: pytest.CallInfo[Any]
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Check the cluster after a failure, before the next test. End the run if the cluster is not whole."""
    report = yield
    if report.failed and needs_cluster(item):
        item.config.stash[_SUSPECT] = True
    if call.excinfo is not None and isinstance(call.excinfo.value, NotWhole):
        item.session.shouldfail = f"the cluster of the run is broken: {call.excinfo.value}"
    return report


@pytest.fixture(autouse=True)
def after_a_failure(request: pytest.FixtureRequest) -> None:
    """After a failed test, wait until the cluster is whole again. Raises `NotWhole`."""
    stash = request.config.stash
    if needs_cluster(request.node) and stash.get(_SUSPECT, False):
        request.getfixturevalue("cluster").wait_until_whole()
        stash[_SUSPECT] = False


def pytest_sessionfinish(session: pytest.Session, exitstatus: int) -> None:
    """Remember whether the logs are worth keeping."""
    session.config.stash[_FAILED] = exitstatus not in (0, 5)


_FAILED = pytest.StashKey[bool]()


def pytest_unconfigure(config: pytest.Config) -> None:
    """Stop what was started; keep the directory of a run that failed."""
    if _own is None:
        return
    if _starting is None:
        shutil.rmtree(_own)
        return
    _starting.wait()
    failed = config.stash.get(_FAILED, True)
    command = ["down"] if failed else ["destroy", "--yes"]
    subprocess.run([*MANAGE, "cluster", *command, "--dir", str(_own)], cwd=ROOT, check=False, stdout=subprocess.DEVNULL)
    if failed:
        print(f"logs of the test cluster: {_own}/logs")  # noqa: T201


if not NEEDS_NO_SETTINGS & set(sys.argv):
    _lay_out()
