"""Who may call what: every URL that Django resolves, by every method, for every kind of caller. A URL that is not in the
tables fails the test. What a URL names does not exist, and bodies are no bodies, so nothing is changed."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack

import httpx
import pytest
from django.contrib import admin
from django.contrib.auth.models import Permission
from django.urls import URLPattern, URLResolver, get_resolver

from counters.models import Limits, Scope
from likes import demo
from tests.conftest import fresh_address
from tests.support.browser import LOGIN, Browser
from tests.support.cluster import Cluster

LABELS = re.compile(r"\(\?P<app_label>[\w|]+\)")  # in the order in which the apps were registered
METHODS = ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS")

# Of the API: without a key, and with one of the scope `read`, `write`, `staff`. `ok`: let through, be it to a 400 or 404.
ANYBODY = "ok ok ok ok"
WRITERS = "401 403 ok 403"
OPERATORS = "401 403 403 ok"
NO_KEY_DOES = "401 401 401 401"  # the scrapers' token does
NO_TOKEN = "403 403 403 403"  # of CSRF
NO_SUCH_METHOD = "405 405 405 405"
_UNSAFE = ("POST", "PUT", "PATCH", "DELETE")
_PAGE = {"GET": ANYBODY, "OPTIONS": NO_SUCH_METHOD}
# The methods of each route. HEAD is allowed as GET is, OPTIONS to anybody, and no other method.
API: dict[str, dict[str, str]] = {
    "": _PAGE,
    "favicon.ico": _PAGE,
    "status": _PAGE,
    "status/live": _PAGE,
    "livez": {"GET": ANYBODY},
    "readyz": {"GET": ANYBODY},
    "health": {"GET": ANYBODY},
    "metrics": {"GET": NO_KEY_DOES},
    "demo/likes": {"GET": ANYBODY, **dict.fromkeys(_UNSAFE, NO_TOKEN)},
    "demo/likes/state": {"GET": ANYBODY},
    "demo/likes/<str:item>": dict.fromkeys(_UNSAFE, NO_TOKEN),
    "v1/schema": {"GET": ANYBODY},
    "v1/docs": {"GET": ANYBODY},
    "v1/counters": {"GET": ANYBODY},
    "v1/counters/<any:key>": {"GET": ANYBODY, "PUT": WRITERS, "DELETE": WRITERS},
    "v1/counters/<any:key>/increments": {"POST": WRITERS},
    "v1/increments": {"POST": WRITERS},
    "v1/writes/<any:write_id>": {"GET": ANYBODY},
    "v1/likes": {"POST": WRITERS},
    "v1/likes/<any:type>": {"GET": ANYBODY},
    "v1/likes/<any:type>/<any:item>": {"GET": ANYBODY},
    "v1/likes/<any:type>/<any:item>/users": {"GET": ANYBODY},
    "v1/likes/<any:type>/<any:item>/users/<any:user>": {"GET": ANYBODY, "PUT": WRITERS, "DELETE": WRITERS},
    "v1/likes/users/<any:user>": {"GET": ANYBODY, "DELETE": OPERATORS},
    "v1/removals/<any:id>": {"GET": OPERATORS},
    "v1/shards": {"GET": OPERATORS},
    "v1/shards/quorum": {"GET": OPERATORS, "PUT": OPERATORS},
    "v1/shards/<any:shard>/digest": {"GET": OPERATORS},
    "v1/shards/<str:shard>/quorum": {"GET": OPERATORS, "PUT": OPERATORS},
    "v1/shards/<str:shard>/switchover": {"POST": OPERATORS},
    "v1/shards/<str:shard>/failover": {"POST": OPERATORS},
    "v1/shards/<str:shard>/replicas": {"GET": OPERATORS},
    "v1/shards/<str:shard>/replicas/<str:node>/counters": {"GET": OPERATORS},
    "v1/shards/<str:shard>/replicas/<str:node>/rejoin": {"POST": OPERATORS},
    "v1/shards/<str:shard>/replicas/<str:node>/reinitialise": {"POST": OPERATORS},
    "v1/shards/<str:shard>/replicas/<str:node>/delay": {"PUT": OPERATORS},
}

# Of the admin: GET by a stranger, staff without permissions, staff who may view everything, a superuser; then POST by the
# first three. A page that only shows things may be posted to by those who may view it.
EVERYBODY = "ok ok ok ok", "ok ok ok"
STAFF = "login ok ok ok", "login ok ok"
VIEWERS = "login 403 ok ok", "login 403 ok"
VIEWERS_READ = "login 403 ok ok", "login 403 403"
SUPERUSER = "login 403 403 ok", "login 403 403"
NOBODY = "login 403 403 403", "login 403 403"
STAFF_READ = "login ok ok ok", "login 405 405"
ADMIN: dict[str, tuple[str, str]] = {
    "admin": EVERYBODY,  # to the next
    "admin/": STAFF,
    "admin/login/": EVERYBODY,
    "admin/second-factor/": STAFF,
    "admin/logout/": ("ok 405 405 405", "ok ok ok"),
    "admin/password_change/": STAFF,
    "admin/password_change/done/": STAFF_READ,
    "admin/autocomplete/": ("login 403 403 403", "login 405 405"),  # no form uses it
    "admin/jsi18n/": STAFF_READ,
    "admin/r/<path:content_type_id>/<path:object_id>/": STAFF,
    "admin/^<app_label>/$": STAFF,
    "admin/(?P<url>.*)$": STAFF,
    "admin/counters/counter/writes/": VIEWERS,
    "admin/auth/user/<id>/password/": SUPERUSER,
}
_ONE = "<path:object_id>/"
# Rows that Django's own pages show; a history of what does not exist leads any staff back to the index.
_ROWS = {"": VIEWERS, "add/": NOBODY, _ONE: STAFF, f"{_ONE}change/": VIEWERS_READ}
_ROWS |= {f"{_ONE}delete/": NOBODY, f"{_ONE}history/": STAFF}
_ADDED = {**_ROWS, "add/": SUPERUSER}
_DELETED = {**_ADDED, f"{_ONE}delete/": SUPERUSER}
_COUNTERS = {**_ROWS, f"{_ONE}history/": VIEWERS}
# Lists whose actions, all of them POST, need the permission to change.
_OPERATIONS = {**_COUNTERS, "": VIEWERS_READ, f"{_ONE}change/": VIEWERS}
MODELS: dict[str, dict[str, tuple[str, str]]] = {
    "auth/group": _DELETED,
    "auth/user": _DELETED,
    "counters/apikey": _ADDED,
    "counters/auditentry": _ROWS,
    "counters/limits": _ADDED,
    "counters/counter": _COUNTERS,
    "counters/component": _OPERATIONS,
    "counters/deadletter": _OPERATIONS,
    "counters/forwardedbatch": _OPERATIONS,
    "counters/journalentry": _OPERATIONS,
    "counters/lanequeue": _OPERATIONS,
    "counters/reconciliation": _OPERATIONS,
    "counters/rejectedoperation": _OPERATIONS,
    "counters/spillqueue": _OPERATIONS,
    "likes/like": _OPERATIONS,
    "likes/removal": _ROWS,
    "replication/breaker": _OPERATIONS,
    "replication/intervention": _ROWS,
    "replication/loadbalancer": _OPERATIONS,
    "replication/replica": _OPERATIONS,
    "replication/shard": _OPERATIONS,
}
ADMIN |= {f"admin/{model}/{route}": row for model, rows in MODELS.items() for route, row in rows.items()}


def routes(patterns: Sequence[URLPattern | URLResolver], before: str = "") -> Iterator[str]:
    """Every route, as it is written."""
    for one in patterns:
        route = LABELS.sub("<app_label>", f"{before}{one.pattern}")
        if isinstance(one, URLPattern):
            yield route
        else:
            yield from routes(one.url_patterns, route)


def path_of(route: str) -> str:
    """A URL of the route, which names nothing that exists."""
    route = route.replace("^<app_label>/$", "counters/")
    route = route.replace("(?P<url>.*)$", "no-such-page")
    return "/" + re.sub(r"<[^>]*>", "999999" if "shard>" in route or route.startswith("admin") else "%20", route)


def outcome(client: httpx.Client, method: str, route: str) -> str:
    """Whether a call is let through, or how it is refused. The body, if any, is none that a call takes."""
    body, kind = ("[]", {"Content-Type": "application/json"}) if method in _UNSAFE else (None, None)
    with client.stream(method, path_of(route), content=body, headers=kind, follow_redirects=False) as answer:
        code = answer.status_code
        if answer.headers.get("Location", "").startswith(LOGIN):
            return "login"
        is_there = code != 404 or "<" in route
        return "ok" if is_there and code < 500 and code not in (401, 403, 405, 429) else str(code)


def outcomes(cluster: Cluster, clients: Sequence[httpx.Client], method: str, route: str) -> str:
    """Those of every caller, each from an address of its own, so that no limit counts."""
    found = []
    for client in clients:
        client.headers.update(cluster.from_address(fresh_address()))
        found.append(outcome(client, method, route))
    return " ".join(found)


@pytest.fixture
def callers(cluster: Cluster, browse: Callable[..., Browser]) -> Iterator[list[httpx.Client]]:
    """Without a key, and with one of each scope."""
    with ExitStack() as stack:
        url, host = browse(log_in=False).base_url, cluster.url.removeprefix("http://")
        keys = (f"Api-Key {cluster.make_key(scope)}" for scope in (Scope.READ, Scope.WRITE, Scope.STAFF))
        headers = [{"Host": host}, *({"Host": host, "Authorization": key} for key in keys)]
        yield [stack.enter_context(httpx.Client(base_url=url, headers=one, timeout=30)) for one in headers]


def test_every_url_is_in_a_table() -> None:
    served = {*routes(get_resolver().url_patterns), *routes(demo.urlpatterns, "demo/")}
    assert served == API.keys() | ADMIN.keys()
    assert MODELS.keys() == {f"{model._meta.app_label}/{model._meta.model_name}" for model in admin.site._registry}


def test_calls_need_the_scope_that_the_table_says(cluster: Cluster, callers: list[httpx.Client]) -> None:
    expected, found = {}, {}
    for route, allowed in API.items():
        rest = {"HEAD": allowed.get("GET", NO_SUCH_METHOD), "OPTIONS": ANYBODY}
        for method in METHODS:
            expected[method, route] = {**rest, **allowed}.get(method, NO_SUCH_METHOD)
            found[method, route] = outcomes(cluster, callers, method, route)
    assert {call: row for call, row in found.items() if row != expected[call]} == {}


def test_pages_of_the_admin_need_the_permission_that_the_table_says(
    cluster: Cluster, browse: Callable[..., Browser]
) -> None:
    Limits.objects.all().delete()  # of other tests: there is at most one row
    views = Permission.objects.filter(codename__startswith="view_").values_list("codename", flat=True)
    browsers = [browse(log_in=False), browse(), browse(*views), browse(superuser=True)]
    browsers[0].get(LOGIN)  # for the form's token
    found = {}
    # The log-out last: it changes the session, and so the token.
    for route in sorted(ADMIN, key=lambda route: (route == "admin/logout/", route)):
        got = outcomes(cluster, browsers, "GET", route)
        for browser in browsers:
            browser.headers["X-CSRFToken"] = browser.cookies["csrftoken"]
        found[route] = got, outcomes(cluster, browsers[:3], "POST", route)
    assert {route: row for route, row in found.items() if row != ADMIN[route]} == {}
