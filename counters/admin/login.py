"""The admin's log-in, limited so that a password cannot be guessed and nobody can lock another person out.

| counted by | tries (`TALLY_LOGIN_…_RATE`) | |
| --- | --- | --- |
| address | 10 a minute | |
| name and address | 5 a minute | one in ten minutes while the name has had more than 100 in the hour, from wherever |
| device | 10 a minute | instead of the others, for a browser that has logged in with this name before |
| code | 5 a minute | of the second factor, of one user, whatever the browser |

So tries from many addresses at one name make each address slower, but the first try from a fresh address always
counts: the right password gets in. The device cookie is OWASP's ("Slow Down Online Guessing Attacks with Device
Cookies"): it keeps an owner apart from an attacker who shares the address. Names count as Django's log-in form reads
them, so another spelling is no other name. The counts are in the cache's Redis. While it is down, every try is let
through and logged.
"""

from __future__ import annotations

import secrets
from typing import Any

import structlog
from django.conf import settings
from django.contrib import admin
from django.contrib.admin.forms import AdminAuthenticationForm
from django.contrib.auth import REDIRECT_FIELD_NAME
from django.core import signing
from django.http import HttpRequest, HttpResponse, HttpResponseRedirect
from django.template.response import TemplateResponse
from django.urls import reverse
from django.utils.http import urlencode
from prometheus_client import Counter

from counters.admin.pages import seconds_over
from counters.limits.addresses import of_request
from counters.second_factor import devices
from runtime.seldom import Seldom

DEVICE_COOKIE = "tally_device"
DEVICE_SECONDS = 365 * 24 * 3600
REFUSED = Counter("tally_admin_logins_refused_total", "Log-ins to the admin refused because of their rate", ["limit"])
log = structlog.get_logger(__name__)
_seldom = Seldom()


def user_name(request: HttpRequest) -> str:
    """The user name of the log-in as Django's form reads it: stripped, in Unicode's form NFKC."""
    field = AdminAuthenticationForm(request).fields["username"]
    return str(field.to_python(request.POST.get("username", "")))


def device(request: HttpRequest, name: str) -> str:
    """The id of a browser that has logged in with this name before; "" for any other."""
    try:
        owner, id = signing.loads(request.COOKIES.get(DEVICE_COOKIE, ""), salt=DEVICE_COOKIE, max_age=DEVICE_SECONDS)
    except (signing.BadSignature, ValueError):
        return ""
    return str(id) if owner == name else ""


def seconds_to_wait(request: HttpRequest) -> int:
    """Count a try. Returns how many seconds the client must wait, 0 if the try is allowed."""
    name, address, rates = user_name(request), of_request(request), settings.TALLY
    if id := device(request, name):
        waits = {"device": seconds_over_limit(request, "device", id, rates.login_device_rate)}
    else:
        is_attacked = seconds_over_limit(request, "name", name, rates.login_name_rate, count=False) > 0
        rate = rates.login_attacked_rate if is_attacked else rates.login_pair_rate
        waits = {
            "name and address": seconds_over_limit(request, "name and address", f"{address} {name}", rate),
            "address": seconds_over_limit(request, "address", address, rates.login_address_rate),
        }
        if not any(waits.values()):
            seconds_over_limit(request, "name", name, rates.login_name_rate)
    for limit, seconds in waits.items():
        if seconds:
            REFUSED.labels(limit).inc()
    return max(waits.values())


def seconds_over_limit(request: HttpRequest, limit: str, value: str, rate: str, *, count: bool = True) -> int:
    """Count a value. Returns the seconds until the limit lets it through; 0 if it does now, or if the cache is down."""
    seconds = seconds_over(request, f"admin-login-{limit}", value, rate, count=count)
    if seconds is None:
        _seldom.log(log.warning, "login_unlimited", limit=limit, reason="the cache's Redis did not answer")
    return seconds or 0


def login(request: HttpRequest) -> HttpResponse:
    """Django's log-in page; 429 with `Retry-After` (seconds) after too many tries. It leads on to the second factor where
    that is needed."""
    if request.method != "POST":
        after = request.GET.get(REDIRECT_FIELD_NAME, "")
        return _second_factor(after) if _is_half_way(request) else admin.site.login(request)
    if seconds := seconds_to_wait(request):
        _seldom.log(log.warning, "login_refused", address=of_request(request), user=user_name(request)[:150])
        context = {**admin.site.each_context(request), "title": "Too many log-ins", "seconds": seconds}
        return TemplateResponse(
            request, "admin/counters/too_many_logins.html", context, status=429, headers={"Retry-After": str(seconds)}
        )
    response = admin.site.login(request)
    if response.status_code == 302:  # logged in
        if _is_half_way(request):
            return _second_factor(response.headers["Location"])
        remember(response, request)
    return response


def remember(response: HttpResponse, request: HttpRequest) -> None:
    """Give the browser of somebody who has logged in the cookie of a device."""
    user: Any = request.user
    response.set_cookie(
        DEVICE_COOKIE,
        signing.dumps([user.get_username(), secrets.token_urlsafe(12)], salt=DEVICE_COOKIE),
        max_age=DEVICE_SECONDS,
        path=reverse("admin:login"),
        secure=settings.SESSION_COOKIE_SECURE,
        httponly=True,
        samesite="Lax",
    )


def _is_half_way(request: HttpRequest) -> bool:
    """Whether staff have shown the password, and have to show a second factor yet."""
    user: Any = request.user
    return user.is_active and user.is_staff and devices.is_missing(request)


def _second_factor(after: str) -> HttpResponse:
    return HttpResponseRedirect(f"{reverse('second-factor')}?{urlencode({REDIRECT_FIELD_NAME: after})}")
