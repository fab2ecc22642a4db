"""Add and get under an optimistic lock: FastAPI, WATCH, GET, MULTI, SET, EXEC, and again if somebody else was
faster."""

import os

from fastapi import FastAPI
from pydantic import BaseModel
from redis.asyncio import Redis
from redis.exceptions import WatchError

app = FastAPI()
redis = Redis.from_url(os.environ["BENCH_REDIS"])


class Increment(BaseModel):
    delta: int


@app.post("/counters/{key}/increments", response_model=None)
async def increment(key: str, body: Increment) -> dict[str, object]:
    async with redis.pipeline() as pipe:
        while True:
            try:
                await pipe.watch(key)
                value = int(await pipe.get(key) or 0) + body.delta
                pipe.multi()  # type: ignore[no-untyped-call]
                pipe.set(key, value)
                await pipe.execute()
            except WatchError:
                continue
            return {"key": key, "value": value}
