"""The spans of OpenTelemetry: request → flush → task → transaction (docs/tracing.md).

A request's span is in its caller's trace, or in one of its own, whose id is then the request's. A flush joins many
requests and a transaction many flushes, so neither is in the trace of those: it *links* to them. What leads from the one to
the other must not be in the journal's entries, which an older release may read. It is the id of the batch, which is there
anyhow:

- The batch's id is the id of the flush's trace, and its second half the id of the flush's span.
- Its last two bytes say whether the flush has a span (`_TRACED`): if one of its requests has. A transaction has a span if
  one of its flushes has. So what is sampled is sampled from end to end, and the rest costs a comparison.

A process that has no traces makes ids that look traced, one of 65,536: the span of a transaction then links to a flush
that nobody has told of.
"""

from __future__ import annotations

import re
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from threading import Thread
from uuid import UUID

from opentelemetry.context import Context
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import OTELResourceDetector, Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor
from opentelemetry.sdk.trace.id_generator import RandomIdGenerator
from opentelemetry.sdk.trace.sampling import ALWAYS_ON, ParentBased, TraceIdRatioBased
from opentelemetry.trace import (
    Link,
    NonRecordingSpan,
    Span,
    SpanContext,
    SpanKind,
    TraceFlags,
    Tracer,
    set_span_in_context,
)
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator
from opentelemetry.trace.status import StatusCode
from uuid_utils.compat import uuid7

_TRACED = 0x7ACE
_MARK = _TRACED.to_bytes(2, "big")
_TRACE = re.compile("(?!0{32})[0-9a-f]{32}")
_CLOSE_SECONDS = 3.0  # for the last spans to be sent
_PARENTS = (b"traceparent", b"tracestate")
Attributes = Mapping[str, str | int | bool]


class Spans:
    """Makes the spans of one process, and sends them from a thread of its own, from now to `close`.

    `url` takes OTLP over HTTP. `share`, 0 to 1, is that of the requests which begin a trace, of those whose caller has none.
    """

    def __init__(self, url: str, share: float, service: str, instance: str) -> None:
        own = Resource.create({"service.name": service, "service.namespace": "tally", "service.instance.id": instance})
        resource = own.merge(OTELResourceDetector().detect())  # OTEL_SERVICE_NAME, OTEL_RESOURCE_ATTRIBUTES
        self._ids = _Ids()
        asked = TracerProvider(
            ParentBased(TraceIdRatioBased(share)), resource, shutdown_on_exit=False, id_generator=self._ids
        )
        shared = TracerProvider(ALWAYS_ON, resource, shutdown_on_exit=False, id_generator=self._ids)
        self._processor = BatchSpanProcessor(OTLPSpanExporter(url))
        asked.add_span_processor(self._processor)
        shared.add_span_processor(self._processor)
        self._asked, self._shared = asked.get_tracer("tally"), shared.get_tracer("tally")

    def close(self) -> None:
        """Send what is left, for some seconds at most."""
        last = Thread(target=self._processor.shutdown, name="last spans", daemon=True)
        last.start()
        last.join(_CLOSE_SECONDS)

    def request(self, method: str, headers: Sequence[tuple[bytes, bytes]], id: str) -> Span:
        """Begin the span of a request with this id. Call it on the event loop."""
        carrier = {name.decode(): value.decode("latin-1") for name, value in headers if name in _PARENTS}
        parent = TraceContextTextMapPropagator().extract(carrier, Context())
        self._ids.trace = _trace(id)
        span = self._asked.start_span(method, parent, SpanKind.SERVER)
        self._ids.trace = 0
        if span.is_recording():
            span.set_attributes({"http.request.method": method, "tally.request_id": id})
        return span

    @contextmanager
    def flush(
        self, requests: Sequence[SpanContext], attributes: Attributes, unless: tuple[type[Exception], ...]
    ) -> Iterator[UUID]:
        """A span around a flush, which has the id that this yields, if any of its requests has one. None after an exception of
        `unless`: nothing was flushed then. Call it on the event loop."""
        id = _named(bool(requests))
        if not requests:
            yield id
            return
        self._ids.trace, self._ids.span = id.int, _context(id).span_id
        span = self._shared.start_span(
            "flush", Context(), SpanKind.PRODUCER, {**attributes, "tally.batch": id.hex}, [*map(Link, requests)]
        )
        try:
            yield id
        except unless:
            raise
        except BaseException as error:
            _fail(span, error)
            raise
        span.end()

    def task(self, attributes: Attributes) -> Task:
        """Work on many flushes, which begins now."""
        return Task(self._shared, attributes)

    @staticmethod
    def end_request(span: Span, status: int, route: str, write: str) -> None:
        """End the span of a request. `write`: the id of the write that it has made, or made once; "" for none."""
        if span.is_recording():
            span.update_name(f"{span.name} {route}".rstrip())  # type: ignore[attr-defined]
            span.set_attributes({"http.response.status_code": status, "http.route": route})
            if write:
                batch = UUID(hex=write.partition("-")[0])
                span.set_attribute("tally.write", write)
                if is_traced(batch.bytes):
                    span.add_link(_context(batch))
            if status >= 500:
                span.set_status(StatusCode.ERROR)
        span.end()


class Task:
    """A task, whose span begins late: when the first flush with a span is in one of its transactions. Belongs to a thread."""

    def __init__(self, tracer: Tracer, attributes: Attributes) -> None:
        self._tracer, self._attributes = tracer, attributes
        self._began = time.time_ns()
        self._span: Span | None = None

    @contextmanager
    def transaction(self, batches: Iterable[bytes], attributes: Attributes) -> Iterator[Transaction | None]:
        """A span around a transaction of these batches, if any of their flushes has one."""
        flushes = {id: _context(UUID(bytes=id)) for id in batches if is_traced(id)}
        if not flushes:
            yield None
            return
        if self._span is None:
            self._span = self._tracer.start_span(
                "counters.apply", Context(), SpanKind.CONSUMER, self._attributes, start_time=self._began
            )
        for flush in flushes.values():
            self._span.add_link(flush)
        began = time.time_ns()
        span = self._tracer.start_span(
            "transaction",
            set_span_in_context(self._span, Context()),
            SpanKind.CLIENT,
            {"db.system.name": "postgresql", **attributes},
            [*map(Link, flushes.values())],
            began,
        )
        transaction = Transaction(span)
        try:
            yield transaction
        except BaseException as error:
            _fail(span, error)
            raise
        span.end()
        for id in flushes.keys() & transaction.new:
            parent = set_span_in_context(NonRecordingSpan(flushes[id]), Context())
            link = [Link(span.get_span_context())]
            self._tracer.start_span("applied", parent, SpanKind.CONSUMER, attributes, link, began).end()

    def end(self) -> None:
        """The task is over."""
        if self._span is not None:
            self._span.end()


class Transaction:
    """A transaction that has a span. `new`: batches that the ledger did not have, once it is committed."""

    def __init__(self, span: Span) -> None:
        self._span = span
        self.new: frozenset[bytes] = frozenset()

    def committed(self, new: Iterable[bytes], rows: int) -> None:
        """It has applied these batches, and written so many rows."""
        self.new = frozenset(new)
        self._span.set_attributes({"tally.batches.new": len(self.new), "tally.rows": rows})


def is_traced(batch: bytes) -> bool:
    """Whether the flush of a batch with this id has a span."""
    return batch[-2:] == _MARK


class _Ids(RandomIdGenerator):
    """Random ids, but for those given for the next span. They are given on the event loop, where no other span is begun
    meanwhile; a worker gives none."""

    trace = span = 0

    def generate_trace_id(self) -> int:
        trace, self.trace = self.trace, 0
        return trace or super().generate_trace_id()

    def generate_span_id(self) -> int:
        span, self.span = self.span, 0
        return span or super().generate_span_id()

    def is_trace_id_random(self) -> bool:
        return False


def _trace(request: str) -> int:
    """The id of the trace of a request without a parent: its own id if that can be one, otherwise 0."""
    return int(request, 16) if _TRACE.fullmatch(request) else 0


def _named(traced: bool) -> UUID:
    """A new id for the batches of a flush."""
    id = uuid7().int
    if traced:
        id = id & ~0xFFFF | _TRACED
    elif id & 0xFFFF == _TRACED:
        id ^= 1
    return UUID(int=id)


def _context(batch: UUID) -> SpanContext:
    """The span of the flush that has made a batch."""
    return SpanContext(batch.int, batch.int & 0xFFFF_FFFF_FFFF_FFFF, is_remote=True, trace_flags=TraceFlags(1))


def _fail(span: Span, error: BaseException) -> None:
    """End a span. The text of an error may have keys, so its kind must do."""
    span.set_attribute("error.type", type(error).__name__)
    span.set_status(StatusCode.ERROR)
    span.end()
