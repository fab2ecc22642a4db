"""The calls on likes on the fast path."""

from __future__ import annotations

from counters.api import fast_path, waiting
from counters.api.answers import Answer
from counters.api.fast_path import Call, Plain, Request
from counters.api.media import ARROW
from counters.api.problems import Problem
from counters.service import Service
from likes import writes
from likes.api import answers, bulk
from likes.events import Event
from likes.names import count_key, is_name, is_type, item_of
from likes.reading import Pair
from likes.service import Likes

BULK = "/v1/likes"
_STATE, _COUNT = f"{BULK}/type/item/users/user", f"{BULK}/type/item"
_PREFIX = BULK + "/"


class LikeCalls:
    """The calls on one item, one user and one item, and events."""

    paths = (BULK,)
    views = (BULK, _STATE, _COUNT)

    def __init__(self, service: Service) -> None:
        self._service, self._likes = service, Likes(service)

    async def close(self) -> None:
        """Let go of the connection to the cache."""
        await self._likes.close()

    def find(self, request: Request, plain: Plain) -> Call | None:
        """The call of a request, if there is one."""
        if request.path == BULK:
            return Call(self._events(request, plain), BULK) if request.method == "POST" else None
        match request.path.removeprefix(_PREFIX).split("/"):
            case [type_, name] if is_type(type_) and is_name(name) and request.method == "GET":
                return Call(self._count(request, item_of(type_, name)), _COUNT)
            case [type_, name, "users", user] if is_type(type_) and is_name(name) and is_name(user):
                pair = Pair(item_of(type_, name), user)
                match request.method:
                    case "GET":
                        return Call(self._state(request, pair), _STATE)
                    case "PUT" | "DELETE":
                        return Call(self._like(request, plain, pair), _STATE)
        return None

    async def _like(self, request: Request, plain: Plain, pair: Pair) -> Answer | None:
        if plain.if_match is not None or not plain.may_write:
            return None
        try:
            seconds, claim = fast_path.seconds(request.query), plain.claim(request)
        except Problem:
            return None
        event, outcome = Event(*pair, liked=request.method == "PUT"), None
        if seconds:
            write = writes.awaited(event, claim)
            accepted, outcome = await waiting.applied_on(self._service, write, seconds, plain.charge(1))
        else:
            accepted = await self._service.submitted(writes.write([event], claim, plain.queue), plain.charge(1))
        await self._likes.keep([event], accepted)
        return answers.like(accepted, event, outcome)

    async def _events(self, request: Request, plain: Plain) -> Answer | None:
        if request.query or plain.if_match is not None or not plain.may_write:
            return None
        media_type = plain.content_type.decode("latin-1")
        try:
            claim = plain.claim(request)
            known = await self._likes.known() if media_type == ARROW and claim is None else None
            received = await fast_path.decoded(request.body, lambda: bulk.decode(media_type, request.body, known))
        except Problem:
            return None
        charge = plain.charge(received.number)
        return answers.events(await self._likes.take(received, charge, plain.queue, claim=claim, known=known))

    async def _state(self, request: Request, pair: Pair) -> Answer | None:
        if request.query:
            return None
        (found,) = await self._likes.states([pair])
        return answers.state(pair, found)

    async def _count(self, request: Request, item: str) -> Answer | None:
        if request.query not in (b"", b"pending=false"):
            return None
        found = await self._service.lookups.get([count_key(item)])
        return answers.count(found, [None] if request.query else await self._service.pending.of(found))
