"""Garbage collection of a program that lives long.

What its imports make stays, and requests and windows leave few cycles. Collections while it loads cost a sixth of the
loading, and scanning all objects again and again would cost a twentieth of a bulk write.
"""

from __future__ import annotations

import gc
from collections.abc import Iterator
from contextlib import contextmanager

_YOUNG = 10_000  # new objects after which the youngest are looked at


def postpone() -> None:
    """Collect nothing until `begin`: call it before the imports."""
    gc.disable()


@contextmanager
def postponed() -> Iterator[None]:
    """Collect nothing meanwhile, and leave out later what is there then: for imports of a module that is not an entry
    point itself."""
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        gc.freeze()  # otherwise all of it would be scanned as soon as collecting is on
        if was_enabled:
            gc.enable()


def begin() -> None:
    """Collect from now on, and leave out all that is there. May be called again when more is there to stay."""
    gc.freeze()
    gc.set_threshold(_YOUNG, 10, 10)
    gc.enable()
