"""The quick look: for an hour, the cache's Redis has an accepted event of each user and item that the API saw last.

It answers two questions. *Is this event known?* Then it is not written again (`is_known`). That is the rule of
`likes.state` for an event whose id is known, so it holds however old the entry is, and nothing is lost with the cache: what
it does not know is written. *What has this user just done?* A read of the own state takes the newer of the entry and the row
(`OwnState`), until the row has the entry's write.

Entries are written after the journal has the write, and before it is answered. After a restore they are deleted with the rest
of the cache (`counters.reading.cache.clear`), as they may be of writes that are gone.
"""

from __future__ import annotations

import asyncio
import struct
from collections.abc import Iterable, Mapping, Sequence, Set
from pathlib import Path
from types import MappingProxyType
from typing import NamedTuple
from uuid import uuid4

import structlog
from django.conf import settings
from prometheus_client import Counter
from redis.exceptions import RedisError

from counters.reading.cache import ROOMS
from likes.events import Event, moment
from likes.reading import Pair, Row
from runtime import breakers, redis
from runtime.group_commit import GroupCommit
from runtime.redis import LoopConnection

REPEATS = Counter("tally_likes_repeats_total", "Events of likes that were known and not written again")
_HEAD = struct.Struct(">?BQQ")  # liked, spilled, version of the write, moment
_CHUNK = 2000  # entries that one command reads or writes: the cache serves nothing else meanwhile
_MOST = 64  # callers that share a round trip
log = structlog.get_logger(__name__)


class Entry(NamedTuple):
    """An accepted event. `spilled`: it went to the excess queue, so what its lane has applied says nothing about it."""

    liked: bool
    spilled: bool
    version: int
    at: int
    id: bytes

    def is_known(self, event: Event) -> bool:
        """Whether an event changes nothing, because this one was accepted: of events with the same id the oldest counts, of
        those without one the newest. An unlike before a like may still change since when the item is liked."""
        if event.id != self.id:
            return False
        known, asked = (self.at, self.liked), (event.at, event.liked)
        if self.id:
            return asked >= known
        return asked <= known and (event.liked or not self.liked)

    def is_missing_in(self, row: Row) -> bool:
        """Whether the lane has applied writes behind that of this event, and the row is older. Then it was overtaken and waits
        in the stale queue, or it changed nothing, as its id was known with another timestamp."""
        return not self.spilled and self.version <= row.through and self.at > row.at

    def encoded(self) -> bytes:
        """As `decoded` reads it."""
        return _HEAD.pack(self.liked, self.spilled, self.version, self.at) + self.id

    @classmethod
    def decoded(cls, data: bytes | None) -> Entry | None:
        """What was kept, if anything was."""
        if data is None or len(data) < _HEAD.size:
            return None
        liked, spilled, version, at = _HEAD.unpack_from(data)
        return cls(liked, bool(spilled), version, at, data[_HEAD.size :])


MARK = f"{ROOMS}like-mark"  # no entry has this key: they have slashes
NOTHING: Mapping[str, Entry] = MappingProxyType({})


class OwnState(NamedTuple):
    """Whether a user likes an item, by the newest event known, and if so, since when. `pending`: the server that was asked
    has not applied that event."""

    liked: bool
    since: int
    pending: bool

    @classmethod
    def of(cls, row: Row, entry: Entry | None) -> OwnState:
        """The newer of a row and an entry; the row, if it has the entry's write."""
        if entry is None or (not entry.spilled and entry.version <= row.through) or entry.at <= row.at:
            return cls(row.liked, row.since, pending=False)
        return cls(entry.liked, row.since if row.liked else entry.at, pending=True)


def key_of(item: str, user: str) -> str:
    """The key of an entry."""
    return f"{ROOMS}like:{item}/{user}"  # no name has a slash


def forget(pairs: Iterable[Pair]) -> None:
    """Delete the entries of pairs, and what processes know beside them. For threads. Raises `RedisError`."""
    redis.cache().unlink(*[key_of(*pair) for pair in pairs], MARK)


def unknown(events: Sequence[Event], entries: Sequence[Entry | None]) -> Sequence[Event]:
    """The events that are not known to change nothing; `entries[i]` is that of the i-th."""
    left = [event for event, one in zip(events, entries, strict=True) if one is None or not one.is_known(event)]
    if len(left) == len(events):
        return events
    REPEATS.inc(len(events) - len(left))
    return left


def newest(
    events: Iterable[Event], version: int, spilled: Set[str] = frozenset(), known: Mapping[str, Entry] = NOTHING
) -> dict[str, Entry]:
    """The entries to put for accepted events of a write: of each user and item the newest, if it is newer than that which is
    `known`. `spilled`: items that went to the excess queue."""
    found: dict[str, Entry] = {}
    for event in events:
        key = key_of(event.item, event.user)
        entry = Entry(event.liked, event.item in spilled, version, moment(event.at, version), event.id)
        before = found.get(key) or known.get(key)
        if before is None or (before.at, before.id, before.liked) < (entry.at, entry.id, entry.liked):
            found[key] = entry
    return found


class _Asked(NamedTuple):
    """Entries to read, and entries to write."""

    wanted: Sequence[str]
    values: Sequence[tuple[str, bytes]]
    done: asyncio.Future[list[bytes | None]]


class Recent:
    """The entries in the cache. Belongs to the event loop that it was created on. Without the cache nothing is known, and
    nothing is kept."""

    def __init__(self, connection: LoopConnection) -> None:
        self._connection = connection
        self._put = redis.script(Path(__file__).parent, "put")
        self._together: GroupCommit[_Asked] = GroupCommit(self._exchange, most=_MOST)
        self._seconds = settings.TALLY.likes_recent_seconds

    async def get(self, keys: Sequence[str]) -> list[bytes | None]:
        """Encoded entries by `key_of`, in the order of the keys."""
        return await self._asked(keys, ()) if self._seconds else [None] * len(keys)

    async def put(self, values: Sequence[tuple[str, bytes]]) -> None:
        """Keep encoded entries."""
        if self._seconds:
            await self._asked((), values)

    async def mark(self) -> bytes:
        """The mark of what processes remember (`likes.known`): another one after entries were deleted."""
        (found,) = await self.get([MARK])
        if found is None:
            found = uuid4().bytes
            await self.put([(MARK, found)])
        return found

    async def close(self) -> None:
        """Let go of the connection."""
        await self._together.drain()
        await self._connection.close()

    async def _asked(self, wanted: Sequence[str], values: Sequence[tuple[str, bytes]]) -> list[bytes | None]:
        asked = _Asked(wanted, values, asyncio.get_running_loop().create_future())
        self._together.put(asked)
        return await asked.done

    async def _exchange(self, asked: list[_Asked]) -> None:
        wanted = [key for one in asked for key in one.wanted]
        values = [value for one in asked for value in one.values]
        found: list[bytes | None] = []
        try:
            with breakers.cache().calling():
                for start in range(0, len(wanted), _CHUNK):
                    found += await self._connection.execute("MGET", *wanted[start : start + _CHUNK])
                for start in range(0, len(values), _CHUNK):
                    some = values[start : start + _CHUNK]
                    arguments = [self._seconds, *(value for _, value in some)]
                    await self._connection.evaluate(self._put, [key for key, _ in some], arguments)
        except RedisError as error:
            log.debug("recent_likes_unknown", error=str(error))
        except Exception:  # otherwise the callers would wait for ever
            log.exception("recent_likes_unknown")
        found += [None] * (len(wanted) - len(found))
        place = 0
        for one in asked:
            mine = found[place : place + len(one.wanted)]
            place += len(one.wanted)
            if not one.done.done():  # the request may have been cancelled
                one.done.set_result(mine)
