"""The contract: every call of the schema answers as the schema says, whatever it is asked. And the documents about it are whole."""

from __future__ import annotations

from collections.abc import Iterator
from html.parser import HTMLParser
from typing import Any
from urllib.parse import urljoin, urlsplit

import httpx
import msgspec
import pytest
import schemathesis
from hypothesis import HealthCheck, Phase, settings
from schemathesis.config import SchemathesisConfig

from tests.conftest import Cluster

CONFIG = {
    "generation": {"mode": "all", "max-examples": 25, "deterministic": True, "database": "none"},
    "phases": {"stateful": {"enabled": False}},
}
schema = schemathesis.pytest.from_fixture("contract")


@schemathesis.serializer("application/msgpack")
def as_msgpack(_context: schemathesis.SerializationContext, value: Any) -> bytes:
    """How the schema's MessagePack bodies look on the wire."""
    return msgspec.msgpack.encode(value)


@schemathesis.serializer("application/x-ndjson")
def as_ndjson(_context: schemathesis.SerializationContext, value: Any) -> bytes:
    """How its arrays of lines look; what is no array cannot be lines, and goes as it is."""
    return msgspec.json.Encoder().encode_lines(value) if isinstance(value, list) else msgspec.json.encode(value)


@pytest.fixture(scope="module")
def contract(cluster: Cluster) -> Any:
    """The schema that the running API serves."""
    return schemathesis.openapi.from_url(f"{cluster.url}/v1/schema", config=SchemathesisConfig.from_dict(CONFIG))


@schema.parametrize()
@settings(max_examples=25, deadline=None, phases=[Phase.explicit, Phase.generate], suppress_health_check=list(HealthCheck))
def test_every_call_answers_as_documented(case: schemathesis.Case, cluster: Cluster) -> None:
    """All checks of schemathesis: no 5xx, and status, media type, headers and body as the schema says; bad data refused, good data taken."""
    case.call_and_validate(headers={"Authorization": f"Api-Key {cluster.key}"}, timeout=60)
