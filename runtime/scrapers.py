"""Who may read /metrics. Pure."""

from __future__ import annotations

import hmac

CHALLENGE = 'Bearer realm="metrics"'


def may_read(header: str, token: str) -> bool:
    """Whether an `Authorization` header has the token of the scrapers. Without a token nobody may read."""
    return bool(token) and hmac.compare_digest(header.encode(), f"Bearer {token}".encode())
