"""Answers over HTTP: every error is a short problem document, and what is said of a write is so."""

from __future__ import annotations

import asyncio
import re
import signal
import time
from collections.abc import Callable
from typing import Any
from uuid import uuid4

import httpx
import msgspec
import psutil
import pytest
from django.core.management import CommandError, call_command

from cluster.targets import targets
from counters import service
from counters.intake import writes
from counters.intake.writes import Accepted
from counters.keys import RESERVED
from counters.models import ApiKey
from counters.write_id import WriteId
from replication.models import Intervention
from sharding import databases, lanes, topology
from tests.support.browser import LOGIN, Browser
from tests.support.cluster import Cluster, eventually, frozen, value_of
from tests.support.http import assert_problem, exchange

MAX = 2**63 - 1
SHORT = 4096  # bytes of any problem document
NAME = b"x" * (2 * 1024 * 1024)


def settled(client: httpx.Client, write: str) -> dict[str, Any]:
    """The status of a write once it is no longer queued."""

    def look() -> dict[str, Any] | None:
        found: dict[str, Any] = client.get(f"/v1/writes/{write}").raise_for_status().json()
        return None if found["status"] == "queued" else found

    found: dict[str, Any] = eventually(look)
    return found


# What a document repeats, it repeats in part.


@pytest.mark.parametrize("path", ["increments", "counters/{key}/increments"])
def test_a_field_name_of_2_megabytes_is_not_repeated(client: httpx.Client, key: str, path: str) -> None:
    body = b'{"increments": [{"' + NAME + b'": 1}]}' if path == "increments" else b'{"' + NAME + b'": 1}'
    started = time.monotonic()
    answer = client.post(f"/v1/{path.format(key=key)}", content=body, headers={"Content-Type": "application/json"})
    assert time.monotonic() - started < 2
    assert_problem(answer, 400, "invalid-request")
    assert len(answer.content) < SHORT
    assert "unknown field `xxx" in answer.json()["errors"][0]["rule"]


LONG = "y" * 50_000
LONG_REQUESTS: list[tuple[str, str, dict[str, str], bytes | None]] = [
    ("POST", "/v1/increments", {"Content-Type": LONG}, b"{}"),
    ("POST", "/v1/increments", {"Content-Type": "application/json", "Content-Encoding": LONG}, b"{}"),
    (
        "POST",
        "/v1/increments",
        {"Content-Type": "application/json", "Idempotency-Key": LONG},
        b'{"increments":[{"key":"a","delta":1}]}',
    ),
    ("GET", "/v1/counters/a", {"Authorization": LONG}, None),
    ("GET", f"/v1/counters/{LONG}", {}, None),
    ("GET", f"/v1/counters?key={LONG}", {}, None),
    ("GET", f"/v1/counters?prefix={LONG}", {}, None),
    ("GET", f"/v1/counters?cursor={LONG}", {}, None),
    ("GET", f"/v1/counters?limit={LONG}", {}, None),
    ("GET", f"/v1/counters/a?consistency={LONG}", {}, None),
    ("GET", f"/v1/counters/a?after={LONG}", {}, None),
    ("GET", f"/v1/writes/{LONG}", {}, None),
    ("GET", f"/v1/shards/{LONG}/replicas", {}, None),
    ("POST", f"/v1/shards/0/replicas/{LONG}/rejoin", {"Content-Type": "application/json"}, b'{"reason": "a test"}'),
    ("GET", f"/{LONG}", {}, None),
]


@pytest.mark.parametrize(("method", "path", "headers", "body"), LONG_REQUESTS, ids=range(len(LONG_REQUESTS)))
def test_long_values_are_not_repeated(
    client: httpx.Client, method: str, path: str, headers: dict[str, str], body: bytes | None
) -> None:
    answer = client.request(method, path, headers=headers, content=body)
    assert 400 <= answer.status_code < 500, answer.text[:300]
    assert answer.headers["Content-Type"] == "application/problem+json"
    assert len(answer.content) < SHORT


@pytest.mark.parametrize("node", ["x" * 201, "a%01b", "a%0Ab"])
@pytest.mark.parametrize(
    ("method", "call", "body"),
    [("POST", "rejoin", {}), ("POST", "reinitialise", {}), ("PUT", "delay", {"delay": "0ms"})],
)
def test_what_can_be_no_nodes_name_is_not_recorded(
    client: httpx.Client, method: str, call: str, body: dict[str, str], node: str
) -> None:
    before = Intervention.objects.count()
    answer = client.request(method, f"/v1/shards/0/replicas/{node}/{call}", json=body | {"reason": "a test"})
    assert_problem(answer, 404, "unknown-node")
    assert Intervention.objects.count() == before


def test_an_event_names_its_process_and_its_server(cluster: Cluster, client: httpx.Client) -> None:
    """A text from an address is not taken for the name of the process that logs."""
    name = f"of-a-test-{uuid4().hex}"
    assert_problem(client.post(f"/v1/shards/0/replicas/{name}/rejoin", json={"reason": "a test"}), 404, "unknown-node")

    def event() -> dict[str, Any]:
        lines = [line for log in cluster.dir.glob("logs/api-*.log") for line in log.read_text().splitlines()]
        found = [msgspec.json.decode(line) for line in lines if name in line]  # those of the audit log, too
        told: dict[str, Any] = next(one for one in found if one["event"] == "intervention")
        return told

    told = eventually(event)
    assert told["server"] == name
    assert told["node"].startswith("api-")


# Every error is a problem document.


def raw(
    cluster: Cluster, method: str, path: str, *headers: bytes, body: bytes = b""
) -> tuple[int, bytes, dict[str, Any]]:
    """Status, head and document that nginx answers."""
    lines = [f"{method} {path} HTTP/1.1".encode(), b"Host: 127.0.0.1", b"Connection: close", *headers]
    lines += [f"Authorization: Api-Key {cluster.key}".encode(), b"Content-Length: %d" % len(body)]
    head, _, document = exchange(cluster.url, b"\r\n".join([*lines, b"", body])).partition(b"\r\n\r\n")
    return int(head.split()[1]), head, msgspec.json.decode(document)


@pytest.mark.parametrize("path", ["/v1/counters/a/increments", "/v1/increments"])
@pytest.mark.parametrize(
    "value",
    [b"application/json; charset=\x01", b"application/json\x7f", b"\x1b[1m", b"application/json; a*=nowhere''b"],
)
def test_a_broken_content_type(cluster: Cluster, path: str, value: bytes) -> None:
    status, head, document = raw(cluster, "POST", path, b"Content-Type: " + value, body=b'{"delta": 1}')
    assert status == document["status"] == 400
    assert b"Content-Type: application/problem+json" in head
    assert document["detail"]


def test_a_content_type_that_cannot_be_read_on_an_api_port(cluster: Cluster) -> None:
    """A control character is refused there by the server, in plain text; what Django cannot read is not."""
    api = f"http://127.0.0.1:{cluster.processes('api')[0]['port']}"
    with cluster.client() as client:
        headers = {"Content-Type": "application/json; a*=nowhere''b"}
        document = assert_problem(
            client.post(f"{api}/v1/increments", content=b"{}", headers=headers), 400, "invalid-request"
        )
    assert document["errors"][0]["field"] == "Content-Type"


def test_headers_that_are_too_large(cluster: Cluster) -> None:
    lines = (b"X-%d: %s" % (number, b"a" * 200_000) for number in range(10))
    status, head, document = raw(cluster, "GET", "/v1/counters/a", *lines)
    assert status == document["status"] == 431
    assert b"Content-Type: application/problem+json" in head
    assert document["type"] == "urn:tally:problem:headers-too-large"


def test_many_headers_are_no_error(cluster: Cluster) -> None:
    assert raw(cluster, "GET", "/v1/counters/a", *(b"X-%d: 1" % number for number in range(900)))[0] == 200


@pytest.mark.parametrize(
    "path", ["/static/", "/static/admin/", "/static/nothing.css", "/.problem/400", "/.problem/503", "/.problem/"]
)
def test_addresses_of_nginx_itself(client: httpx.Client, path: str) -> None:
    assert_problem(client.get(path), 404, "not-found")


@pytest.mark.parametrize("path", ["/", "/favicon.ico"])
def test_a_page_is_only_read(client: httpx.Client, path: str) -> None:
    answer = client.patch(path)
    assert_problem(answer, 405, "method-not-allowed")
    assert answer.headers["Allow"] == "GET, HEAD"
    assert client.head(path).status_code == 200


@pytest.mark.smoke
def test_each_answer_says_who_gave_it(cluster: Cluster, client: httpx.Client, key: str) -> None:
    """By the fast path, by a view, as a page, as a problem; and nginx, where no API process was asked."""
    names = {api["name"] for api in cluster.processes("api")}
    calls = [
        *(("GET", f"/v1/counters/{key}"), ("GET", f"/v1/counters/{key}?consistency=primary"), ("GET", "/health")),
        *(("GET", "/admin/login/"), ("GET", "/v1/none"), ("GET", "/v1/counters/a%20b"), ("OPTIONS", "/v1/increments")),
        ("POST", "/v1/increments"),
    ]
    for method, path in calls:
        assert client.request(method, path).headers.get_list("Tally-Node")[0] in names, path
    for api in cluster.processes("api"):
        assert httpx.get(f"http://127.0.0.1:{api['port']}/livez").headers["Tally-Node"] == api["name"]
    for path in ("/metrics", "/static/none", "/static/admin/css/base.css"):
        assert client.get(path).headers.get_list("Tally-Node") == ["nginx"], path


def test_the_schema_names_the_header_of_every_answer(client: httpx.Client) -> None:
    schema = client.get("/v1/schema", headers={"Accept": "application/json"}).json()
    found = [
        answer for path in schema["paths"].values() for call in path.values() for answer in call["responses"].values()
    ]
    assert len(found) > 50
    assert all(answer["headers"]["Tally-Node"] == {"$ref": "#/components/headers/Tally-Node"} for answer in found)
    assert schema["components"]["headers"]["Tally-Node"]["required"]


def test_static_files_are_served(client: httpx.Client) -> None:
    assert client.get("/static/admin/css/base.css").headers["Content-Type"] == "text/css"


@pytest.mark.parametrize(
    "path", ["/v1/shards", "/v1/shards/0/quorum", "/v1/shards/0/switchover", "/v1/shards/0/digest"]
)
def test_options_need_no_key(cluster: Cluster, path: str) -> None:
    """Which methods there are is public: the schema says so, and that `OPTIONS` needs no key."""
    with cluster.client("") as nobody:
        answer = nobody.options(path)
        assert (answer.status_code, answer.content) == (204, b"")
        assert "OPTIONS" in answer.headers["Allow"]
        assert nobody.request(answer.headers["Allow"].split(", ")[0], path).status_code == 401
        assert "`OPTIONS` answers 204 with `Allow`, and needs no key" in nobody.get("/v1/schema").text.replace(
            "\n    ", " "
        )


# Keys and conditions.


@pytest.mark.parametrize("word", sorted(RESERVED))
def test_a_reserved_word_is_refused_everywhere(client: httpx.Client, word: str) -> None:
    good = [{"key": f"{word}:{uuid4().hex}", "delta": 1}, {"key": word, "delta": 1}]
    answers = [
        client.get(f"/v1/counters/{word}"),
        client.put(f"/v1/counters/{word}", json={"value": 1}),
        client.delete(f"/v1/counters/{word}"),
        client.post(f"/v1/counters/{word}/increments", json={"delta": 1}),
        client.get("/v1/counters", params={"key": ["a", word]}),
        client.post("/v1/increments", json={"increments": good}),
    ]
    for answer in answers:
        document = assert_problem(answer, 400, "invalid-request")
        assert document["errors"][0]["rule"].endswith("not a reserved word (increments, stream, top)")
    assert answers[-1].json()["errors"][0]["field"] == "increments[1].key"


@pytest.mark.parametrize("word", sorted(RESERVED))
def test_a_reserved_word_may_begin_a_key(client: httpx.Client, word: str) -> None:
    key = f"{word}.{uuid4().hex}"
    assert client.put(f"/v1/counters/{key}", json={"value": 3}).status_code == 200
    listed = {"prefix": word, "limit": "1000", "consistency": "primary"}
    found = client.get("/v1/counters", params=listed).raise_for_status().json()["results"]
    assert key in {one["key"] for one in found}


def test_an_increment_has_no_condition(client: httpx.Client, key: str) -> None:
    headers = {"If-Match": '"0"'}
    bulk = {"increments": [{"key": key, "delta": 1}]}
    for answer in (
        client.post(f"/v1/counters/{key}/increments", json={"delta": 1}, headers=headers),
        client.post(f"/v1/counters/{key}/increments?wait=5", json={"delta": 1}, headers=headers),
        client.post("/v1/increments", json=bulk, headers=headers),
    ):
        document = assert_problem(answer, 400, "invalid-request")
        assert document["errors"] == [
            {"field": "If-Match", "rule": "only for PUT and DELETE of a counter: an increment has no condition"}
        ]
    assert value_of(client, key) == 0


# What became of a write.


def test_a_number_that_was_never_handed_out_is_unknown(client: httpx.Client, key: str) -> None:
    write = client.post(f"/v1/counters/{key}/increments", json={"delta": 1}).json()["id"]
    assert settled(client, write)["status"] == "applied"
    batch, index, lanes = write.split("-")
    for other in (int(index, 16) + 1, 4096, 2**31, 2**32 - 1):
        never = f"{batch}-{other:x}-{lanes}"
        answer = client.get(f"/v1/writes/{never}")
        if other == int(index, 16) + 1 and answer.status_code == 200:
            continue  # another test's write in the same flush and lane
        assert_problem(answer, 404, "unknown-write")
        assert_problem(client.get(f"/v1/counters/{key}", params={"after": never, "wait": 1}), 404, "unknown-write")
    assert client.get(f"/v1/counters/{key}", params={"after": write}).json()["value"] == 1


def test_a_write_is_unknown_in_lanes_that_it_did_not_touch(client: httpx.Client, key: str) -> None:
    """A flush of two writes in two lanes: the id of the first with the lane of the second is nobody's."""
    in_force = topology.current()
    keys = {in_force.lane_of(f"{key}.{number}"): f"{key}.{number}" for number in range(200)}
    (first, one), (second, other) = sorted(keys.items())[:2]
    made = [writes.increments({one: 1}), writes.increments({other: 1})]
    with service.in_background() as serving:

        async def submitted_together() -> list[Accepted]:
            return await asyncio.gather(*map(serving.intake.submit, made))

        accepted = asyncio.run_coroutine_threadsafe(submitted_together(), serving.loop).result()
    ids = [one.id for one in accepted]
    assert ids[0].batch == ids[1].batch
    for id in ids:
        assert settled(client, str(id))["status"] == "applied"
    crossed = WriteId(ids[0].batch, ids[0].index, (second,))
    assert ids[0].lanes == (first,)
    assert_problem(client.get(f"/v1/writes/{crossed}"), 404, "unknown-write")


def test_a_repeat_that_waits_gets_the_outcome_of_the_first(client: httpx.Client, key: str) -> None:
    headers = {"Idempotency-Key": uuid4().hex}
    first = client.post(f"/v1/counters/{key}/increments?wait=30", json={"delta": 5}, headers=headers)
    again = client.post(f"/v1/counters/{key}/increments?wait=30", json={"delta": 5}, headers=headers)
    assert (first.status_code, again.status_code) == (200, 200)
    assert again.json() == first.json()


def test_a_repeat_that_waits_after_a_first_that_did_not(client: httpx.Client, key: str) -> None:
    """Its own result was never kept; that it is applied is known."""
    headers = {"Idempotency-Key": uuid4().hex}
    first = client.post(f"/v1/counters/{key}/increments", json={"delta": 5}, headers=headers)
    assert first.status_code == 202
    again = client.post(f"/v1/counters/{key}/increments?wait=30", json={"delta": 5}, headers=headers)
    assert again.status_code == 200
    assert again.json() == {**first.json(), "status": "applied", "value": None, "version": None}
    assert client.get(f"/v1/counters/{key}", params={"after": first.json()["id"]}).json()["value"] == 5


def test_a_repeat_waits_while_the_shard_does_not_apply(cluster: Cluster, client: httpx.Client, key: str) -> None:
    headers = {"Idempotency-Key": uuid4().hex}
    lane = topology.current().lane_of(key)
    with databases.connect(databases.primary(lane.shard), autocommit=True) as conn:
        conn.execute("SELECT pg_advisory_lock(%s, %s)", (lanes.LOCK_ID, lane.number))
        assert client.post(f"/v1/counters/{key}/increments", json={"delta": 5}, headers=headers).status_code == 202
        queued = client.post(f"/v1/counters/{key}/increments?wait=0.5", json={"delta": 5}, headers=headers)
        assert (queued.status_code, queued.json()["status"]) == (202, "queued")
    applied = client.post(f"/v1/counters/{key}/increments?wait=30", json={"delta": 5}, headers=headers)
    assert (applied.status_code, applied.json()["status"]) == (200, "applied")


def test_a_bulk_write_is_rejected_only_if_all_of_it_was(client: httpx.Client, key: str) -> None:
    full, other = f"{key}.full", f"{key}.other"
    for one in (full, f"{key}.full2"):
        assert client.put(f"/v1/counters/{one}", json={"value": MAX}).status_code == 200
    neighbours = [f"{key}.{number}" for number in range(500)]
    lane_of = topology.current().lane_of
    beside = next(one for one in neighbours if lane_of(one) == lane_of(full))
    for others in ([other], [beside], [other, beside]):
        sent = [{"key": one, "delta": 1} for one in (full, *others)]
        found = settled(client, client.post("/v1/increments", json={"increments": sent}).json()["id"])
        assert found["status"] == "applied", others
        assert [one["key"] for one in found["rejected"]] == [full]
    assert value_of(client, other) == 2
    for rejected in ([full], [full, f"{key}.full2"]):
        sent = [{"key": one, "delta": 1} for one in rejected]
        found = settled(client, client.post("/v1/increments", json={"increments": sent}).json()["id"])
        assert found["status"] == "rejected"
        assert [one["key"] for one in found["rejected"]] == sorted(rejected)


def test_a_question_has_its_own_advice_while_the_journal_is_down(
    cluster: Cluster, client: httpx.Client, key: str
) -> None:
    write = client.post(f"/v1/counters/{key}/increments?wait=30", json={"delta": 1}).json()["id"]
    journal = psutil.Process(cluster.processes("redis-journal")[0]["pid"])
    journal.send_signal(signal.SIGSTOP)
    try:
        document = assert_problem(client.get(f"/v1/writes/{write}"), 503, "journal-unavailable")
    finally:
        journal.send_signal(signal.SIGCONT)
    assert document["detail"].endswith("What became of the write cannot be told now; ask again.")
    assert "Idempotency-Key" not in document["detail"]
    eventually(lambda: client.get(f"/v1/writes/{write}").status_code == 200)


# What operators see.


def test_beat_has_metrics(cluster: Cluster) -> None:
    (beat,) = cluster.processes("beat")
    assert "# TYPE process_start_time_seconds" in cluster.metrics(beat)
    assert "beat" in {group["labels"]["process"] for group in targets(cluster.status()["processes"])}


def test_some_metrics_can_be_asked_for_by_name(cluster: Cluster) -> None:
    """As of any client of Prometheus: without a look at what the others are read from."""
    names = {"tally_writes_accepted_total", "tally_shard_copies"}
    for process in (*cluster.processes("api"), *cluster.processes("spill-worker")):
        told = {
            line.partition("{")[0].split()[0]
            for line in cluster.metrics(process, *names).splitlines()
            if line[0] != "#"
        }
        assert told == ({*names} if process["role"] == "api" else {"tally_writes_accepted_total"})


def test_a_scraper_of_openmetrics_gets_exemplars(cluster: Cluster, client: httpx.Client, key: str) -> None:
    """The last request of a bucket, and the batch that a transaction began with. Others get the older text, without."""
    written = client.post(f"/v1/counters/{key}/increments", json={"delta": 1}, params={"wait": 30})
    headers = {"Authorization": f"Bearer {cluster.env['TALLY_METRICS_TOKEN']}"}

    def told(accept: str) -> str:
        answers = [
            httpx.get(f"http://127.0.0.1:{one['metrics_port']}/metrics", headers={**headers, "Accept": accept})
            for one in (*cluster.processes("api"), *cluster.processes("worker"))
        ]
        kind = accept.partition(";")[0]
        assert all(one.raise_for_status().headers["Content-Type"].startswith(kind) for one in answers)
        return "".join(one.text for one in answers)

    def both() -> bool:
        text = told("application/openmetrics-text;version=1.0.0,text/plain;q=0.5")
        request, batch = written.headers["X-Request-ID"], written.headers["Tally-Write"].partition("-")[0]
        return f'# {{request_id="{request}"}}' in text and f'# {{batch="{batch}"}}' in text

    eventually(both)
    assert " # {" not in told("text/plain;version=0.0.4")


def test_status_says_who_is_primary(cluster: Cluster) -> None:
    modes = [(one["shard"], one["mode"]) for one in cluster.processes("postgres")]
    assert sorted(modes) == [(0, "primary"), (0, "replica"), (1, "primary"), (1, "replica")]
    for shard in (0, 1):
        with databases.connect(databases.primary(shard)) as conn:
            assert [one["mode"] for one in cluster.processes("postgres", shard) if one["port"] == conn.info.port] == [
                "primary"
            ]
    assert all("mode" not in one for one in cluster.status()["processes"] if one["role"] != "postgres")


@pytest.mark.parametrize("name", ["", " ", "a" * 51, "a\nb", "\x1b[31mred"])
def test_make_key_refuses_what_is_no_name(cluster: Cluster, name: str) -> None:
    before = ApiKey.objects.count()
    with pytest.raises(CommandError, match="a name has 1 to 50 characters, not blank, no control characters"):
        call_command("make_key", name, "--scope", "read")
    assert ApiKey.objects.count() == before


def test_the_admin_refuses_what_is_no_name(root: Browser) -> None:
    page = root.submit("/admin/counters/apikey/add/", name="a\x1bb", scopes="read")
    assert page.status_code == 200
    assert "A name has 1 to 50 characters" in page.text


@pytest.mark.parametrize(
    "address",
    [
        "/admin/counters/apikey/?id=%00",
        "/admin/counters/apikey/?name__contains=%00",
        "/admin/replication/intervention/?reason=%00",
        "/admin/auth/user/?username=%00",
    ],
)
def test_nul_in_a_filter_is_a_bad_request(root: Browser, address: str) -> None:
    answer = root.get(address)
    assert answer.status_code == 400
    assert "a value that the database cannot take" in answer.text


def test_nul_never_is_an_error_of_the_admin(root: Browser) -> None:
    """Every list of the admin, in a search and in each parameter that it takes."""
    lists = sorted(set(re.findall(r'href="(/admin/[a-z]+/[a-z]+/)"', root.get("/admin/").text)))
    assert len(lists) > 5
    for address in lists:
        for name in ("q", "id", "after", "shard", "key", "write", "reason"):
            assert root.get(address, params={name: "\0"}).status_code in (200, 400), (address, name)
        assert root.get(f"{address}%00/change/").status_code in (200, 400, 404), address


def test_a_log_in_without_a_target_ends_at_the_admin(browse: Callable[..., Browser]) -> None:
    from django.contrib.auth.models import User  # noqa: PLC0415

    user = User.objects.create_superuser(f"u{uuid4().hex}", password="correct horse")
    try:
        browser = browse(log_in=False)
        page = browser.submit(LOGIN, username=user.username, password="correct horse", next="")
        assert (page.status_code, page.url.path) == (200, "/admin/")
    finally:
        user.delete()


@pytest.mark.usefixtures("whole")
def test_a_hung_control_database_is_told_soon(cluster: Cluster, root: Browser) -> None:
    assert root.get("/admin/").status_code == 200
    with frozen(*cluster.processes("postgres", 0)):
        for _ in range(2):
            started = time.monotonic()
            assert root.get("/admin/").status_code == 503
            assert time.monotonic() - started < 4
