"""The calls on counters and writes."""

from __future__ import annotations

import asyncio
import base64
import binascii
from collections.abc import Mapping
from concurrent.futures import Future
from typing import Any

from django.conf import settings
from django.http import HttpRequest, HttpResponse
from rest_framework.request import Request

from counters import keys
from counters.api import bulk, media, reading, requests, schema, waiting
from counters.api.authentication import Caller
from counters.api.base import Answer, ApiView, PendingResponse, Response, etag
from counters.api.problems import Problem, invalid
from counters.batch import Step
from counters.intake import dispatch, idempotency, outcomes, writes
from counters.intake.idempotency import Claim
from counters.intake.outcomes import Outcome
from counters.intake.writes import Accepted, Write
from counters.reading import reads, write_status
from counters.write_id import WriteId
from runtime import event_loop
from runtime.group_commit import Promise

_MOMENT_SECONDS = 1.0


def checked_key(key: str) -> str:
    """A valid key. Raises `Problem` 400."""
    if not keys.is_key(key):
        raise invalid("key", keys.KEY_RULE)
    return key


def claim_of(request: Request) -> Claim | None:
    """The claim of a request with an Idempotency-Key. Its condition is a part of what it asks. Raises `Problem` 400."""
    http: HttpRequest = request._request
    key = http.META.get("HTTP_IDEMPOTENCY_KEY")
    if key is None:
        return None
    if not 1 <= len(key) <= idempotency.MAX_KEY_LENGTH or not key.isascii() or not key.isprintable():
        raise invalid("Idempotency-Key", f"1 to {idempotency.MAX_KEY_LENGTH} printable ASCII characters")
    caller = request.user.prefix if isinstance(request.user, Caller) else ""
    return idempotency.claim(caller, key, http.method or "", http.path, media.body(http), http.META.get("HTTP_IF_MATCH", ""))


def if_version(request: Request) -> int | None:
    """The version in If-Match. Raises `Problem` 400."""
    text = request._request.META.get("HTTP_IF_MATCH")
    if text is None:
        return None
    version = text[1:-1]
    if len(text) < 3 or text[0] != '"' or text[-1] != '"' or not (version.isascii() and version.isdigit() and len(version) < 20):
        raise invalid("If-Match", 'a version in quotes, as in the ETag: "1234567890123456"')
    return int(version)


def queue_of(write: WriteId) -> str:
    """The queue of a write of one key."""
    return dispatch.queue_of(write.shards[0])


async def applied(write: Write, promise: Promise[Accepted], seconds: float) -> tuple[Accepted, Outcome | None]:
    """A step that is in the journal, and its outcome; None if that takes longer, or too many wait for theirs already.

    What takes longer than a moment is waited for in a thread, which asks the shard as well.
    """
    accepted = await promise
    if accepted.repeated or write.outcome is None:
        return accepted, await event_loop.in_thread(_wait, accepted.id, seconds, None)
    done, _ = await asyncio.wait([asyncio.wrap_future(write.outcome)], timeout=min(_MOMENT_SECONDS, seconds))
    if done:
        return accepted, write.outcome.result()
    outcome = await event_loop.in_thread(_wait, accepted.id, seconds - _MOMENT_SECONDS, write.outcome)
    outcomes.listener().forget(accepted.id.batch, accepted.id.index)
    return accepted, outcome


def _wait(write: WriteId, seconds: float, outcome: Future[Outcome] | None) -> Outcome | None:
    with waiting.room(0) as there_is:
        return write_status.wait(write, seconds, outcome) if there_is else None


def rejection(outcome: Outcome, write: WriteId) -> Problem:
    """409, or 412 for a version that did not match."""
    extra = {"id": str(write), "key": outcome.key, "value": outcome.value, "version": outcome.version}
    detail = outcomes.REASONS[outcome.reason or ""]
    if outcome.reason == "version":
        return Problem(412, "version-mismatch", detail, extra=extra, errors=[{"field": "If-Match", "rule": detail}])
    return Problem(409, outcome.reason or "rejected", detail, extra=extra)


async def increment_queued(promise: Promise[Accepted], key: str, delta: int, headers: Mapping[str, str] = {}) -> Answer:
    """202: an increment that is in the journal."""
    return Answer(_queued(await promise, key, delta), 202, headers)


def _queued(accepted: Accepted, key: str, delta: int) -> dict[str, Any]:
    return {"id": str(accepted.id), "key": key, "delta": delta, "status": "queued", "queue": queue_of(accepted.id)}


class IncrementsView(ApiView):
    """Increments of one counter."""

    @schema.increment
    def post(self, request: Request, key: str) -> HttpResponse:
        """Add to a counter. 202 means: it is durable and will be counted exactly once. With `wait`, the new value comes back."""
        key = checked_key(key)
        seconds = waiting.seconds(request)
        delta = media.decode(media.json_body(request._request), requests.Increment).delta
        claim = claim_of(request)
        if seconds:
            write = writes.step(Step(key, "increment", delta), claim)
            return PendingResponse(self._applied(write, writes.submit(write), seconds, key, delta))
        return PendingResponse(increment_queued(writes.submit(writes.increments({key: delta}, claim)), key, delta))

    async def _applied(self, write: Write, promise: Promise[Accepted], seconds: float, key: str, delta: int) -> Answer:
        accepted, outcome = await applied(write, promise, seconds)
        answer = _queued(accepted, key, delta)
        if outcome is None:
            return Answer(answer, 202)
        if outcome.status == "rejected":
            raise rejection(outcome, accepted.id)
        return Answer({**answer, "status": "applied", "value": outcome.value, "version": outcome.version})


class BulkIncrementsView(ApiView):
    """Increments of many counters."""

    @schema.bulk
    def post(self, request: Request) -> HttpResponse:
        """Add to many counters in one request. Its increments are folded, and each is counted exactly once."""
        http = request._request
        body = bulk.decode(media.media_type(http), media.body(http))
        promise = writes.submit(writes.increments(body.folded, claim_of(request)))
        return PendingResponse(self._queued(promise, body.count, len(body.folded)))

    async def _queued(self, promise: Promise[Accepted], count: int, keys: int) -> Answer:
        accepted = await promise
        return Answer({"id": str(accepted.id), "accepted": count, "keys": keys, "shards": len(accepted.id.shards)}, 202)


class CounterView(ApiView):
    """One counter."""

    @schema.get
    def get(self, request: Request, key: str) -> HttpResponse:
        """A counter's value. A key that was never written reads as 0."""
        return reading.read(request, [checked_key(key)], show_one)

    @schema.put
    def put(self, request: Request, key: str) -> HttpResponse:
        """Give a counter a value; with `If-Match`, only if it has that version. Every increment accepted earlier is void."""
        key = checked_key(key)
        value = media.decode(media.json_body(request._request), requests.Set).value
        return self._change(request, Step(key, "set", value, if_version(request)))

    @schema.delete
    def delete(self, request: Request, key: str) -> HttpResponse:
        """Reset a counter to 0. Every increment accepted earlier is void."""
        return self._change(request, Step(checked_key(key), "reset", 0, if_version(request)))

    def _change(self, request: Request, step: Step) -> HttpResponse:
        write = writes.step(step, claim_of(request))
        return PendingResponse(self._changed(write, writes.submit(write), step.key))

    async def _changed(self, write: Write, promise: Promise[Accepted], key: str) -> Answer:
        accepted, outcome = await applied(write, promise, settings.TALLY.max_wait_seconds)
        if outcome is None:
            return Answer({"id": str(accepted.id), "key": key, "status": "queued", "queue": queue_of(accepted.id)}, 202)
        if outcome.status == "rejected":
            raise rejection(outcome, accepted.id)
        return Answer({"key": key, "value": outcome.value, "version": outcome.version}, headers={"ETag": etag(outcome.version or 0)})


class CountersView(ApiView):
    """Many counters."""

    @schema.get_many
    def get(self, request: Request) -> HttpResponse:
        """Counters by key (`key=a&key=b`, in that order), or all that were written with a prefix, page by page."""
        wanted = request.query_params.getlist("key")
        if not wanted:
            return self._page(request)
        for name in ("prefix", "cursor", "limit"):
            if name in request.query_params:
                raise invalid(name, "not together with key")
        if len(wanted) > settings.TALLY.max_keys:
            raise invalid("key", f"{settings.TALLY.max_keys} keys at most")
        return reading.read(request, [checked_key(key) for key in wanted], show_many)

    def _page(self, request: Request) -> Response:
        for name in ("after", "wait"):
            if name in request.query_params:
                raise invalid(name, "only together with key")
        prefix = request.query_params.get("prefix", "")
        if prefix and not keys.is_key(prefix):
            raise invalid("prefix", keys.KEY_RULE)
        limit = whole_number(request, "limit", default=100, most=settings.TALLY.max_keys)
        after = decode_cursor(request.query_params.get("cursor"), prefix)
        found = reads.listing(prefix, after=after, limit=limit + 1, consistency=reading.consistency(request))
        page = found[:limit]
        following = encode_cursor(page[-1].key) if len(found) > limit else None
        return Response({"results": [shown(counter) for counter in page], "next": following})


class WriteView(ApiView):
    """One write."""

    @schema.write
    def get(self, _request: Request, write_id: str) -> Response:
        """What became of a write: queued, applied or rejected. Known for seven days."""
        write = reading.write_id("id", write_id)
        found = write_status.find(write)
        if found is None:
            raise reading.unknown_write()
        answer: dict[str, Any] = {"id": write_id, "status": found.status, "shards": list(write.shards)}
        rejected = [outcome for outcome in found.outcomes if outcome.status == "rejected"]
        if rejected:
            answer["rejected"] = [{"key": one.key, "reason": one.reason, "detail": outcomes.REASONS[one.reason or ""]} for one in rejected]
        elif len(found.outcomes) == 1:
            answer |= {"value": found.outcomes[0].value, "version": found.outcomes[0].version}
        return Response(answer)


def whole_number(request: Request, name: str, *, default: int, most: int) -> int:
    """A query parameter from 1 to `most`. Raises `Problem` 400."""
    text = request.query_params.get(name)
    if text is None:
        return default
    if not (text.isascii() and text.isdigit() and len(text) < 10 and 1 <= int(text) <= most):
        raise invalid(name, f"a whole number from 1 to {most}")
    return int(text)


def encode_cursor(key: str) -> str:
    """The place behind a key, opaque to clients."""
    return base64.urlsafe_b64encode(key.encode()).decode().rstrip("=")


def decode_cursor(cursor: str | None, prefix: str) -> str:
    """The key that a cursor stands behind; "" for the first page. Raises `Problem` 400."""
    if cursor is None:
        return ""
    try:
        key = base64.b64decode(cursor + "=" * (-len(cursor) % 4), altchars=b"-_", validate=True).decode()
    except (binascii.Error, ValueError):
        key = ""
    if not keys.is_key(key) or not key.startswith(prefix):
        raise invalid("cursor", "the value of next from the page before, with the same prefix")
    return key


def show_one(found: list[reads.Counter]) -> Answer:
    """The answer that is one counter."""
    return Answer(shown(found[0]), headers={"ETag": etag(found[0].version)})


def show_many(found: list[reads.Counter]) -> Answer:
    """The answer that is many counters, the last page of them."""
    return Answer({"results": [shown(counter) for counter in found], "next": None})


def shown(counter: reads.Counter) -> dict[str, Any]:
    """A counter as the API shows it."""
    updated = counter.updated_at
    return {
        "key": counter.key,
        "value": counter.value,
        "version": counter.version,
        "updated_at": updated.isoformat() if updated else None,
        "source": counter.source,
        "shard": counter.shard,
    }
