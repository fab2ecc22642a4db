"""Server-sent events to many viewers from one look a second, made while somebody watches.

https://html.spec.whatwg.org/multipage/server-sent-events.html
"""

from __future__ import annotations

import asyncio
import json
from collections import Counter
from collections.abc import AsyncGenerator, Callable, Mapping

import structlog

from runtime import request_id

Frames = Mapping[str, str]  # HTML by the id of the element that it is the content of
LOOK_SECONDS = 1.0
STREAM_SECONDS = 300.0  # after which a stream ends and its browser asks again: who asks is checked anew
RETRY_MILLISECONDS = 1000
log = structlog.get_logger(__name__)


class Live:
    """The viewers of one process. `make` makes the frames of an audience, in a thread. A viewer gets those that have
    changed since its last event."""

    def __init__(self, most: int, make: Callable[[bool], Frames]) -> None:
        self._most, self._make = most, make
        self._watching: Counter[bool] = Counter()  # viewers by audience: whether they are staff
        self._task: asyncio.Task[None] | None = None
        self._next: asyncio.Future[Mapping[bool, Frames]] | None = None

    @property
    def is_full(self) -> bool:
        """Whether no other viewer may come."""
        return self._watching.total() >= self._most

    async def watch(self, staff: bool) -> AsyncGenerator[bytes, None]:
        """Events, about one a second, for `STREAM_SECONDS`; none if it is full by now."""
        loop = asyncio.get_running_loop()
        yield b"retry: %d\n\n" % RETRY_MILLISECONDS
        if self.is_full:
            return
        self._watching[staff] += 1
        try:
            ends = loop.time() + STREAM_SECONDS
            seen: dict[str, str] = {}
            while loop.time() < ends:
                frames = (await self._frames(loop)).get(staff, {})
                changed = {name: html for name, html in frames.items() if seen.get(name) != html}
                seen |= changed
                yield b"data: %s\n\n" % json.dumps(changed).encode() if changed else b": nothing new\n\n"
        finally:
            self._watching[staff] -= 1
            if not self._watching.total() and self._task:
                self._task.cancel()
                self._task = self._next = None

    async def _frames(self, loop: asyncio.AbstractEventLoop) -> Mapping[bool, Frames]:
        """The next frames of each audience."""
        if self._task is None or self._next is None:
            self._next = loop.create_future()
            self._task = loop.create_task(self._keep(loop), context=request_id.nobody())
        return await asyncio.shield(self._next)

    async def _keep(self, loop: asyncio.AbstractEventLoop) -> None:
        while True:
            began = loop.time()
            frames: dict[bool, Frames] = {}
            for staff in +self._watching:
                try:
                    frames[staff] = await asyncio.to_thread(self._make, staff)
                except Exception:
                    log.exception("status_unseen")
            done, self._next = self._next, loop.create_future()
            if done and not done.done():
                done.set_result(frames)
            await asyncio.sleep(max(0.0, began + LOOK_SECONDS - loop.time()))
