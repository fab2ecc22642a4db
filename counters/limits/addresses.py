"""The address that a request comes from: as nginx tells it, or else the connection's. IPv6 counts by its /64 network.

nginx tells it in `X-Real-IP`, which is believed only beside the secret that nginx and the API processes share
(`TALLY_PROXY_SECRET` in `X-Tally-Proxy`). Behind a further proxy nginx takes it from `X-Forwarded-For`
(`TALLY_TRUSTED_PROXIES`).
"""

from __future__ import annotations

import hmac
from collections.abc import Iterable
from functools import lru_cache
from ipaddress import ip_address, ip_network
from typing import Any

from django.conf import settings
from django.http import HttpRequest

IPV6_PREFIX = 64  # the network of one subscriber


def of_request(request: HttpRequest) -> str:
    """The client's address, of a Django request."""
    told = request.META
    return _address(told.get("HTTP_X_REAL_IP", ""), told.get("HTTP_X_TALLY_PROXY", ""), told.get("REMOTE_ADDR", ""))


def of_scope(scope: dict[str, Any]) -> str:
    """The client's address, of an ASGI connection scope."""
    headers: Iterable[tuple[bytes, bytes]] = scope["headers"]
    told = {name: value for name, value in headers if name in (b"x-real-ip", b"x-tally-proxy")}
    connected, _ = scope.get("client") or ("", 0)
    text, secret = (told.get(name, b"").decode("latin-1") for name in (b"x-real-ip", b"x-tally-proxy"))
    return _address(text, secret, connected)


def _address(told: str, secret: str, connected: str) -> str:
    ours = settings.TALLY.proxy_secret.get_secret_value()
    is_nginx = bool(ours) and hmac.compare_digest(secret.encode(), ours.encode())
    return _network((told if is_nginx else "") or connected)


@lru_cache(10_000)
def _network(text: str) -> str:
    try:
        address = ip_address(text)
    except ValueError:
        return text
    if address.version == 6 and address.ipv4_mapped:
        return str(address.ipv4_mapped)
    return str(address) if address.version == 4 else str(ip_network((address, IPV6_PREFIX), strict=False))
