"""Probes: /livez, /readyz and /health, and /metrics for Prometheus. None raises an exception or waits for a component
that hangs.

- /livez: this process answers. Nothing else is looked at: a supervisor should restart it only if this fails.
- /readyz: it can serve. It has the topology and the API keys, and the journal answers.
- /health: every component, and how many copies of the data there are.

The first three are answered on the event loop (`fast_path`), so they need no free thread.
"""

from __future__ import annotations

import asyncio
from concurrent.futures import Future
from typing import TypeVar

from django.conf import settings
from django.http import HttpResponse
from prometheus_client import REGISTRY
from prometheus_client.exposition import choose_encoder
from rest_framework.renderers import BaseRenderer
from rest_framework.request import Request

from counters.api import schema
from counters.api.answers import Answer
from counters.api.authentication import keyring
from counters.api.base import ApiView, Response
from counters.api.problems import Problem, unavailable
from counters.api.requests import Health, Probe
from counters.operators import health
from counters.operators.health import Component, View
from runtime import scrapers
from sharding import topology

T = TypeVar("T")
LIVE, READY, HEALTH = "/livez", "/readyz", "/health"


def own() -> list[Component]:
    """What this process must have loaded."""
    loaded = {"topology": topology.is_loaded(), "keys": keyring().is_loaded}
    return [
        Component(name, "up") if there else Component(name, "down", "not loaded yet: no database has answered")
        for name, there in loaded.items()
    ]


def _missing(components: list[Component]) -> list[Component]:
    """What keeps this process from serving."""
    return [one for one in components if one.name in ("journal", "topology", "keys") and one.status != "up"]


def live() -> Answer:
    """This process answers."""
    return Answer(Probe("ok", settings.TALLY.node_id))


def ready(journal: Component) -> Answer:
    """Whether this process can serve. Raises `Problem` 503."""
    if missing := _missing([*own(), journal]):
        raise unavailable("not-ready", "; ".join(f"{one.name}: {one.detail}" for one in missing) + ".")
    return live()


def whole(view: View) -> Answer:
    """Every component; 503 if this process cannot serve."""
    components = [*own(), *view.components]
    is_ready = not _missing(components)
    is_ok = all(one.status == "up" for one in components)
    found = Health(
        status="down" if not is_ready else "ok" if is_ok else "degraded",
        live=True,
        ready=is_ready,
        node=settings.TALLY.node_id,
        components=components,
        redundancy=view.redundancy,
        at=view.at,
    )
    return Answer(found, 200 if is_ready else 503, {} if is_ready else {"Retry-After": "1"})


async def answered(path: str) -> Answer:
    """The answer of one of the three, on an event loop. Raises `Problem`."""
    if path == LIVE:
        return live()
    if path == READY:
        return ready(await _shared(health.look_at_journal()))
    return whole(await _shared(health.look()))


async def _shared(look: Future[T]) -> T:
    """The result of a look that others wait for, too."""
    return await asyncio.shield(asyncio.wrap_future(look))


class ProbeView(ApiView):
    """For anyone: load balancers and supervisors have no key."""

    authentication_classes = ()
    permission_classes = ()


class LiveView(ProbeView):
    """Whether this process works."""

    @schema.live
    def get(self, _request: Request) -> Response:
        """This process answers, whatever it can reach."""
        return Response(*live())


class ReadyView(ProbeView):
    """Whether this process can serve."""

    @schema.ready
    def get(self, _request: Request) -> Response:
        """This process can serve: it has the topology and the API keys, and the journal answers."""
        return Response(*ready(health.look_at_journal().result()))


class HealthView(ProbeView):
    """This process and everything that it needs."""

    @schema.health
    def get(self, _request: Request) -> Response:
        """Each component as this process sees it, and how many copies of the data there are. Shared for half a
        second."""
        return Response(*whole(health.look().result()))


class PrometheusRenderer(BaseRenderer):
    """Makes DRF accept a scraper's Accept header. The client library chooses between the two formats."""

    media_type = "text/plain"
    format = "prometheus"


class OpenMetricsRenderer(BaseRenderer):
    """The same for the other format."""

    media_type = "application/openmetrics-text"
    format = "openmetrics"


class MetricsView(ProbeView):
    """This process's metrics."""

    renderer_classes = (PrometheusRenderer, OpenMetricsRenderer)

    @schema.metrics
    def get(self, request: Request) -> HttpResponse:
        """This process's metrics, all of them or those that `name[]` names: as OpenMetrics, with exemplars, for those who
        accept that, or in Prometheus' older text format. Raises `Problem` 401 for anybody but the scrapers."""
        header = request._request.META.get("HTTP_AUTHORIZATION", "")
        if not scrapers.may_read(header, settings.TALLY.metrics_token.get_secret_value()):
            challenge = {"WWW-Authenticate": scrapers.CHALLENGE}
            raise Problem(401, "unauthorized", "This needs the token of the scrapers.", headers=challenge)
        names = request.query_params.getlist("name[]")
        registry = REGISTRY.restricted_registry(names) if names else REGISTRY
        encode, content_type = choose_encoder(request._request.META.get("HTTP_ACCEPT", ""))
        return HttpResponse(encode(registry), content_type=content_type)
