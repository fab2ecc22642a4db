"""A client of one Redis or Sentinel, which gives up soon: who asks has another to ask, or asks again."""

from __future__ import annotations

import os
from typing import Any, NamedTuple

LOCAL = "127.0.0.1"  # where all of the local cluster listens
TIMEOUT_SECONDS = 0.5  # to connect, and for each answer


class Address(NamedTuple):
    """Where a server listens."""

    host: str
    port: int

    @classmethod
    def of(cls, text: str) -> Address:
        """From HOST:PORT. Raises `ValueError`."""
        host, _, port = text.rpartition(":")
        return cls(host, int(port))

    def __str__(self) -> str:
        return f"{self.host}:{self.port}"


def client(port: int, password: str, host: str = LOCAL) -> Any:
    """The caller closes it. Its answers are text, and have no useful types. It speaks TLS if `TLS_AUTHORITY` is set: the file
    with the certificate of who signed the server's."""
    from redis import Redis
    from redis.backoff import NoBackoff
    from redis.retry import Retry

    authority = os.environ.get("TLS_AUTHORITY")
    return Redis(
        host=host,
        port=port,
        password=password,
        socket_timeout=TIMEOUT_SECONDS,
        socket_connect_timeout=TIMEOUT_SECONDS,
        retry=Retry(NoBackoff(), 0),
        decode_responses=True,
        encoding_errors="replace",
        ssl=bool(authority),
        ssl_ca_certs=authority,
        ssl_check_hostname=False,  # servers are known by their addresses
    )


def errors() -> type[Exception]:
    """What a client raises: `RedisError`."""
    from redis.exceptions import RedisError

    return RedisError
