"""The audit log: every action of staff is in it, and nobody changes it."""

from __future__ import annotations

import json
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from uuid import uuid4

import httpx
import pytest
from django.db import connection, transaction
from psycopg.errors import InsufficientPrivilege

from counters.models import AuditEntry, Scope
from counters.operators import audit
from counters.operators.audit import Entry
from sharding import databases, roles
from tests.cluster.test_every_url import ADMIN, API, OPERATORS, path_of
from tests.conftest import fresh_address
from tests.support.browser import Browser
from tests.support.cluster import Cluster, in_process

UNRECORDED = {"admin"}  # a redirect does nothing
CHANGES = (
    "UPDATE counters_auditentry SET by = 'nobody'",
    "DELETE FROM counters_auditentry",
    "TRUNCATE counters_auditentry",
)


def entries(request_id: str) -> list[AuditEntry]:
    return list(AuditEntry.objects.filter(request_id=request_id).order_by("id"))


def checked() -> tuple[int | None, int]:
    """The first broken entry that `manage.py audit` names, and its exit status."""
    said, status = in_process("audit", "--json")
    found = json.loads(said)
    newest = AuditEntry.objects.latest("id")
    assert (found["entries"], found["hash"]) == (newest.pk, newest.hash)
    return found["broken"], status


def test_every_url_of_staff_leaves_a_record(cluster: Cluster, browse: Callable[..., Browser]) -> None:
    """Before the action and after it, be it refused, as here, or not."""
    staff, asked = browse(), {}
    with cluster.client(cluster.make_key(Scope.STAFF)) as keyed:
        calls = [
            (keyed, method, route)
            for route, allowed in API.items()
            for method, row in allowed.items()
            if row == OPERATORS and method != "GET"
        ]
        calls += [(staff, "POST", route) for route in sorted(ADMIN, key=lambda one: (one == "admin/logout/", one))]
        for client, method, route in calls:
            asked[method, route] = id = uuid4().hex
            token = client.cookies.get("csrftoken") or ""
            headers = {"X-Request-ID": id, "X-CSRFToken": token, **cluster.from_address(fresh_address())}
            client.request(method, path_of(route), headers=headers, json=[], follow_redirects=False)
    found = {call: entries(id) for call, id in asked.items()}
    assert {route for (_, route), made in found.items() if not made} == UNRECORDED
    for call, made in found.items():
        assert made == [] or [bool(one.outcome) for one in made] == [False, True], call
        assert all(one.role == roles.API and one.by.startswith(("user u", "API key of a test")) for one in made), call


def test_an_entry_says_who_what_and_what_came_of_it(root: Browser) -> None:
    id, name = uuid4().hex, f"audited {uuid4().hex}"
    root.headers["X-Request-ID"] = id
    try:
        root.submit("/admin/counters/apikey/add/", name=name, scopes="write", password="swordfish")
    finally:
        del root.headers["X-Request-ID"]
    begun, ended = (one for one in entries(id) if one.action.startswith("POST"))
    assert (begun.action, begun.target, ended.outcome) == (
        "POST admin:counters_apikey_add",
        "/admin/counters/apikey/add/",
        "302",
    )
    assert json.loads(begun.detail)["name"] == name
    assert not {"csrfmiddlewaretoken", "password"} & json.loads(begun.detail).keys()
    page = root.get("/admin/counters/auditentry/", params={"q": id})
    assert page.text.count("POST admin:counters_apikey_add") == 2
    assert root.get(f"/admin/counters/auditentry/{begun.pk}/change/").status_code == 200


def test_a_removed_users_name_is_not_kept(client: httpx.Client) -> None:
    id, user = uuid4().hex, f"user-{uuid4().hex}"
    client.post("/v1/counters/audited/increments", json={"delta": 1}).raise_for_status()  # starts the journal's clock
    assert client.delete(f"/v1/likes/users/{user}", headers={"X-Request-ID": id}).status_code == 202
    made = entries(id)
    assert [one.outcome for one in made] == ["", "202"]
    assert not any(user in f"{one.target} {one.detail}" for one in made)


@pytest.mark.parametrize("statement", CHANGES)
def test_neither_the_actor_nor_the_owner_changes_an_entry(cluster: Cluster, statement: str) -> None:
    password = json.loads((cluster.dir / "secrets.json").read_text())[roles.API]
    audit.append(Entry("a test", "try", "the audit log"))
    for login in ({"user": roles.API, "password": password}, {}):
        with (
            databases.connect("default", timeout=10, autocommit=True, **login) as conn,
            pytest.raises(InsufficientPrivilege),
        ):
            conn.execute(statement)


def test_the_actor_chooses_neither_number_nor_time_nor_role(cluster: Cluster) -> None:
    password = json.loads((cluster.dir / "secrets.json").read_text())[roles.API]
    row = ("a test", "forge", "an entry")
    with databases.connect("default", timeout=10, autocommit=True, user=roles.API, password=password) as conn:
        made = conn.execute(
            "INSERT INTO counters_auditentry (id, at, by, action, target, detail, outcome, address, request_id, role, hash)"
            " VALUES (1, '1999-12-31', %s, %s, %s, '', '', '', '', 'somebody', 'x')"
            " RETURNING id, at > now() - interval '1 minute', role, hash <> 'x'",
            row,
        ).fetchall()
    assert made[0][0] == AuditEntry.objects.latest("id").pk
    assert made[0][1:] == (True, roles.API, True)


def test_a_changed_or_missing_entry_is_found(cluster: Cluster) -> None:
    with ThreadPoolExecutor(4) as threads:
        list(threads.map(lambda n: audit.append(Entry("a test", f"one of many\0 \ud800 {n}", "x" * 9999)), range(12)))
        list(threads.map(lambda _: connection.close(), range(4)))
    assert checked() == (None, 0)
    newest = AuditEntry.objects.latest("id").pk
    for change, broken in (
        ("UPDATE counters_auditentry SET outcome = 'done' WHERE id = %s", newest - 5),
        ("DELETE FROM counters_auditentry WHERE id = %s", newest - 4),
    ):
        with transaction.atomic(), connection.cursor() as cursor:
            cursor.execute("ALTER TABLE counters_auditentry DISABLE TRIGGER audit_refuse")
            cursor.execute(change, [newest - 5])
            assert audit.first_broken() == broken
            assert checked() == (broken, 1)
            transaction.set_rollback(True)
    assert checked() == (None, 0)
