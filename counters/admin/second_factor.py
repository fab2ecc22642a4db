"""/admin/second-factor/: where staff show a second factor after the password, or set one up.

It stands before the admin's own pages, which `counters.second_factor.site` opens only afterwards. The key of an
authenticator that is being set up is in the session that sets it up, so nobody else who knows the password has seen it.
"""

from __future__ import annotations

from typing import Any

import django_otp
import segno
import structlog
from django.conf import settings
from django.contrib import admin
from django.contrib.auth.views import redirect_to_login
from django.http import HttpRequest, HttpResponse, HttpResponseRedirect
from django.template.response import TemplateResponse
from django.urls import reverse
from django.utils.http import url_has_allowed_host_and_scheme
from django.views.decorators.cache import never_cache

from counters.admin.login import REFUSED, remember, seconds_over_limit
from counters.limits.addresses import of_request
from counters.second_factor import devices
from counters.second_factor.devices import Enrolled, Locked

TEMPLATE = "admin/counters/second_factor.html"
_KEY = "second_factor_key"  # in the session
WRONG = "This code is not right. A code is good once, and for about a minute by the clock of your device."
log = structlog.get_logger(__name__)


@never_cache
def page(request: HttpRequest) -> HttpResponse:
    """Asks for a code, or offers an authenticator to those who have none; 429 with `Retry-After` (seconds) after too many
    codes."""
    user: Any = request.user
    if not (user.is_active and user.is_staff):
        return redirect_to_login(request.get_full_path(), reverse("admin:login"))
    if devices.is_shown(request):
        return _own(request)
    return _ask(request) if devices.has(user) else _set_up(request)


def _own(request: HttpRequest) -> HttpResponse:
    """To those who have shown their second factor: how many backup codes are left, and new ones."""
    if request.method != "POST":
        return _answer(request, "own", left=devices.backup_codes_left(request.user))
    codes = devices.new_backup_codes(request.user)
    _log(request, "second_factor_backup_codes")
    return _answer(request, "codes", codes=codes)


def _ask(request: HttpRequest) -> HttpResponse:
    if request.method != "POST":
        return _answer(request, "ask")
    user: Any = request.user
    if seconds := seconds_over_limit(request, "code", str(user.pk), settings.TALLY.login_code_rate):
        return _wait(request, seconds)
    try:
        device = devices.verify(user, request.POST.get("otp_token", ""))
    except Locked as locked:
        return _wait(request, locked.seconds)
    if device is None:
        _log(request, "second_factor_wrong")
        return _answer(request, "ask", error=WRONG)
    _let_in(request, device)
    _log(request, "second_factor_shown", kind=device.name)
    response = HttpResponseRedirect(_next(request))
    remember(response, request)
    return response


def _wait(request: HttpRequest, seconds: int) -> HttpResponse:
    REFUSED.labels("code").inc()
    _log(request, "second_factor_refused", seconds=seconds)
    error = f"There were too many codes. Please wait {seconds} second{'s'[: seconds != 1]} before the next one."
    return _answer(request, "ask", status=429, headers={"Retry-After": str(seconds)}, error=error)


def _set_up(request: HttpRequest) -> HttpResponse:
    key = request.session.get(_KEY)
    if key is None:
        key = request.session[_KEY] = devices.new_key()
    error = ""
    if request.method == "POST":
        try:
            made = devices.enrol(request.user, key, request.POST.get("otp_token", ""))
        except Enrolled:  # in another session, just now
            return HttpResponseRedirect(request.get_full_path())
        if made is not None:
            device, codes = made
            del request.session[_KEY]
            _let_in(request, device)
            _log(request, "second_factor_enrolled")
            response = _answer(request, "codes", codes=codes)
            remember(response, request)
            return response
        error = WRONG
    address = devices.uri(request.user, key)
    return _answer(
        request,
        "set_up",
        error=error,
        uri=address,
        secret=devices.secret(key),
        image=segno.make(address, micro=False).svg_data_uri(scale=5, border=4, light="white"),
        required=settings.TALLY.second_factor == "required",
    )


def _let_in(request: HttpRequest, device: Any) -> None:
    request.session.cycle_key()  # who has seen the session's id before has not seen this one
    django_otp.login(request, device)


def _answer(
    request: HttpRequest, step: str, *, status: int = 200, headers: dict[str, str] | None = None, **context: Any
) -> HttpResponse:
    context |= {"title": "Second factor", "step": step, "next": _next(request)}
    context |= admin.site.each_context(request) | {"is_nav_sidebar_enabled": False}
    return TemplateResponse(request, TEMPLATE, context, status=status, headers=headers)


def _next(request: HttpRequest) -> str:
    """Where the page leads on to: a URL of this server."""
    asked = request.POST.get("next", request.GET.get("next", ""))
    is_own = url_has_allowed_host_and_scheme(asked, {request.get_host()}, require_https=request.is_secure())
    return asked if is_own else reverse("admin:index")


def _log(request: HttpRequest, event: str, **more: Any) -> None:
    user: Any = request.user
    log.info(event, user=user.get_username(), address=of_request(request), **more)
