"""Quota policies: how much of what a caller may use in a window, and the header that says so."""

from __future__ import annotations

from typing import NamedTuple

WINDOW_SECONDS = 60
MOST = 10**12  # of a quota: more than any window will see, and a whole number in a structured field (RFC 9651)


class Policy(NamedTuple):
    """At most `quota` units in any window of `seconds`."""

    name: str
    quota: int
    seconds: int = WINDOW_SECONDS

    @property
    def unit(self) -> str:
        """What is counted."""
        return "increments" if self.name == "increments" else "requests"

    def item(self) -> str:
        """The policy in a `RateLimit-Policy` header. The draft's unit is requests, and it registers none for increments,
        so these are told by a parameter of Tally's own."""
        unit = "" if self.unit == "requests" else f';tally-unit="{self.unit}"'
        return f'"{self.name}";q={self.quota};w={self.seconds}{unit}'


class Quotas(NamedTuple):
    """What one caller may use. `header` is its `RateLimit-Policy`."""

    policies: tuple[Policy, ...]
    requests: Policy
    increments: Policy | None
    header: bytes


def of_address(requests: int) -> Quotas:
    """The quotas of a caller without an API key, which may not write."""
    policy = Policy("anonymous", requests)
    return Quotas((policy,), policy, None, policy.item().encode())


def of_key(requests: int, increments: int) -> Quotas:
    """The quotas of an API key."""
    policies = Policy("requests", requests), Policy("increments", increments)
    return Quotas(policies, *policies, ", ".join(policy.item() for policy in policies).encode())
