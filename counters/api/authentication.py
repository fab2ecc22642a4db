"""`Authorization: Api-Key …`: who calls, and what the key allows.

The keys are few, and every request needs one, so each process holds all of them. It rereads them every
`TALLY_API_KEY_TTL_SECONDS` (`counters.api.application`), and when it sees an unknown key, at most twice a second. While
the control database is down it uses the keys it has.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from threading import Lock
from typing import Any, ClassVar

import structlog
from django.db import Error as DatabaseError
from django.db import connection
from django.utils import timezone
from rest_framework.authentication import BaseAuthentication
from rest_framework.exceptions import AuthenticationFailed
from rest_framework.permissions import BasePermission
from rest_framework.request import Request

from counters.api.problems import unavailable
from counters.models import ApiKey, Scope

KEYWORD = "Api-Key"
_UNKNOWN_KEY_SECONDS = 0.5
_READ_SECONDS = 1.0  # how long a thread waits for another one that reads the keys
_MOST_CHECKED = 10_000
log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class Caller:
    """A client identified by its key."""

    prefix: str
    name: str
    scopes: frozenset[str]
    is_authenticated: ClassVar[bool] = True


class Keyring:
    """All API keys, as last read from the control database. Thread-safe."""

    def __init__(self) -> None:
        self._keys: dict[str, ApiKey] | None = None
        self._read_at = 0.0
        self._lock = Lock()
        self._checked: dict[str, tuple[ApiKey, Caller]] = {}  # by the whole key, to compute its hash only once

    @property
    def is_loaded(self) -> bool:
        """Whether the keys were ever read."""
        return self._keys is not None

    def known(self, key: str) -> Caller | None:
        """The key's caller, if the key was checked before and is still valid. Does no I/O."""
        found, caller = self._checked.get(key, (None, None))
        return None if found is None or _has_expired(found) else caller

    def caller(self, key: str) -> Caller | None:
        """The key's caller; None if the key is unknown, revoked or expired. Raises `Problem` 503 if that cannot be
        determined."""
        if (caller := self.known(key)) is not None:
            return caller
        prefix = key.partition(".")[0]
        found = (self._keys or {}).get(prefix) or self._fresh().get(prefix)
        if found is None or _has_expired(found) or not ApiKey.objects.key_generator.verify(key, found.hashed_key):
            return None
        if len(self._checked) >= _MOST_CHECKED:
            self._checked.clear()
        self._checked[key] = found, _caller(found)
        return self._checked[key][1]

    def _fresh(self) -> dict[str, ApiKey]:
        """The keys, at most half a second old if the database answers. One thread reads them, others wait briefly for
        it. Raises `Problem` 503."""
        if not self._lock.acquire(timeout=_READ_SECONDS):
            raise unavailable(
                "keys-unavailable", "The control database does not answer, and this API key is not known yet."
            )
        try:
            if self._keys is None or time.monotonic() - self._read_at > _UNKNOWN_KEY_SECONDS:
                self._read()
            if self._keys is None:
                raise unavailable(
                    "keys-unavailable", "The control database did not answer, and no API keys are known yet."
                )
            return self._keys
        finally:
            self._lock.release()

    def refresh(self) -> None:
        """Reread the keys; if the database does not answer, keep the old ones."""
        with self._lock:
            self._read()

    def _read(self) -> None:
        try:
            keys = {key.prefix: key for key in ApiKey.objects.get_usable_keys()}
            self._keys, self._checked = keys, _still_good(self._checked, keys)
        except DatabaseError as error:
            log.warning("keys_unread", error=str(error).strip())
        finally:
            connection.close()  # back to the pool: Django only does this for threads that serve requests
        self._read_at = time.monotonic()


def _caller(key: ApiKey) -> Caller:
    return Caller(key.prefix, key.name, frozenset(key.scopes))


def _still_good(checked: dict[str, tuple[ApiKey, Caller]], keys: dict[str, ApiKey]) -> dict[str, tuple[ApiKey, Caller]]:
    """Keys that were checked before and not revoked since, with their current scopes."""
    found = ((key, old, keys.get(old.prefix)) for key, (old, _) in checked.copy().items())
    return {key: (new, _caller(new)) for key, old, new in found if new and new.hashed_key == old.hashed_key}


def _has_expired(key: ApiKey) -> bool:
    return key.expiry_date is not None and key.expiry_date < timezone.now()


keyring = Keyring()


def known_caller(header: str) -> Caller | None:
    """The caller of an `Authorization` header, if its key was checked before. Does no I/O."""
    keyword, _, key = header.partition(" ")
    return keyring.known(key) if keyword == KEYWORD else None


def caller_of(header: str) -> Caller | None:
    """The caller of an `Authorization` header; None if the header is empty. Raises `AuthenticationFailed`, `Problem`
    503."""
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

    A method that the view lacks is let through, so every caller gets 405.
    """

    message = "This API key lacks the scope that the call needs."

    def has_permission(self, request: Request, view: Any) -> bool:
        needed = scope_of(view, request.method)
        caller: object = request.user
        if request.method not in view.allowed_methods:
            return True
        return needed is None or (isinstance(caller, Caller) and needed in caller.scopes)
