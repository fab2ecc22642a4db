"""The admin's log-in, limited to ten tries a minute for each client address and for each user name.

The counts are in the cache's Redis. While it is down, every try is let through and logged.
"""

from __future__ import annotations

from ipaddress import ip_address, ip_network

import structlog
from django.contrib import admin
from django.http import HttpRequest, HttpResponse
from django.template.response import TemplateResponse
from django_ratelimit.core import get_usage
from prometheus_client import Counter

RATE = "10/m"
IPV6_PREFIX = 64  # the network of one subscriber
REFUSED = Counter("tally_admin_logins_refused_total", "Log-ins to the admin refused because of their rate", ["limit"])
log = structlog.get_logger(__name__)


def client_address(_group: str, request: HttpRequest) -> str:
    """The client's address from nginx's header (nginx overwrites what a client sends), or the connection's. For IPv6,
    its /64 network."""
    text: str = request.META.get("HTTP_X_REAL_IP") or request.META.get("REMOTE_ADDR", "")
    try:
        address = ip_address(text)
    except ValueError:
        return text
    return str(address) if address.version == 4 else str(ip_network((address, IPV6_PREFIX), strict=False))


def user_name(_group: str, request: HttpRequest) -> str:
    """The user name of the log-in, lower-cased."""
    return str(request.POST.get("username", "")).strip().lower()


def seconds_to_wait(request: HttpRequest) -> int:
    """Count a try. Returns how many seconds the client must wait, 0 if the try is allowed."""
    waits = [0]
    for limit, of in (("address", client_address), ("name", user_name)):
        usage = get_usage(request, group=f"admin-login-{limit}", key=of, rate=RATE, increment=True)
        if usage is None or usage["time_left"] < 0:  # get_usage's result if the cache is down
            log.warning("login_unlimited", limit=limit, reason="the cache's Redis did not answer")
        elif usage["should_limit"]:
            REFUSED.labels(limit).inc()
            waits.append(max(1, usage["time_left"]))
    return max(waits)


def login(request: HttpRequest) -> HttpResponse:
    """Django's log-in page; 429 with `Retry-After` (seconds) after too many tries."""
    if request.method == "POST" and (seconds := seconds_to_wait(request)):
        log.warning("login_refused", address=client_address("", request), user=user_name("", request)[:150])
        context = {**admin.site.each_context(request), "title": "Too many log-ins", "seconds": seconds}
        return TemplateResponse(
            request, "admin/counters/too_many_logins.html", context, status=429, headers={"Retry-After": str(seconds)}
        )
    return admin.site.login(request)
