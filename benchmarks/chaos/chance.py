"""Chance, by seed: each user has a stream of its own, so that one more draw somewhere changes nothing elsewhere."""

from __future__ import annotations

import random


def stream(seed: int, user: str) -> random.Random:
    """The random numbers of one user."""
    return random.Random(f"{seed}/{user}")  # noqa: S311 - not for secrets
