"""API keys: expiry, what is stored of them, and when they were last used."""

from __future__ import annotations

import re
from collections.abc import Iterator
from datetime import timedelta
from typing import Any, cast
from uuid import uuid4

import httpx
import pytest
from django.core.management.base import CommandError
from django.db import connection, transaction
from django.utils import timezone

from counters.api.authentication import write_uses
from counters.models import ApiKey
from tests.support.admin import field
from tests.support.browser import Browser, said
from tests.support.cluster import Cluster, eventually

HOUR = timedelta(hours=1)


@pytest.fixture
def made() -> Iterator[tuple[ApiKey, str]]:
    """A key and its text, used by nobody."""
    row, text = ApiKey.objects.create_key(name=f"k{uuid4().hex[:12]}", scopes=["write"])
    yield cast("ApiKey", row), text
    ApiKey.objects.filter(pk=row.pk).delete()


def _status(client: httpx.Client, key: str) -> int:
    return client.post(f"/v1/counters/{key}/increments", json={"delta": 1}).status_code


def test_a_key_is_refused_from_its_expiry_on(cluster: Cluster, made: tuple[ApiKey, str], key: str) -> None:
    row, text = made
    ApiKey.objects.filter(pk=row.pk).update(expiry_date=timezone.now() + timedelta(seconds=4))
    with cluster.client(text) as client:
        eventually(lambda: _status(client, key) == 202)
        eventually(lambda: timezone.now() > ApiKey.objects.get(pk=row.pk).expiry_date)
        refused = client.post(f"/v1/counters/{key}/increments", json={"delta": 1})
        assert refused.status_code == 401, "also where no read of the keys has come since"
        assert "expired" in refused.json()["detail"]


def test_an_expiry_is_given_in_the_admin_and_by_the_command(root: Browser, cluster: Cluster) -> None:
    name, address, day = f"k{uuid4().hex[:12]}", "/admin/counters/apikey/add/", timedelta(days=1)
    past, future = timezone.now() - day, timezone.now() + 30 * day
    asked: dict[str, Any] = {"name": name, "scopes": "read", "expiry_date_1": "12:00:00"}
    refused = root.submit(address, **asked, expiry_date_0=f"{past:%Y-%m-%d}")
    assert "This is not in the future. To end a key now, revoke it." in refused.text
    assert not ApiKey.objects.filter(name=name).exists()
    root.submit(address, **asked, expiry_date_0=f"{future:%Y-%m-%d}")
    page = root.get("/admin/counters/apikey/", params={"q": name})
    assert field(page, "expires") == [f"{future:%Y-%m-%d} 12:00"]
    for given, expected in (("30d", future), (f"{future:%Y-%m-%dT%H:%M}", future), ("3h", timezone.now() + day / 8)):
        cluster.command("make_key", name, "--scope", "read", "--expires", given)
        made = ApiKey.objects.filter(name=name).latest("created").expiry_date
        assert made is not None
        assert abs(made - expected) < 2 * timedelta(minutes=1), given
    for given in ("soon", "2020-01-01", "0d", "2027-13-01"):
        with pytest.raises(CommandError, match=r"is no time|is not in the future"):
            cluster.command("make_key", name, "--scope", "read", "--expires", given)
    ApiKey.objects.filter(name=name).delete()


def test_the_text_of_a_key_is_stored_nowhere(root: Browser) -> None:
    name = f"k{uuid4().hex[:12]}"
    shown = said(root.submit("/admin/counters/apikey/add/", name=name, scopes="write"))
    found = re.search(rf"The API key for {name} is: (\S+)\. ", shown)
    assert found, shown
    secret = found[1].partition(".")[2]
    assert len(secret) >= 32
    row = ApiKey.objects.get(name=name)
    assert re.match(r"(sha512|pbkdf2_sha256)\$", row.hashed_key), row.hashed_key
    assert row.is_valid(found[1])
    tables = connection.introspection.table_names()
    assert {"counters_apikey", "django_admin_log", "django_session"} <= set(tables)
    with connection.cursor() as cursor:
        for table in ("counters_apikey", "django_admin_log", "django_session"):
            cursor.execute(f"SELECT count(*) FROM {table} t WHERE position(%s IN t::text) > 0", [secret])
            assert cursor.fetchone() == (0,), table


def test_the_last_use_is_written_once_an_hour_and_shown(
    cluster: Cluster, root: Browser, made: tuple[ApiKey, str], key: str
) -> None:
    row, text = made
    page = f"/admin/counters/apikey/{row.pk}/change/"
    assert re.search(r'field-last_used.*?class="readonly">-<', root.get(page).text, re.DOTALL)

    def written() -> object:
        return ApiKey.objects.values_list("last_used", flat=True).get(pk=row.pk)

    def use(was: object) -> bool:
        return _status(client, key) == 202 and written() != was

    with cluster.client(text) as client:
        eventually(lambda: use(None))
        assert abs(timezone.now() - ApiKey.objects.get(pk=row.pk).last_used) < timedelta(minutes=1)
        listed = root.get("/admin/counters/apikey/", params={"q": row.prefix})
        assert field(listed, "last_use") == [f"{timezone.now():%Y-%m-%d %H:00}"]
        assert (
            field(root.get("/admin/counters/apikey/", params={"q": row.prefix, "state": "never used"}), "state") == []
        )
        assert not re.search(r'field-last_used.*?class="readonly">-<', root.get(page).text, re.DOTALL)
        old = timezone.now() - HOUR - timedelta(minutes=1)
        ApiKey.objects.filter(pk=row.pk).update(last_used=old)
        eventually(lambda: use(old))


def test_processes_write_a_use_once(made: tuple[ApiKey, str]) -> None:
    row, now = made[0], timezone.now()
    assert write_uses([row.prefix], now) == 1
    assert write_uses([row.prefix], now + HOUR - timedelta(seconds=1)) == 0
    assert write_uses([row.prefix], now + HOUR) == 1
    ApiKey.objects.filter(pk=row.pk).update(revoked=True)
    assert write_uses(["unknown"], now) == 0


def test_a_row_that_somebody_changes_is_left_for_later(made: tuple[ApiKey, str]) -> None:
    row, copied = made[0], connection.copy()
    try:
        with copied.cursor() as other:
            other.execute("BEGIN")
            other.execute("SELECT 1 FROM counters_apikey WHERE id = %s FOR UPDATE", [row.pk])
            assert write_uses([row.prefix], timezone.now()) == 0
            other.execute("ROLLBACK")
        assert write_uses([row.prefix], timezone.now()) == 1
    finally:
        copied.close()


def test_writing_uses_does_not_wait_for_replicas(made: tuple[ApiKey, str]) -> None:
    with transaction.atomic():
        write_uses([made[0].prefix], timezone.now())
        with connection.cursor() as cursor:
            cursor.execute("SHOW synchronous_commit")
            assert cursor.fetchone() == ("off",)
