"""The capacity model of docs/scaling.md: what it says follows from what was measured."""

from __future__ import annotations

import random
from dataclasses import asdict
from itertools import pairwise
from uuid import uuid4

import pytest

from benchmarks import capacity, document
from benchmarks.capacity import Load
from benchmarks.load import keys, wire
from counters import batch
from counters.api import arrow
from counters.batch import Increments

FOUND = document.load()
SINGLE, ARROW, LARGE = LOADS = capacity.loads(FOUND)
FIXED = {"beat", "disks", "etcd", "flower", "load", "patroni", "redis-broker", "sentinel", "spill-worker"}


def test_the_page_has_what_the_model_reckons() -> None:
    page = capacity.PAGE.read_text(encoding="utf-8")
    assert page.partition("<!-- capacity -->\n")[2].partition("<!-- /capacity -->")[0] == capacity.markdown(FOUND)


def test_at_the_measured_rate_it_is_what_was_measured() -> None:
    """No role is forgotten, and rates, shares and costs belong together."""
    for name, load in (("bulk", ARROW), ("bulk", LARGE), ("single", SINGLE)):
        told = "One increment a request" if load is SINGLE else f", {load.name}, "
        rate = next(one["value"] for one in FOUND["figures"] if one["of"] == name and told in one["name"])
        shares = FOUND["details"][name]["shares of a core, by role"]
        measured = shares[f"Tally, {load.name}"] if name == "bulk" else shares
        assert measured.keys() <= {*capacity.ROLES, *FIXED}
        busy = sum(share for role, share in measured.items() if role not in FIXED)
        assert capacity.need(load, rate).cores * capacity.BUSY == pytest.approx(busy, rel=0.01)


@pytest.mark.parametrize("load", LOADS, ids=lambda load: load.name)
def test_more_needs_no_less(load: Load) -> None:
    totals = ("cores", "api", "workers", "shards", "journals", "memory", "network_in", "network_within", "connections")
    needs = [asdict(capacity.need(load, 10**power)) for power in range(3, 10)]
    for less, more in pairwise(needs):
        assert all(less[name] <= more[name] for name in totals)


@pytest.mark.parametrize("load", LOADS, ids=lambda load: load.name)
def test_one_journal_takes_its_ceiling_and_no_more(load: Load) -> None:
    assert capacity.need(load, capacity.ceiling(load) * 0.999).journals == 1
    assert capacity.need(load, capacity.ceiling(load) * 1.001).journals == 2


@pytest.mark.parametrize(("load", "size"), [(ARROW, 10_000), (LARGE, 100_000)], ids=["10,000", "100,000"])
def test_bodies_have_so_many_bytes(load: Load, size: int) -> None:
    names = [f"b01234567:{number}" for number in range(100_000)]  # as benchmarks/figures/bulk.py
    body = keys.body(keys.ARROW, keys.zipf(names, size, random.Random(1)))
    folded = dict(arrow.fold(body)[0].items())
    segment = batch.encode_segment(Increments(list(folded), list(folded.values())))
    assert len(body) / size == pytest.approx(load.sent, rel=0.02)
    assert len(segment) / size == pytest.approx(load.journalled, rel=0.02)


def test_an_increment_has_so_many_bytes() -> None:
    name = "s01234567:17"
    request = wire.increment(f"/v1/counters/{name}/increments", headers={"Authorization": f"Api-Key {'x' * 50}"})
    entry = batch.encode(uuid4(), [(0, batch.encode_segment(Increments([name], [1])))], [], None)
    assert len(request) == pytest.approx(SINGLE.sent, rel=0.02)
    assert len(entry) == pytest.approx(SINGLE.journalled, rel=0.02)
