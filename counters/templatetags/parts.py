"""What is down now, for the head of every page of the admin."""

from __future__ import annotations

from concurrent.futures import TimeoutError as NotInTime

from django import template

from counters.operators import health
from counters.operators.health import Component

register = template.Library()


@register.simple_tag
def parts_down() -> dict[str, list[Component]] | None:
    """The components that are `down`, and those of which that is `unknown`; None if there are none, or if a look takes longer
    than it may."""
    try:
        found = health.look().result(2 * health.SECONDS)
    except NotInTime:
        return None
    parts = {state: [one for one in found.components if one.status == state] for state in ("down", "unknown")}
    return parts if any(parts.values()) else None
