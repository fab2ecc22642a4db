"""What staff show beside their password: at most one authenticator and one list of backup codes for each user.

`TALLY_SECOND_FACTOR` says who has to: `required`: all staff; `optional`: those who have an authenticator; `off`: nobody.
The tables are django-otp's, in the control database. Everything here may raise `django.db.Error`.
"""

from __future__ import annotations

import re
from base64 import b32encode
from typing import Any

from django.conf import settings
from django.contrib.auth import SESSION_KEY, get_user_model
from django.contrib.sessions.models import Session
from django.db import transaction
from django.http import HttpRequest
from django.utils import timezone
from django_otp.models import Device
from django_otp.oath import TOTP
from django_otp.plugins.otp_static.models import StaticDevice, StaticToken
from django_otp.plugins.otp_totp.models import TOTPDevice, default_key

BACKUP_CODES = 10
TOLERANCE = 1  # steps of 30 s that a clock may be ahead or behind
_TOTP_CODE = re.compile("[0-9]{6}")


class Enrolled(Exception):
    """The user has a second factor already."""


class Locked(Exception):
    """Too many codes of this kind were wrong; none is looked at for `seconds` more."""

    def __init__(self, seconds: int) -> None:
        super().__init__(f"too many wrong codes: the next one is looked at in {seconds} s")
        self.seconds = seconds


def has(user: Any) -> bool:
    """Whether a user has an authenticator."""
    return bool(TOTPDevice.objects.filter(user=user, confirmed=True).exists())


def is_shown(request: HttpRequest) -> bool:
    """Whether the session has shown a second factor, one that its user still has."""
    return getattr(request.user, "otp_device", None) is not None


def is_missing(request: HttpRequest) -> bool:
    """Whether the session of this user has to show a second factor and has not."""
    rule = settings.TALLY.second_factor
    return rule != "off" and not is_shown(request) and (rule == "required" or has(request.user))


def new_key() -> str:
    """A secret for an authenticator: 160 random bits, in hexadecimal digits."""
    return str(default_key())


def secret(key: str) -> str:
    """A key as people type it into an authenticator: Base32."""
    return b32encode(bytes.fromhex(key)).decode()


def uri(user: Any, key: str) -> str:
    """A key as an authenticator reads it, `otpauth://…`, as from a QR code."""
    return str(TOTPDevice(user=user, key=key).config_url)


def enrol(user: Any, key: str, code: str | None = None) -> tuple[Device, list[str]] | None:
    """Give a user an authenticator with this key. Returns it and the backup codes, which can be read only now; None if the
    code is not one of the key now. Without a code none is asked for. Raises `Enrolled`."""
    totp, last = TOTP(bytes.fromhex(key)), -1
    if code is not None:
        code = _typed(code)
        if not _TOTP_CODE.fullmatch(code) or not totp.verify(int(code), tolerance=TOLERANCE):
            return None
        last = totp.t()  # with the drift that `verify` found
    with transaction.atomic():
        get_user_model().objects.select_for_update().get(pk=user.pk)  # so that two at once do not both find none
        if has(user):
            raise Enrolled
        device = TOTPDevice.objects.create(
            user=user, name="authenticator", key=key, tolerance=TOLERANCE, drift=totp.drift, last_t=last
        )
        return device, new_backup_codes(user)


def new_backup_codes(user: Any) -> list[str]:
    """Make backup codes in the place of those that there are. Each one is good once."""
    with transaction.atomic():
        get_user_model().objects.select_for_update().get(pk=user.pk)
        device, _ = StaticDevice.objects.get_or_create(user=user, defaults={"name": "backup codes"})
        device.token_set.all().delete()
        codes = [str(StaticToken.random_token()) for _ in range(BACKUP_CODES)]
        StaticToken.objects.bulk_create(StaticToken(device=device, token=code) for code in codes)
    return codes


def backup_codes_left(user: Any) -> int:
    """How many backup codes a user has not used."""
    return int(StaticToken.objects.filter(device__user=user).count())


def verify(user: Any, code: str) -> Device | None:
    """The device whose code this is, which is used up by that; None if it is nobody's. After n wrong codes of a kind in a
    row none of this kind is looked at for 2^(n-1) seconds: raises `Locked`."""
    code = _typed(code)
    kind = TOTPDevice if _TOTP_CODE.fullmatch(code) else StaticDevice
    with transaction.atomic():
        device = kind.objects.filter(user=user, confirmed=True).select_for_update().first()
        if device is None:
            return None
        is_allowed, why = device.verify_is_allowed()
        if not is_allowed:
            raise Locked(1 + int((why["locked_until"] - timezone.now()).total_seconds()))
        return device if device.verify_token(code) else None


def reset(user: Any) -> bool:
    """Take the second factor from a user and end the user's sessions. Returns whether there was one."""
    with transaction.atomic():
        found = has(user)
        for kind in (TOTPDevice, StaticDevice):
            kind.objects.filter(user=user).delete()
        for session in Session.objects.filter(expire_date__gt=timezone.now()).iterator():
            if session.get_decoded().get(SESSION_KEY) == str(user.pk):
                session.delete()
    return found


def _typed(code: str) -> str:
    """A code without the spaces and hyphens that people type."""
    return re.sub(r"[\s-]", "", code).lower()
