"""The admin's log-in, limited so that a password cannot be guessed and nobody can lock another person out.

| counted by | tries | |
| --- | --- | --- |
| address | 10 a minute | |
| name and address | 5 a minute | one in ten minutes while the name has had more than 100 in the hour, from wherever |
| device | 10 a minute | instead of the others, for a browser that has logged in with this name before |

So tries from many addresses at one name make each address slower, but the first try from a fresh address always
counts: the right password gets in. The device cookie is OWASP's ("Slow Down Online Guessing Attacks with Device
Cookies"): it keeps an owner apart from an attacker who shares the address. Names count as Django's log-in form reads
them, so another spelling is no other name. The counts are in the cache's Redis. While it is down, every try is let
through and logged.
"""

from __future__ import annotations

import hmac
import secrets
from ipaddress import ip_address, ip_network

import structlog
from django.conf import settings
from django.contrib import admin
from django.contrib.admin.forms import AdminAuthenticationForm
from django.core import signing
from django.http import HttpRequest, HttpResponse
from django.template.response import TemplateResponse
from django.urls import reverse
from django_ratelimit.core import get_usage
from prometheus_client import Counter

from runtime.seldom import Seldom

ADDRESS, PAIR, PAIR_UNDER_ATTACK, DEVICE, NAME = "10/m", "5/m", "1/10m", "10/m", "100/h"
IPV6_PREFIX = 64  # the network of one subscriber
PROXY_HEADER = "HTTP_X_TALLY_PROXY"
DEVICE_COOKIE = "tally_device"
DEVICE_SECONDS = 365 * 24 * 3600
REFUSED = Counter("tally_admin_logins_refused_total", "Log-ins to the admin refused because of their rate", ["limit"])
log = structlog.get_logger(__name__)
_seldom = Seldom()


def client_address(request: HttpRequest) -> str:
    """The client's address as nginx tells it, or the connection's if the request lacks nginx's secret. For IPv6, its
    /64 network."""
    text: str = request.META.get("REMOTE_ADDR", "")
    if _came_through_nginx(request):
        text = request.META.get("HTTP_X_REAL_IP") or text
    try:
        address = ip_address(text)
    except ValueError:
        return text
    return str(address) if address.version == 4 else str(ip_network((address, IPV6_PREFIX), strict=False))


def _came_through_nginx(request: HttpRequest) -> bool:
    secret = settings.TALLY.proxy_secret.get_secret_value()
    return bool(secret) and hmac.compare_digest(request.META.get(PROXY_HEADER, "").encode(), secret.encode())


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
    name, address = user_name(request), client_address(request)
    if id := device(request, name):
        waits = {"device": _wait(request, "device", id, DEVICE)}
    else:
        is_attacked = _wait(request, "name", name, NAME, count=False) > 0
        rate = PAIR_UNDER_ATTACK if is_attacked else PAIR
        waits = {
            "name and address": _wait(request, "name and address", f"{address} {name}", rate),
            "address": _wait(request, "address", address, ADDRESS),
        }
        if not any(waits.values()):
            _wait(request, "name", name, NAME)
    for limit, seconds in waits.items():
        if seconds:
            REFUSED.labels(limit).inc()
    return max(waits.values())


def _wait(request: HttpRequest, limit: str, value: str, rate: str, *, count: bool = True) -> int:
    """Seconds until a limit lets the value through; 0 if it does now, or if the cache is down."""
    usage = get_usage(request, group=f"admin-login-{limit}", key=lambda *_: value, rate=rate, increment=count)
    if usage is None or usage["time_left"] < 0:  # get_usage's result if the cache is down
        _seldom.log(log.warning, "login_unlimited", limit=limit, reason="the cache's Redis did not answer")
        return 0
    return max(1, int(usage["time_left"])) if usage["should_limit"] else 0


def login(request: HttpRequest) -> HttpResponse:
    """Django's log-in page; 429 with `Retry-After` (seconds) after too many tries."""
    if request.method != "POST":
        return admin.site.login(request)
    if seconds := seconds_to_wait(request):
        _seldom.log(log.warning, "login_refused", address=client_address(request), user=user_name(request)[:150])
        context = {**admin.site.each_context(request), "title": "Too many log-ins", "seconds": seconds}
        return TemplateResponse(
            request, "admin/counters/too_many_logins.html", context, status=429, headers={"Retry-After": str(seconds)}
        )
    response = admin.site.login(request)
    if response.status_code == 302:  # logged in
        response.set_cookie(
            DEVICE_COOKIE,
            signing.dumps([request.user.get_username(), secrets.token_urlsafe(12)], salt=DEVICE_COOKIE),
            max_age=DEVICE_SECONDS,
            path=reverse("admin:login"),
            secure=settings.SESSION_COOKIE_SECURE,
            httponly=True,
            samesite="Lax",
        )
    return response
