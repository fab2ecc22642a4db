"""What is counted of every request, whoever answers it, once.

Labels are bounded: the routes are those of the URL configuration, the admin's as one, and unknown methods are `other`.
"""

from __future__ import annotations

import re
from functools import cache
from typing import Literal

from prometheus_client import Counter, Histogram

Way = Literal["fast path", "view", "limit", "body"]
METHODS = frozenset(("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"))
REQUESTS = Counter(
    "tally_requests_total",
    "Requests answered, by what answered: the fast path, a view, a limit of the caller, or a body that could not be read",
    ["method", "route", "way", "status"],
)
SECONDS = Histogram(
    "tally_request_seconds",
    "From a request's body to its answer, without those that a limit or their body has refused",
    ["method", "route", "way"],
    buckets=(0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30),
)


def count(method: str, route: str, way: Way, status: int, seconds: float | None = None) -> None:
    """Count an answer. `route`: Django's pattern, "" if none is known; `seconds` that it took."""
    requests, took = _series(method if method in METHODS else "other", route, way, status)
    requests.inc()
    if seconds is not None and way != "limit":
        took.observe(seconds)


@cache
def _series(method: str, route: str, way: Way, status: int) -> tuple[Counter, Histogram]:
    """`labels` would take a tenth of the time of a cached read."""
    labels = (method, name(route), way)
    return REQUESTS.labels(*labels, status), SECONDS.labels(*labels)


def name(route: str) -> str:
    """A route as it is written in the API's documentation, `/v1/counters/{key}`; `unknown` if there is none."""
    if not route:
        return "unknown"
    path = "/" + re.sub(r"<(?:\w+:)?(\w+)>", r"{\1}", route)
    return "/admin" if path.startswith("/admin") else path
