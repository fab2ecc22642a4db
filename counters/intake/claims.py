"""Look-ups of claims in their home shards, on an event loop. A shard is asked one query at a time, for all claims that came
meanwhile (`sharding.queries`)."""

from __future__ import annotations

import asyncio
from typing import NamedTuple

from counters.intake import idempotency
from counters.intake.admission import Shed
from counters.intake.idempotency import Claim
from counters.write_id import WriteId
from sharding.queries import Queries

_MOST = 100  # tokens of a query


class _Asked(NamedTuple):
    token: bytes
    record: asyncio.Future[bytes | None]


class Claims:
    """Belongs to the event loop that it was created on. The topology must be loaded."""

    def __init__(self) -> None:
        self._queries: Queries[_Asked] = Queries(self._answer, most=_MOST)

    async def find(self, claim: Claim) -> tuple[WriteId, Shed] | None:
        """The write of an earlier request with the same claim, and what it lost, if the home shard has its record. Raises
        `Mismatch`, `ShardUnavailable`."""
        asked = _Asked(claim.token, asyncio.get_running_loop().create_future())
        self._queries.put(claim.home_shard, asked)
        record = await asked.record
        return None if record is None else claim.resolve(record)

    @staticmethod
    async def _answer(shard: int, asked: list[_Asked]) -> None:
        waiting = [one for one in asked if not one.record.done()]  # a request may have been cancelled
        try:
            found = await asyncio.to_thread(idempotency.records, shard, [one.token for one in waiting])
        except Exception as error:
            for one in waiting:
                if not one.record.done():
                    one.record.set_exception(error)
            return
        for one in waiting:
            if not one.record.done():
                one.record.set_result(found.get(one.token))
