"""The labels of what is counted of requests are bounded."""

from __future__ import annotations

import pytest
from prometheus_client import REGISTRY

from counters.api import request_metrics


@pytest.mark.parametrize(
    ("route", "name"),
    [
        ("v1/counters/<any:key>/increments", "/v1/counters/{key}/increments"),
        ("v1/shards/<str:shard>/replicas/<str:node>/delay", "/v1/shards/{shard}/replicas/{node}/delay"),
        ("admin/counters/counter/<path:object_id>/change/", "/admin"),
        ("admin/login/", "/admin"),
        ("", "unknown"),
    ],
)
def test_a_route_is_named_as_in_the_documentation(route: str, name: str) -> None:
    assert request_metrics.name(route) == name


def test_any_method_of_a_stranger_is_one() -> None:
    for number in range(3):
        request_metrics.count(f"BREW{number}", "v1/counters", "view", 405, 0.001)
    labels = {"method": "other", "route": "/v1/counters", "way": "view"}
    assert REGISTRY.get_sample_value("tally_requests_total", {**labels, "status": "405"}) == 3
    assert REGISTRY.get_sample_value("tally_request_seconds_count", labels) == 3


def test_a_refusal_has_no_time() -> None:
    request_metrics.count("GET", "", "limit", 429, 0.001)
    labels = {"method": "GET", "route": "unknown", "way": "limit"}
    assert REGISTRY.get_sample_value("tally_requests_total", {**labels, "status": "429"}) == 1
    assert not REGISTRY.get_sample_value("tally_request_seconds_count", labels)
