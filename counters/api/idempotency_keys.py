"""`Idempotency-Key`: what it may be, and the claim of a request that has one."""

from __future__ import annotations

from collections.abc import Callable

from counters.api.authentication import Caller
from counters.api.problems import invalid
from counters.intake import idempotency
from counters.intake.idempotency import Claim


def claim(  # noqa: PLR0913, PLR0917
    caller: Caller | None, key: str | None, method: str, path: str, body: Callable[[], bytes], condition: str
) -> Claim | None:
    """The claim of a request with this key, None without one. `condition`: its `If-Match`, "" without one. Raises `Problem`
    400, and what `body` raises."""
    if key is None:
        return None
    if not 1 <= len(key) <= idempotency.MAX_KEY_LENGTH or not key.isascii() or not key.isprintable():
        raise invalid("Idempotency-Key", f"1 to {idempotency.MAX_KEY_LENGTH} printable ASCII characters")
    return idempotency.claim(caller.prefix if caller else "", key, method, path, body(), condition)
