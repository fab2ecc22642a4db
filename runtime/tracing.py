"""Whether this process tells a collector of OpenTelemetry what it does, and with what (docs/tracing.md).

The spans are in `spans`. It is imported only where `TALLY_TRACES_ENDPOINT` is set: its library is the extra `otel`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from django.conf import settings

from runtime.resources import owned

if TYPE_CHECKING:
    from runtime.spans import Spans


def is_on() -> bool:
    """Whether there is somebody to tell."""
    return bool(settings.TALLY.traces_endpoint)


def _close(spans: Spans | None) -> None:
    if spans is not None:
        spans.close()


@owned(close=_close)
def api() -> Spans | None:
    """The spans of an API process; None if nobody is told."""
    return _made("tally-api")


@owned(close=_close)
def worker() -> Spans | None:
    """The spans of a worker; None if nobody is told."""
    return _made("tally-worker")


def _made(service: str) -> Spans | None:
    if not is_on():
        return None
    from runtime.spans import Spans  # noqa: PLC0415 - only there if it is wanted

    tally = settings.TALLY
    return Spans(tally.traces_endpoint, tally.traces_percent / 100, service, tally.node_id)
