"""The application of a process whose requests have spans (docs/tracing.md)."""

from __future__ import annotations

from counters.api import probes
from counters.api.application import Application, Scope
from counters.api.fast_path import Raw
from counters.api.request_metrics import METHODS, name
from runtime import request_id, tracing

_PROBES = frozenset((probes.LIVE, probes.READY, probes.HEALTH, "/metrics"))


class Traced(Application):
    """An application that makes a span of each request, from its body to its answer. Probes, and a request whose body is
    refused, have none."""

    async def answer(self, scope: Scope, body: bytes) -> Raw:
        """As of any application."""
        spans, made = tracing.api(), request_id.MADE.get()
        if spans is None or made is None or scope["path"] in _PROBES:
            return await super().answer(scope, body)
        method = scope["method"] if scope["method"] in METHODS else "_OTHER"
        span = spans.request(method, scope["headers"], request_id.CURRENT.get())
        if span.is_recording():
            made.span = span.get_span_context()
        status, route = 500, ""
        try:
            answer = await super().answer(scope, body)
            status, route = answer.status, name(answer.route)
        finally:
            spans.end_request(span, status, route, made.write)
        return answer
