"""FastAPI + Redis `INCRBY`: fast, and gone with its Redis, which keeps nothing on the disk."""

import os

from fastapi import FastAPI
from pydantic import BaseModel
from redis.asyncio import Redis

app = FastAPI()
redis = Redis.from_url(os.environ["BENCH_REDIS"])


class Increment(BaseModel):
    delta: int


@app.post("/counters/{key}/increments", response_model=None)
async def increment(key: str, body: Increment) -> dict[str, object]:
    return {"key": key, "value": await redis.incrby(key, body.delta)}
