"""Fixtures: the cluster of the run, a client with a key of every scope, keys of a test's own."""

from __future__ import annotations

import logging
import subprocess
from collections.abc import Callable, Iterator
from functools import cache
from http.cookiejar import DefaultCookiePolicy
from pathlib import Path
from typing import Any
from uuid import uuid4

import httpx
import pytest
from django.db import close_old_connections
from httpx._config import create_ssl_context
from httpx._transports import default
from hypothesis import HealthCheck, settings

from runtime import garbage
from runtime.resources import Resources
from tests.support.browser import Browser
from tests.support.cluster import Cluster, eventually
from tests.support.cluster_plugin import directory, wait_until_started
from tests.support.commands import MANAGE, ROOT, clean
from tests.support.shards import is_read, make_asynchronous

# How long an example takes says something about the machine and what else it does, nothing about the code.
settings.register_profile("tally", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("tally")
logging.getLogger("httpx").setLevel(logging.WARNING)
# Every client, and every httpx.get, would load all certificates of the world into a TLS context of its own, for 20 ms.
vars(default)["create_ssl_context"] = cache(create_ssl_context)


def pytest_collection_finish() -> None:
    """Leave out of garbage collections what the imports have made."""
    garbage.begin()


@pytest.fixture(scope="session", autouse=True)
def resources() -> Iterator[None]:
    """What the code under test holds in this process."""
    with Resources():
        yield


@pytest.fixture(scope="session")
def cluster(django_db_blocker: Any) -> Iterator[Cluster]:
    """The cluster of this run; code under test may use its databases from this process, too."""
    wait_until_started()
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
    """Django's connection of this process is looked at before it is used, as in each request: a test may have killed
    its server."""
    close_old_connections()


@pytest.fixture(scope="session")
def client(cluster: Cluster) -> Iterator[httpx.Client]:
    """A client with every scope. It keeps no cookie that a page sets: with one, a view answers for the fast path."""
    with cluster.client() as client:
        client.cookies.jar.set_policy(DefaultCookiePolicy(allowed_domains=[]))
        yield client


def wait_until_whole(cluster: Cluster) -> None:
    """Until replicas are read, too: the breaker of one that was down may be open for some seconds more."""
    cluster.wait_until_whole()
    eventually(lambda: all(is_read(shard) for shard in (0, 1)))


@pytest.fixture(scope="module")
def found_whole(cluster: Cluster) -> None:
    """A module begins with every process running and every component up."""
    wait_until_whole(cluster)


@pytest.fixture
def whole(found_whole: None, cluster: Cluster) -> Iterator[None]:
    """A test finds every process running and every component up, and leaves them so."""
    yield
    wait_until_whole(cluster)


@pytest.fixture
def asynchronous(whole: None, client: httpx.Client) -> Iterator[None]:
    """As `whole`; and the shards have no write quorum, before and after."""
    yield
    make_asynchronous(client)


@pytest.fixture
def key() -> str:
    """A counter's key that no other test uses."""
    return f"test:{uuid4().hex}"


def fresh_address() -> str:
    """An address that no other test uses: so one test's log-ins do not count for another."""
    last = uuid4().bytes
    return f"10.{last[0]}.{last[1]}.{last[2]}"


@pytest.fixture(scope="module")
def browse(cluster: Cluster) -> Iterator[Callable[..., Browser]]:
    """Makes browsers: of a superuser, or of staff who have certain permissions. Each comes from an address of its
    own."""
    from django.contrib.auth import models  # noqa: PLC0415 - Django is not set up when this file is read

    opened: list[Browser] = []
    port = cluster.processes("api")[0]["port"]
    users: list[models.User] = []

    def browse(*permissions: str, superuser: bool = False, log_in: bool = True) -> Browser:
        browser = Browser(
            base_url=f"http://127.0.0.1:{port}",
            headers={"Host": cluster.url.removeprefix("http://"), **cluster.from_address(fresh_address())},
            timeout=60,
            follow_redirects=True,
        )
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
