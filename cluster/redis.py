"""A client of one Redis or Sentinel of the cluster, which gives up soon: who asks has another to ask, or asks again."""

from __future__ import annotations

from typing import Any

from redis import Redis
from redis.backoff import NoBackoff
from redis.retry import Retry

TIMEOUT_SECONDS = 0.5  # to connect, and for each answer


def client(port: int, password: str) -> Any:
    """The caller closes it. Its answers are text, and have no useful types."""
    return Redis(
        port=port,
        password=password,
        socket_timeout=TIMEOUT_SECONDS,
        socket_connect_timeout=TIMEOUT_SECONDS,
        retry=Retry(NoBackoff(), 0),
        decode_responses=True,
        encoding_errors="replace",
    )
