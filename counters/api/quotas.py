"""Which requests count, and against whose quota: every call of the API, `/v1/…`, by its API key, or else by its address.

Probes, metrics and files count nowhere, and the pages for people have a limit of their own (`counters.admin.pages`). A
key that is unknown, revoked or expired counts by the address that tries it.
"""

from __future__ import annotations

from typing import Any, NamedTuple

from counters.api.authentication import Caller, keyring
from counters.limits import addresses
from counters.limits.policies import Quotas

COUNTED = "/v1/"


class User(NamedTuple):
    """Who uses a quota: an API key, by its prefix, or an address."""

    name: str
    quotas: Quotas


def user_of(scope: dict[str, Any], caller: Caller | None, authorization: str) -> User | None:
    """Whose quota a request of a caller uses; None if it uses none, or if nobody knows the keys yet. Does no I/O."""
    if not scope["path"].startswith(COUNTED):
        return None
    if caller:
        return User(caller.prefix, caller.quotas)
    keys = keyring()
    if authorization and not keys.is_loaded:
        return None
    return User(addresses.of_scope(scope), keys.anonymous)
