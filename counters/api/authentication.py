"""`Authorization: Api-Key …`: who calls, what the key allows, and the quotas that are in force.

The keys are few, and every request needs one, so each process holds all of them, and the limits of callers with them. It
rereads them twice in each `TALLY_API_KEY_TTL_SECONDS`, idle or not, and when it sees an unknown key, at most twice a
second. A read loads them only if something has changed. While the control database is down it uses what it has. With a
read it writes which keys were used, one statement for all of them, at most once an hour for each.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Collection
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, ClassVar

import structlog
from django.conf import settings
from django.db import Error as DatabaseError
from django.db import connection, transaction
from django.db.models import Q
from django.utils import timezone
from rest_framework.authentication import BaseAuthentication
from rest_framework.exceptions import AuthenticationFailed
from rest_framework.permissions import BasePermission
from rest_framework.request import Request

from counters.api.problems import unavailable
from counters.limits.limiter import Charge
from counters.limits.policies import Quotas, of_address, of_key
from counters.models import ApiKey, Limits, Scope
from runtime.resources import owned

KEYWORD = "Api-Key"
_UNKNOWN_KEY_SECONDS = 0.5
_READ_SECONDS = 1.0  # how long a request with an unknown key waits for a read
_LEAST_SECONDS = 0.1  # between two reads, whatever the setting
_MOST_CHECKED = 10_000
_USE_KEPT = timedelta(hours=1)  # between two writes of a key's last use, by all processes together
# What a read would find, in short: as long as it is the same, the keys need not be loaded again.
_STATE = f"""
SELECT (SELECT md5(string_agg(found::text, ' ' ORDER BY id)) FROM {ApiKey._meta.db_table} found WHERE NOT revoked),
       (SELECT string_agg(found::text, ' ' ORDER BY id) FROM {Limits._meta.db_table} found)"""  # noqa: S608 - constants
log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class Caller:
    """A client identified by its key."""

    prefix: str
    name: str
    scopes: frozenset[str]
    quotas: Quotas
    is_authenticated: ClassVar[bool] = True

    def charge(self, increments: int) -> Charge | None:
        """What a write of so many increments takes of the quota."""
        policy = self.quotas.increments
        return Charge(policy, self.prefix, increments) if policy else None


@dataclass(frozen=True, slots=True)
class _Keys:
    """What one read found. `checked` holds the callers of whole keys, so that each key's hash is computed once.

    `limits`: of callers without quotas of their own. `anonymous`: the quotas of an address without a key.
    """

    by_prefix: dict[str, ApiKey]
    checked: dict[str, tuple[ApiKey, Caller]]
    limits: Limits
    anonymous: Quotas


class Keyring:
    """All API keys, as last read from the control database.

    It reads in a thread of its own, started from one event loop. Any thread may look up a key, and none waits for the
    database: a control database that hangs delays only the requests whose key is unknown, and those for a second.
    """

    def __init__(self) -> None:
        self._keys: _Keys | None = None
        self._state: tuple[str | None, ...] = ()  # of the control database when they were loaded
        self._used: set[str] = set()  # prefixes whose use is not written
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="keys")
        self._reading: asyncio.Future[None] | None = None
        self._began = float("-inf")  # when the last read began
        self._failed = False

    @property
    def is_loaded(self) -> bool:
        """Whether the keys were ever read."""
        return self._keys is not None

    @property
    def _is_silent(self) -> bool:
        """Whether the control database has failed to answer the last read, or is late with this one."""
        is_late = self._reading is not None and time.monotonic() - self._began > _READ_SECONDS
        return self._failed or is_late

    def known(self, key: str) -> Caller | None:
        """The key's caller, if the key was checked before and is still valid. Does no I/O."""
        found, caller = self._keys.checked.get(key, (None, None)) if self._keys else (None, None)
        return None if found is None or _has_expired(found) else self._use(caller)

    def caller(self, key: str) -> Caller | None:
        """The key's caller; None if the key is unknown, revoked or expired. Does no I/O: `look_for` comes first.

        Raises `Problem` 503 if the key is unknown and the control database does not answer.
        """
        if (caller := self.known(key)) is not None:
            return caller
        keys = self._keys
        if keys is None or (_prefix(key) not in keys.by_prefix and self._is_silent):
            raise unavailable(
                "keys-unavailable", "The control database does not answer, and this API key is not known yet."
            )
        return self._use(_checked(keys, key))

    def holder(self, header: str) -> Caller | None:
        """The caller of an `Authorization` header, if the last read found its key. Does no I/O."""
        if self._keys is None:
            return None
        key = _key_in(header)
        return self.known(key) or self._use(_checked(self._keys, key))

    @property
    def anonymous(self) -> Quotas:
        """The quotas of an address without an API key."""
        return self._keys.anonymous if self._keys else of_address(settings.TALLY.anonymous_rate)

    async def keep(self) -> None:
        """Reread the keys until cancelled: twice in `api_key_ttl_seconds`, so a key is refused by then if a read takes
        less than half of it."""
        while True:
            await self.reread()
            pause = self._began + settings.TALLY.api_key_ttl_seconds / 2 - time.monotonic()
            await asyncio.sleep(max(pause, _LEAST_SECONDS))

    async def reread(self) -> None:
        """Wait for the end of the read that is running, or of a new one, whether it finds the keys or not."""
        await asyncio.wait([self._read_soon()])

    async def look_for(self, header: str) -> None:
        """If the key of an `Authorization` header is unknown, reread the keys, at most twice a second.

        Waits for the read, but not for a control database that is known not to answer.
        """
        key = _key_in(header)
        if not key or (self._keys and _prefix(key) in self._keys.by_prefix):
            return
        if self._reading is None and time.monotonic() - self._began < _UNKNOWN_KEY_SECONDS:
            return
        reading = self._read_soon()
        if not self._is_silent:
            await asyncio.wait([reading], timeout=self._began + _READ_SECONDS - time.monotonic())

    def close(self) -> None:
        """Wait for the read that runs. There is none afterwards."""
        self._thread.shutdown()

    def _use(self, caller: Caller | None) -> Caller | None:
        if caller is not None:
            self._used.add(caller.prefix)
        return caller

    def _read_soon(self) -> asyncio.Future[None]:
        """The read that is running, or a new one."""
        if self._reading is None:
            self._began = time.monotonic()
            self._reading = asyncio.get_running_loop().run_in_executor(self._thread, self._read)
            self._reading.add_done_callback(self._ended)
        return self._reading

    def _ended(self, _reading: asyncio.Future[None]) -> None:
        self._reading = None

    def _read(self) -> None:
        """Read the keys; if the database does not answer, keep the old ones."""
        try:
            with connection.cursor() as cursor:
                cursor.execute(_STATE)
                state = cursor.fetchone()
            if self._keys is None or state != self._state:
                self._keys, self._state = self._load(), state  # what changes meanwhile, the next read sees
            self._failed = False
            self._write_uses(self._keys.by_prefix)
        except DatabaseError as error:
            self._failed = True
            log.warning("keys_unread", error=str(error).strip())
        except Exception:
            self._failed = True
            log.exception("keys_unread")
        finally:
            connection.close()  # back to the pool: Django only does this for threads that serve requests

    def _load(self) -> _Keys:
        found = {key.prefix: key for key in ApiKey.objects.get_usable_keys()}
        limits = Limits.objects.first() or Limits()
        checked = _still_good(self._keys.checked if self._keys else {}, found, limits)
        anonymous = of_address(limits.anonymous_rate or settings.TALLY.anonymous_rate)
        return _Keys(found, checked, limits, anonymous)

    def _write_uses(self, keys: dict[str, ApiKey]) -> None:
        """Write when the keys were used whose last written use is old. What fails is tried again with the next read."""
        used, now = self._used.copy(), timezone.now()
        due = [prefix for prefix in used if prefix in keys and _is_old(keys[prefix].last_used, now)]
        try:
            if due:
                write_uses(due, now)
            self._used -= used
        except DatabaseError as error:
            log.warning("key_uses_unwritten", error=str(error).strip())


def write_uses(prefixes: Collection[str], now: datetime) -> int:
    """Write that keys are used now, but for those where another process has done so within the hour. Returns how many.

    It delays no read of the keys: it waits neither for a row that somebody has locked nor for replicas.
    """
    with transaction.atomic():
        with connection.cursor() as cursor:
            cursor.execute("SET LOCAL synchronous_commit = off")
        old = ApiKey.objects.filter(Q(last_used=None) | Q(last_used__lte=now - _USE_KEPT), prefix__in=prefixes)
        free = list(old.select_for_update(skip_locked=True).values_list("pk", flat=True))
        return ApiKey.objects.filter(pk__in=free).update(last_used=now)


def _is_old(last_used: datetime | None, now: datetime) -> bool:
    return last_used is None or last_used <= now - _USE_KEPT


def _prefix(key: str) -> str:
    return key.partition(".")[0]


def _key_in(header: str) -> str:
    """The key of an `Authorization` header; "" if it has none."""
    keyword, _, key = header.partition(" ")
    return key.strip() if keyword.lower() == KEYWORD.lower() else ""


def _checked(keys: _Keys, key: str) -> Caller | None:
    """The caller of a key that a read has found; None if it has not, or if the key is not the whole one or expired."""
    found = keys.by_prefix.get(_prefix(key))
    if found is None or _has_expired(found) or not ApiKey.objects.key_generator.verify(key, found.hashed_key):
        return None
    if len(keys.checked) >= _MOST_CHECKED:
        keys.checked.clear()
    keys.checked[key] = found, _caller(found, keys.limits)  # of this read: a later one may have found the key revoked
    return keys.checked[key][1]


def _caller(key: ApiKey, limits: Limits) -> Caller:
    config = settings.TALLY
    quotas = of_key(
        key.requests_rate or limits.api_key_rate or config.api_key_rate,
        key.increments_rate or limits.api_key_increments_rate or config.api_key_increments_rate,
    )
    return Caller(key.prefix, key.name, frozenset(key.scopes), quotas)


def _still_good(
    checked: dict[str, tuple[ApiKey, Caller]], keys: dict[str, ApiKey], limits: Limits
) -> dict[str, tuple[ApiKey, Caller]]:
    """Keys that were checked before and not revoked since, with their current scopes and quotas."""
    found = ((key, old, keys.get(old.prefix)) for key, (old, _) in checked.copy().items())
    return {key: (new, _caller(new, limits)) for key, old, new in found if new and new.hashed_key == old.hashed_key}


def _has_expired(key: ApiKey) -> bool:
    return key.expiry_date is not None and key.expiry_date < timezone.now()


@owned(close=Keyring.close)
def keyring() -> Keyring:
    """The keys that this process knows."""
    return Keyring()


def caller_of(header: str) -> Caller | None:
    """The caller of an `Authorization` header; None if the header is empty. Raises `AuthenticationFailed`, `Problem`
    503."""
    if not header.partition(" ")[0]:
        return None
    key = _key_in(header)
    if not key:
        raise AuthenticationFailed(f"Authorization must be '{KEYWORD} <key>'.")
    caller = keyring().caller(key)
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
    """The scope that a method of a view needs, if any: HEAD needs what GET does."""
    method = "GET" if method == "HEAD" else method
    default = None if method in ("GET", "OPTIONS") else Scope.WRITE
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
