"""Locks in the control database, which PostgreSQL releases when the connection of their holder closes.

Invariant: no replay runs while a user is removed. It might have read an event of the user's before the log forgot it, and
would write it afterwards.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import psycopg

from sharding import databases

REMOVING, REPLAYING = 0x7A13, 0x7A14  # held by the one process that removes users; by replays, or by that process
_ALONE = "SELECT pg_try_advisory_lock(%s)"
_SHARED = "SELECT pg_try_advisory_lock_shared(%s)"


class Taken(Exception):
    """Another process has the lock."""


@contextmanager
def removing() -> Iterator[None]:
    """While this process alone removes users. Raises `Taken` if another one does, `psycopg.Error`."""
    with _held(_ALONE, REMOVING):
        yield


@contextmanager
def no_replay() -> Iterator[None]:
    """While no replay runs or begins. Raises `Taken` if one does, `psycopg.Error`."""
    with _held(_ALONE, REPLAYING):
        yield


@contextmanager
def replaying() -> Iterator[psycopg.Connection[Any]]:
    """While no removal runs or begins, as long as this connection is open. Raises `Taken` if one does, `psycopg.Error`."""
    with _held(_SHARED, REPLAYING) as conn:
        yield conn


@contextmanager
def _held(query: str, id: int) -> Iterator[psycopg.Connection[Any]]:
    with databases.connect(databases.CONTROL, autocommit=True) as conn:
        if not conn.execute(query, (id,)).fetchall()[0][0]:
            raise Taken
        yield conn
