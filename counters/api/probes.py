"""Probes: /health for load balancers, /metrics for Prometheus. Neither raises an exception."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor, wait
from functools import cache, partial
from typing import Any

import psycopg
from django.conf import settings
from django.http import HttpResponse
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest
from redis.exceptions import RedisError
from rest_framework.renderers import BaseRenderer
from rest_framework.request import Request
from rest_framework.response import Response

from counters.api import schema
from counters.api.authentication import keyring
from counters.api.base import ApiView
from counters.intake import copies
from runtime import redis
from sharding import databases, topology

_SECONDS = 2.0


class KeysUnknown(Exception):
    """This process cannot identify callers yet."""


@cache
def _probers() -> ThreadPoolExecutor:
    return ThreadPoolExecutor(max_workers=8, thread_name_prefix="probe")


def _select_one(alias: str) -> None:
    with databases.connection(alias) as conn:
        conn.execute("SELECT 1")


def _keys_are_loaded() -> None:
    if not keyring.is_loaded:
        raise KeysUnknown("no API keys were read yet: the control database did not answer")


def _probes() -> dict[str, Callable[[], Any]]:
    probes: dict[str, Callable[[], Any]] = {
        "journal": lambda: redis.journal().ping(),
        **({"journal-copies": copies.check} if settings.TALLY.journal_replicas else {}),
        "cache": lambda: redis.cache_unguarded().ping(),
        "topology": topology.current,
        "keys": _keys_are_loaded,
    }
    for alias in settings.DATABASES:
        name = "control" if alias == databases.CONTROL else alias
        probes[name] = partial(_select_one, alias)
    return probes


class HealthView(ApiView):
    """This process and what it needs."""

    authentication_classes = ()
    permission_classes = ()

    @schema.health
    def get(self, _request: Request) -> Response:
        """Live, ready, and each component as this process sees it."""
        probing = {name: _probers().submit(probe) for name, probe in _probes().items()}
        wait(probing.values(), _SECONDS)
        components = []
        for name, future in probing.items():
            detail = "no answer in time" if not future.done() else _trouble(future.exception())
            components.append(
                {"name": name, "status": "down", "detail": detail} if detail else {"name": name, "status": "up"}
            )
        down = {component["name"] for component in components if component["status"] == "down"}
        ready = not down & {"journal", "topology", "keys"}
        answer = {
            "status": "down" if not ready else "degraded" if down else "ok",
            "live": True,
            "ready": ready,
            "node": settings.TALLY.node_id,
            "components": components,
        }
        return Response(answer, 200 if ready else 503, headers={} if ready else {"Retry-After": "1"})


def _trouble(error: BaseException | None) -> str:
    if error is None:
        return ""
    known = isinstance(error, psycopg.Error | RedisError | topology.NoTopology | KeysUnknown)
    return str(error).strip().splitlines()[0] if known and str(error).strip() else type(error).__name__


class PrometheusRenderer(BaseRenderer):
    """Makes DRF accept a scraper's Accept header."""

    media_type = "text/plain"
    format = "prometheus"


class MetricsView(ApiView):
    """This process's metrics."""

    authentication_classes = ()
    permission_classes = ()
    renderer_classes = (PrometheusRenderer,)

    @schema.metrics
    def get(self, _request: Request) -> HttpResponse:
        """This process's metrics, in Prometheus' text format."""
        return HttpResponse(generate_latest(), content_type=CONTENT_TYPE_LATEST)
