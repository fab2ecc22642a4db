"""Shards and their servers in the admin: what the pages show, what their actions do, who may, and that the reason is
kept."""

from __future__ import annotations

from collections.abc import Callable

import httpx
import pytest
from django.db import connection

from replication.models import Intervention
from tests.support.admin import act, field, history
from tests.support.browser import Browser, said
from tests.support.shards import SHARD, one_of, replicas_of, shown

SHARDS = "/admin/replication/shard/"
REPLICAS = "/admin/replication/replica/"
INTERVENTIONS = "/admin/replication/intervention/"


pytestmark = pytest.mark.usefixtures("asynchronous")


@pytest.mark.smoke
def test_servers_are_shown(root: Browser, client: httpx.Client) -> None:
    page = root.get(REPLICAS, params={"shard": SHARD})
    assert field(page, "node") == [one["node"] for one in replicas_of(client)]
    assert sorted(field(page, "role")) == ["primary", "replica"]
    assert sorted(field(page, "status")) == ["running", "streaming"]
    assert len(field(root.get(REPLICAS), "node")) == 4
    assert field(root.get(SHARDS), "primary") == [one_of(client, "primary", shard)["node"] for shard in (0, 1)]


def test_a_quorum_is_set_with_its_reason(root: Browser, client: httpx.Client) -> None:
    asked = act(root, SHARDS, "quorum-1", "0", "1")
    assert "Shall each commit be confirmed by 1 replica?" in asked.text
    assert client.get("/v1/shards/quorum").json()["results"][0]["quorum"] == 0, "not before there is a reason"
    assert "This field is required" in act(root, SHARDS, "quorum-1", "0", "1", reason=" ").text
    done = act(root, SHARDS, "quorum-1", "0", "1", reason="an audit")
    assert "Write quorum 1: 2." in said(done), said(done)
    assert field(done, "quorum") == ["1", "1"]
    assert field(done, "force") == ["yes", "yes"]
    assert all(shown(shard, "synchronous_standby_names").startswith("ANY 1") for shard in (0, 1))
    assert "Write quorum 1: an audit" in history("shard", "1")
    kept = Intervention.objects.filter(action="quorum 1", reason="an audit")
    assert {(one.shard, one.outcome, one.by.startswith("user u")) for one in kept} == {
        (0, "in force", True),
        (1, "in force", True),
    }
    found = {
        search: root.get(INTERVENTIONS, params={"q": search})
        for search in ("", "an audit", "1 quorum", "no such thing")
    }
    assert [
        ("an audit" in page.text.partition('id="result_list"')[2], page.status_code) for page in found.values()
    ] == [
        *((True, 200) for _ in range(3)),
        (False, 200),
    ]
    done = act(root, SHARDS, "strict", "1", reason="none may be lost")
    assert client.get(f"/v1/shards/{SHARD}/quorum").json()["strict"] is True, said(done)


def test_a_switchover_by_hand(root: Browser, client: httpx.Client) -> None:
    """Of shard 0, where the admin's own database is."""
    old, new = one_of(client, "primary", 0)["node"], one_of(client, "replica", 0)["node"]
    refused = act(root, REPLICAS, "switchover", f"0/{old}", reason="x")
    assert "is the primary already" in said(refused)
    done = act(root, REPLICAS, "switchover", f"0/{new}", reason="a new disk")
    connection.close()  # this process's own, to the server that was primary
    assert done.status_code == 200, done.text
    assert "Switched over: 1." in said(done), said(done)
    assert one_of(client, "primary", 0)["node"] == new
    assert history("replica", f"0/{new}") == ["Switched over: a new disk"]
    assert Intervention.objects.filter(shard=0, action="switchover", node=new, reason="a new disk").exists()


@pytest.mark.parametrize("id", ["7/shard-7-node-1", "x/y", "0", "0/nobody"])
def test_a_server_that_is_none(root: Browser, id: str) -> None:
    assert "no shard" in (text := said(act(root, REPLICAS, "reinitialise", id, reason="x"))) or "no node" in text


def test_who_may(browse: Callable[..., Browser], client: httpx.Client) -> None:
    viewer = browse("view_replica", "view_shard", "view_intervention")
    assert (
        viewer.get(REPLICAS).status_code
        == viewer.get(SHARDS).status_code
        == viewer.get(INTERVENTIONS).status_code
        == 200
    )
    assert 'name="action"' not in viewer.get(REPLICAS).text
    replica = one_of(client, "replica")["node"]
    assert act(viewer, REPLICAS, "reinitialise", f"{SHARD}/{replica}", reason="x").status_code == 403
    stranger = browse("view_counter")
    assert [stranger.get(page).status_code for page in (REPLICAS, SHARDS, INTERVENTIONS)] == [403, 403, 403]
