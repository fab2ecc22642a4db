"""The labels of what is counted of requests are bounded."""

from __future__ import annotations

import pytest
from prometheus_client import CollectorRegistry, Histogram
from prometheus_client.openmetrics.exposition import generate_latest
from prometheus_client.openmetrics.parser import text_string_to_metric_families
from prometheus_client.utils import floatToGoString

from counters.api import request_metrics
from counters.api.request_metrics import BUCKETS, Requests


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


@pytest.fixture
def counted() -> tuple[Requests, CollectorRegistry]:
    registry = CollectorRegistry()
    registry.register(requests := Requests())
    return requests, registry


def test_any_method_of_a_stranger_is_one(counted: tuple[Requests, CollectorRegistry]) -> None:
    requests, registry = counted
    for number in range(3):
        requests.count(f"BREW{number}", "v1/counters", "view", 405, 0.001)
    labels = {"method": "other", "route": "/v1/counters", "way": "view"}
    assert registry.get_sample_value("tally_requests_total", {**labels, "status": "405"}) == 3
    assert registry.get_sample_value("tally_request_seconds_count", labels) == 3


def test_times_are_counted_as_a_histogram_of_the_library_does(counted: tuple[Requests, CollectorRegistry]) -> None:
    requests, registry = counted
    theirs = Histogram("theirs", "", buckets=BUCKETS, registry=registry)
    for seconds in (0.0, 0.0005, 0.001, 0.0011, 0.03, 0.7, 30.0, 31.0, 1000.0):
        requests.count("GET", "v1/counters", "view", 200, seconds)
        theirs.observe(seconds)
    labels = {"method": "GET", "route": "/v1/counters", "way": "view"}
    assert registry.get_sample_value("tally_request_seconds_sum", labels) == registry.get_sample_value("theirs_sum")
    for bound in [*map(floatToGoString, BUCKETS), "+Inf"]:
        found = registry.get_sample_value("tally_request_seconds_bucket", {**labels, "le": bound})
        assert found is not None
        assert found == registry.get_sample_value("theirs_bucket", {"le": bound})


def test_a_refusal_has_no_time(counted: tuple[Requests, CollectorRegistry]) -> None:
    requests, registry = counted
    requests.count("GET", "", "limit", 429)
    labels = {"method": "GET", "route": "unknown", "way": "limit"}
    assert registry.get_sample_value("tally_requests_total", {**labels, "status": "429"}) == 1
    assert registry.get_sample_value("tally_request_seconds_count", labels) is None


def test_a_bucket_names_its_last_request(counted: tuple[Requests, CollectorRegistry]) -> None:
    """One whose id is too long for OpenMetrics is not named."""
    requests, registry = counted
    for id, seconds in (("first", 0.004), ("last", 0.003), ("slow", 31.0), ("x" * 119, 0.2), ("y" * 118, 0.7)):
        requests.count("GET", "v1/counters", "view", 200, seconds, id)
    text = generate_latest(registry).decode()  # type: ignore[no-untyped-call]
    families = text_string_to_metric_families(text)  # type: ignore[no-untyped-call]
    samples = [one for family in families for one in family.samples if one.exemplar]
    found = {one.labels["le"]: (one.exemplar.labels, one.exemplar.value) for one in samples if one.exemplar}
    assert found == {
        "0.005": ({"request_id": "last"}, 0.003),
        "1.0": ({"request_id": "y" * 118}, 0.7),
        "+Inf": ({"request_id": "slow"}, 31.0),
    }
