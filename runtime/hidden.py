"""Importing a library without another one that it would use if it were installed, or without its plugins."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import metadata


@contextmanager
def hidden(name: str) -> Iterator[None]:
    """Importing this package raises `ImportError` meanwhile, unless it was imported before."""
    if name in sys.modules:
        yield
        return
    sys.modules[name] = None  # type: ignore[assignment]
    try:
        yield
    finally:
        del sys.modules[name]


@contextmanager
def without_plugins() -> Iterator[None]:
    """A library that is imported meanwhile finds no plugins. Each that looks for some would read what every installed
    package says of itself, for ten milliseconds."""
    found = metadata.entry_points
    metadata.entry_points = lambda **_: metadata.EntryPoints(())  # type: ignore[assignment]
    try:
        yield
    finally:
        metadata.entry_points = found
