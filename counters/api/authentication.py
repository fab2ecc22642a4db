"""`Authorization: Api-Key …`: who calls, and what the key allows.

The keys are few and looked up on every request, so each process holds all of them and asks the database at most every
`TALLY_API_KEY_TTL_SECONDS` (and for a key it does not know, at most twice a second). While the control database is away it goes on
with what it knows.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from hashlib import sha256
from threading import Lock, Thread
from typing import Any, ClassVar

import structlog
from django.conf import settings
from django.db import Error as DatabaseError
from django.db import connection
from django.utils import timezone
from rest_framework.authentication import BaseAuthentication
from rest_framework.exceptions import AuthenticationFailed
from rest_framework.permissions import BasePermission
from rest_framework.request import Request

from counters.api.problems import unavailable
from counters.models import ApiKey, Scope
from runtime import event_loop

KEYWORD = "Api-Key"
_UNKNOWN_KEY_SECONDS = 0.5
_MOST_CHECKED = 10_000
log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class Caller:
    """A client known by its key."""

    prefix: str
    name: str
    scopes: frozenset[str]
    is_authenticated: ClassVar[bool] = True


class Keyring:
    """All API keys, as the control database last told them."""

    def __init__(self) -> None:
        self._keys: dict[str, ApiKey] | None = None
        self._read_at = 0.0
        self._lock = Lock()
        self._checked: dict[bytes, tuple[ApiKey, Caller]] = {}  # by the key's own hash: not checked anew for each request

    def caller(self, key: str) -> Caller | None:
        """Whose key this is, or None if it is unknown, revoked or expired. Raises `Problem` 503 if no keys were ever read."""
        prefix = key.partition(".")[0]
        keys = self._known()
        digest = sha256(key.encode()).digest()
        checked, caller = self._checked.get(digest, (None, None))
        if checked is not None and keys.get(prefix) is checked and not _has_expired(checked):
            return caller
        if prefix not in keys:
            keys = self._fresh(_UNKNOWN_KEY_SECONDS)
        found = keys.get(prefix)
        if found is None or found.revoked or not ApiKey.objects.key_generator.verify(key, found.hashed_key):
            return None
        if _has_expired(found):
            return None
        if len(self._checked) >= _MOST_CHECKED:
            self._checked.clear()
        caller = Caller(prefix, found.name, frozenset(found.scopes))
        self._checked[digest] = found, caller
        return caller

    def _fresh(self, seconds: float) -> dict[str, ApiKey]:
        """The keys as they were at most so long ago, if the database answers."""
        if self._keys is None or time.monotonic() - self._read_at > seconds:
            event_loop.forbid()
            with self._lock:
                if self._keys is None or time.monotonic() - self._read_at > seconds:
                    self._read()
        if self._keys is None:
            raise unavailable("keys-unavailable", "The control database did not answer, and no API keys are known yet.")
        return self._keys

    def _known(self) -> dict[str, ApiKey]:
        """The keys as they are known now; what is too old is read anew behind the request's back."""
        if self._keys is None:
            return self._fresh(0)
        if time.monotonic() - self._read_at > settings.TALLY.api_key_ttl_seconds and self._lock.acquire(blocking=False):
            Thread(target=self._read_and_release, name="keyring", daemon=True).start()
        return self._keys

    def _read_and_release(self) -> None:
        try:
            self._read()
        finally:
            self._lock.release()

    def _read(self) -> None:
        try:
            self._keys = {key.prefix: key for key in ApiKey.objects.get_usable_keys()}
        except DatabaseError as error:
            log.warning("keys_unread", error=str(error).strip())
        finally:
            connection.close()  # back to the pool: at a request's end nobody does it for calls on data
        self._read_at = time.monotonic()


def _has_expired(key: ApiKey) -> bool:
    return key.expiry_date is not None and key.expiry_date < timezone.now()


keyring = Keyring()


def caller_of(header: str) -> Caller | None:
    """Whose key an `Authorization` header has; None if there is no header. Raises `AuthenticationFailed`, `Problem` 503."""
    keyword, _, key = header.partition(" ")
    if not keyword:
        return None
    if keyword.lower() != KEYWORD.lower() or not key.strip():
        raise AuthenticationFailed(f"Authorization must be '{KEYWORD} <key>'.")
    caller = keyring.caller(key.strip())
    if caller is None:
        raise AuthenticationFailed("This API key is unknown, revoked or expired.")
    return caller


class ApiKeyAuthentication(BaseAuthentication):
    """DRF authentication by API key."""

    def authenticate(self, request: Request) -> tuple[Caller, str] | None:
        header = request._request.META.get("HTTP_AUTHORIZATION", "")
        caller = caller_of(header)
        return None if caller is None else (caller, header)

    def authenticate_header(self, request: Request) -> str:  # noqa: ARG002
        return KEYWORD


def scope_of(view: Any, method: str | None) -> str | None:
    """The scope that a method of a view needs, if any."""
    default = None if method in ("GET", "HEAD", "OPTIONS") else Scope.WRITE
    return getattr(view, "scopes", {}).get(method, default)


class HasScope(BasePermission):
    """Reading is open; anything else needs the scope that the view names (`scopes`, by method), `write` by default.

    A method that the view has not is let through, so that it is answered with 405, whoever asks.
    """

    message = "This API key lacks the scope that the call needs."

    def has_permission(self, request: Request, view: Any) -> bool:
        needed = scope_of(view, request.method)
        caller: object = request.user
        if request.method not in view.allowed_methods:
            return True
        return needed is None or (isinstance(caller, Caller) and needed in caller.scopes)
