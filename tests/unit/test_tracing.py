"""What a process tells a collector of OpenTelemetry. That it loads nothing of it while there is none: test_house.py."""

from __future__ import annotations

import socket
import sys
import time
from pathlib import Path

import pytest
from opentelemetry.trace import SpanContext, TraceFlags

from counter_project.config import ConfigError, load
from runtime import spans
from runtime.hidden import hidden
from runtime.spans import Spans
from tests.support.commands import ROOT
from tests.support.traces import attributes, receiver

REQUEST = SpanContext(1, 2, is_remote=False, trace_flags=TraceFlags(1))


def test_only_one_module_knows_the_library() -> None:
    rooms = ("runtime", "sharding", "replication", "counters", "likes", "counter_project")
    named = [path for room in rooms for path in Path(ROOT, room).rglob("*.py") if "opentelemetry." in path.read_text()]
    at_run_time = [path for path in named if "if TYPE_CHECKING:\n    from opentelemetry" not in path.read_text()]
    assert sorted(path.name for path in at_run_time) == ["config.py", "spans.py"]


def test_without_the_extra_a_process_that_has_traces_does_not_start(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TALLY_TRACES_ENDPOINT", "http://127.0.0.1:4318/v1/traces")
    assert load().traces_endpoint
    for name in [name for name in sys.modules if name.partition(".")[0] == "opentelemetry"]:
        monkeypatch.delitem(sys.modules, name)
    with hidden("opentelemetry"), pytest.raises(ConfigError, match=r"TALLY_TRACES_ENDPOINT: .*tally\[otel\]"):
        load()


def test_the_id_of_a_batch_says_whether_its_flush_has_a_span() -> None:
    for traced in (True, False):
        ids = [spans._named(traced) for _ in range(100)]
        assert len(set(ids)) == 100
        assert {id.version for id in ids} == {7}
        assert {spans.is_traced(id.bytes) for id in ids} == {traced}


def test_an_error_is_named_without_its_text_and_what_was_not_flushed_is_none() -> None:
    """Its text may have a counter's key."""
    with receiver() as collector:
        told = Spans(collector.url, 1.0, "test", "test")
        for error in (KeyError("a key"), ValueError("nothing flushed")):
            with pytest.raises(type(error)), told.flush([REQUEST], {}, (ValueError,)):
                raise error
        with told.flush([], {}, ()) as unseen:
            assert not spans.is_traced(unseen.bytes)
        told.close()
    ((_, span),) = collector.spans
    assert attributes(span)["error.type"] == "KeyError"
    assert span.status.code == span.status.STATUS_CODE_ERROR
    assert b"a key" not in span.SerializeToString()


def test_a_share_of_the_requests_begins_a_trace() -> None:
    """And every one whose caller wants one."""
    with receiver() as collector:
        told = Spans(collector.url, 0.0, "test", "test")
        for headers in ([], [(b"traceparent", b"00-" + b"a" * 32 + b"-" + b"b" * 16 + b"-01")]):
            told.end_request(told.request("GET", headers, "mine"), 200, "/v1/counters", "")
        told.close()
    ((_, span),) = collector.spans
    assert (span.name, span.trace_id.hex()) == ("GET /v1/counters", "a" * 32)


def test_a_collector_that_hangs_does_not_keep_a_process(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(spans, "_CLOSE_SECONDS", 0.2)
    with socket.create_server(("127.0.0.1", 0)) as server:
        told = Spans(f"http://127.0.0.1:{server.getsockname()[1]}/v1/traces", 1.0, "test", "test")
        told.end_request(told.request("GET", [], "mine"), 200, "", "")
        began = time.monotonic()
        told.close()
    assert time.monotonic() - began < 2
