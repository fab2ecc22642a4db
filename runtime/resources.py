"""What a process holds while it runs: clients, breakers, threads, and what it has learned from other servers.

One open `Resources` owns all of it. It is opened and closed by whoever runs the process: the ASGI application, Celery's
worker and beat, `manage.py`, a test. Between the two there is nothing else at module level that changes, but for
metrics and for how often a log line was written.

A module declares a part by the function that makes it:

    @owned(close=Sender.close)
    def sender() -> Sender:
        return Sender()

From then on, `sender()` returns the part of the open `Resources`. The first call makes it, so a process has only what
it uses. A part must not do I/O while it is made, as others wait for their parts meanwhile.

Parts are reached by these functions, not handed from call to call: Django gives a view no argument of ours, Celery none
to a task, and psycopg's pool none to a new connection.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from functools import wraps
from threading import RLock
from typing import Any, TypeVar, overload

import structlog
from django.conf import settings
from django.db import connections
from django.db.backends.postgresql.base import DatabaseWrapper

T = TypeVar("T")
log = structlog.get_logger(__name__)


class NotOpen(RuntimeError):
    """A part was asked for while no `Resources` are open."""


class Resources:
    """The parts of one process, from `open` to `close`. It can be opened again, and is empty then.

    A test may open one while another is open: it has parts of its own until it closes.

    A child of a fork starts without any part, as if it had just opened its own: a connection serves one process, and no
    thread survives a fork.
    """

    def __init__(self) -> None:
        self.parts: dict[int, Any] = {}  # by the number of its `owned`
        self._lock = RLock()

    def open(self) -> None:
        """Make this the `Resources` that parts come from."""
        _open.append(self)

    def close(self) -> None:
        """Close the parts, then the pools of Django.

        The part declared last is closed first. Imports point one way, so a part is closed before those that it uses. A
        part that another one makes while it closes is closed as well.
        """
        while self.parts:
            self._close_one()
        _close_pools()
        _open.remove(self)

    def __enter__(self) -> Resources:
        self.open()
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def part(self, number: int, make: Callable[[], T]) -> T:
        """The part of this number, made if it is not there yet."""
        with self._lock:
            if number not in self.parts:
                self.parts[number] = make()
            part: T = self.parts[number]
            return part

    def forget(self) -> None:
        """Have no part, and leave those there were as they are: they belong to the process that made them."""
        _of_parents.append(self.parts)
        self.parts, self._lock = {}, RLock()

    def _close_one(self) -> None:
        with self._lock:
            number = max(self.parts)
            part = self.parts.pop(number)
        try:
            _closers[number](part)
        except Exception:
            log.exception("part_unclosed", part=type(part).__name__)


_open: list[Resources] = []  # the last one is in use
_closers: list[Callable[[Any], object]] = []  # by number, in the order of the declarations


@overload
def owned(make: Callable[[], T], /) -> Callable[[], T]: ...


@overload
def owned(*, close: Callable[[T], object]) -> Callable[[Callable[[], T]], Callable[[], T]]: ...


def owned(make: Callable[[], Any] | None = None, /, *, close: Callable[[Any], object] = bool) -> Any:
    """Declare a part by the function that makes it, and by how it is closed if it has to be.

    The declared function returns the part of the open `Resources`. It raises `NotOpen` if there are none.
    """
    return _declared(make, close) if make else lambda make: _declared(make, close)


def _declared(make: Callable[[], T], close: Callable[[Any], object]) -> Callable[[], T]:
    number = len(_closers)
    _closers.append(close)

    @wraps(make)
    def part() -> T:
        try:
            found: T = _open[-1].parts[number]
        except KeyError:
            return _open[-1].part(number, make)
        except IndexError:
            raise NotOpen("this process has opened no runtime.resources.Resources") from None
        return found

    return part


def _close_pools() -> None:
    """Close the pools of database connections, which Django keeps for the process. It makes new ones when asked."""
    if not settings.configured:
        return
    for connection in connections.all():
        connection.close()
        if connection.settings_dict["OPTIONS"].get("pool"):
            connection.close_pool()  # type: ignore[attr-defined]


def _forget_all() -> None:
    """In the child of a fork: use nothing that the parent has opened."""
    for resources in _open:
        resources.forget()
    pools = DatabaseWrapper._connection_pools  # type: ignore[attr-defined]
    _of_parents.extend(pools.values())
    pools.clear()
    for connection in connections.all(initialized_only=True) if settings.configured else ():
        _of_parents.append(connection)
        del connections[connection.alias]


# Kept for ever: to free such an object may need a lock that a thread of the parent held at the fork.
_of_parents: list[Any] = []
os.register_at_fork(after_in_child=_forget_all)
