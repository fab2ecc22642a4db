"""The calls on counters on the fast path, and the probes."""

from __future__ import annotations

from collections.abc import Callable
from urllib.parse import parse_qsl

from django.conf import settings

from counters import keys
from counters.api import answers, bulk, fast_path, media, probes, requests, waiting
from counters.api.answers import Answer
from counters.api.bulk import Bulk
from counters.api.fast_path import Call, Plain, Request
from counters.api.problems import Problem
from counters.batch import Step
from counters.intake import writes
from counters.intake.idempotency import Claim
from counters.reading.reads import Counter
from counters.service import Service
from sharding.lanes import Queue

COUNTERS, INCREMENTS, BULK = "/v1/counters", "/increments", "/v1/increments"
_COUNTER = COUNTERS + "/"
_PROBES = (probes.LIVE, probes.READY, probes.HEALTH)


class CounterCalls:
    """The calls on counters, and the probes."""

    paths = (COUNTERS, BULK, *_PROBES)
    views = (COUNTERS, f"{_COUNTER}key", f"{_COUNTER}key{INCREMENTS}", BULK, *_PROBES)

    def __init__(self, service: Service) -> None:
        self._service = service

    async def close(self) -> None:
        """It holds nothing."""

    def find(self, request: Request, plain: Plain) -> Call | None:
        """The call of a request, if there is one."""
        path = request.path
        match request.method:
            case "GET" if path.startswith(_COUNTER):
                answer, view = self._read_one(request, path[len(_COUNTER) :]), f"{_COUNTER}key"
            case "GET" if path == COUNTERS:
                answer, view = self._read_many(request), COUNTERS
            case "POST" if path.startswith(_COUNTER) and path.endswith(INCREMENTS):
                key = path[len(_COUNTER) : -len(INCREMENTS)]
                answer, view = self._increment(request, plain, key), f"{_COUNTER}key{INCREMENTS}"
            case "POST" if path == BULK:
                answer, view = self._bulk(request, plain), BULK
            case "PUT" | "DELETE" if path.startswith(_COUNTER):
                answer, view = self._change(request, plain, path[len(_COUNTER) :]), f"{_COUNTER}key"
            case "GET" if path in _PROBES:
                answer, view = probes.answered(path), path
            case _:
                return None
        return Call(answer, view)

    async def _read_one(self, request: Request, key: str) -> Answer | None:
        return await self._read([key], answers.one) if not request.query and keys.is_key(key) else None

    async def _read_many(self, request: Request) -> Answer | None:
        wanted = _wanted_keys(request.query)
        return await self._read(wanted, answers.many) if wanted and keys.first_invalid(wanted) is None else None

    async def _read(self, wanted: list[str], show: Callable[[list[Counter]], Answer]) -> Answer | None:
        return show(await self._service.lookups.get(wanted))

    async def _increment(self, request: Request, plain: Plain, key: str) -> Answer | None:
        if (
            plain.content_type != fast_path.JSON
            or plain.if_match is not None
            or not plain.may_write
            or not keys.is_key(key)
        ):
            return None
        try:
            seconds = fast_path.seconds(request.query)
            delta = media.decode(request.body, requests.Increment).delta
            claim = plain.claim(request)
        except Problem:
            return None
        if seconds:
            write = writes.step(Step(key, "increment", delta), claim)
            accepted, outcome = await waiting.applied_on(self._service, write, seconds, plain.charge(1))
            return answers.increment(accepted, key, delta, outcome)
        write = writes.increment(key, delta, claim, plain.queue)
        return answers.increment(await self._service.submitted(write, plain.charge(1)), key, delta)

    async def _change(self, request: Request, plain: Plain, key: str) -> Answer | None:
        if request.query or not plain.may_write or not keys.is_key(key):
            return None
        try:
            version = media.if_version(None if plain.if_match is None else plain.if_match.decode("latin-1"))
            claim = plain.claim(request)
            if request.method == "DELETE":
                step = Step(key, "reset", 0, version)
            elif plain.content_type == fast_path.JSON:
                step = Step(key, "set", media.decode(request.body, requests.Set).value, version)
            else:
                return None
        except Problem:
            return None
        write = writes.step(step, claim)
        accepted, outcome = await waiting.applied_on(self._service, write, settings.TALLY.max_wait_seconds)
        return answers.change(accepted, key, outcome)

    async def _bulk(self, request: Request, plain: Plain) -> Answer | None:
        if request.query or plain.if_match is not None or not plain.may_write:
            return None
        media_type = plain.content_type.decode("latin-1")
        try:
            asked = media_type, request.body, self._service.intake.least_counted, plain.queue, plain.claim(request)
            write, body = await fast_path.decoded(request.body, lambda: _decoded(*asked))
        except Problem:
            return None
        return answers.bulk(await self._service.submitted(write, plain.charge(body.count)), body)


def _wanted_keys(query: bytes) -> list[str]:
    """The keys of a query that has nothing else and not too many of them; otherwise none."""
    most = settings.TALLY.max_keys
    try:
        text = query.decode("ascii")
        if "%" in text or "+" in text:
            pairs = parse_qsl(text, keep_blank_values=True, max_num_fields=most)
        else:  # the same, without decoding each key
            pairs = [(name, value) for name, _, value in (field.partition("=") for field in text.split("&", most))]
    except ValueError:
        return []
    wanted = [value for name, value in pairs if name == "key"]
    return wanted if len(wanted) == len(pairs) <= most else []


def _decoded(media_type: str, body: bytes, least: int, queue: Queue, claim: Claim | None) -> tuple[writes.Write, Bulk]:
    """A bulk write and its body. Raises `Problem`."""
    decoded = bulk.decode(media_type, body, least)
    return writes.increments(decoded.folded, claim, decoded.count, decoded.counts, queue), decoded
