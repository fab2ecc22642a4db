"""The parameters of a read beside its keys: `?consistency=` and `?after=`."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import TypeVar

from django.conf import settings
from django.http import HttpResponse
from rest_framework.request import Request

from counters import service
from counters.api import waiting
from counters.api.answers import Answer
from counters.api.base import Response
from counters.api.problems import Problem, invalid
from counters.reading import read_your_writes, reads
from counters.reading.reads import Counter
from counters.write_id import WriteId
from sharding import topology
from sharding.databases import ShardUnavailable

T = TypeVar("T")
_PAUSE_SECONDS = 0.1


def consistency(request: Request) -> reads.Consistency:
    """The value of `?consistency=`. Raises `Problem` 400."""
    match request.query_params.get("consistency", "eventual"):
        case "eventual":
            return "eventual"
        case "primary":
            return "primary"
    raise invalid("consistency", "eventual or primary")


def wants_pending(request: Request, *, default: bool = False) -> bool:
    """The value of `?pending=`. Raises `Problem` 400."""
    match request.query_params.get("pending"):
        case None:
            return default
        case "true":
            return True
        case "false":
            return False
    raise invalid("pending", "true or false")


def write_id(field: str, text: str) -> WriteId:
    """Parse a write's id. Raises `Problem` 400, and 404 for an unknown shard."""
    try:
        write = WriteId.parse(text)
    except ValueError as error:
        raise invalid(field, "an id that a write was answered with") from error
    if any(shard >= settings.TALLY.shard_count for shard in write.shards):
        raise unknown_write()
    return write


def unknown_write() -> Problem:
    """404."""
    days = settings.TALLY.retention_days
    return Problem(404, "unknown-write", f"No write with this id is known; ids are kept for {days} days.")


def read(request: Request, keys: list[str], show: Callable[[list[Counter]], Answer]) -> HttpResponse:
    """Read the counters as the request asks and answer with `show`; 202 if the write in `after` was not applied in
    time. Raises `Problem`, `ShardUnavailable`."""
    asked, seconds = consistency(request), waiting.seconds(request, settings.TALLY.max_wait_seconds)
    text = request.query_params.get("after")
    if text is None:
        found = of_primary(lambda: reads.get_many(keys, "primary")) if asked == "primary" else _shared(keys)
        return Response(*show(found))
    write = write_id("after", text)
    with waiting.room(seconds) as there_is:
        try:
            after = read_your_writes.get_many(keys, write, seconds if there_is else 0.0, asked)
        except read_your_writes.UnknownWrite as error:
            raise unknown_write() from error
    if after is None:
        return Response({"id": text, "status": read_your_writes.status(write), "shards": list(write.shards)}, 202)
    return Response(*show(after))


def with_pending(show: Callable[[list[Counter], Sequence[int | None]], Answer]) -> Callable[[list[Counter]], Answer]:
    """For `read`: answer with the counters and with what is pending for each of them."""
    return lambda found: show(found, service.current().pending_of(found))


def _shared(keys: list[str]) -> list[Counter]:
    """Read as the fast path does, together with its reads. Raises `ShardUnavailable`, `NoTopology`."""
    topology.current()  # read here, in a thread, if this process does not know it yet
    return service.current().read(keys)


def of_primary(read: Callable[[], T]) -> T:
    """What a read of the primary returns. A switchover leaves a shard briefly without one: wait for the next, if there is
    room to wait. Raises `ShardUnavailable`."""
    deadline = time.monotonic() + settings.TALLY.primary_wait_seconds
    try:
        return read()
    except ShardUnavailable:
        with waiting.room(settings.TALLY.primary_wait_seconds) as there_is:
            while there_is and time.monotonic() < deadline:
                time.sleep(_PAUSE_SECONDS)
                with suppress(ShardUnavailable):
                    return read()
        raise
