"""The calls on counters and writes."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from django.conf import settings
from django.http import HttpRequest, HttpResponse
from rest_framework.request import Request

from counters import keys, service
from counters.api import answers, bulk, idempotency_keys, media, paging, priority, reading, requests, schema, waiting
from counters.api.authentication import Caller
from counters.api.base import ApiView, Response
from counters.api.problems import invalid
from counters.batch import Step
from counters.intake import writes
from counters.intake.idempotency import Claim
from counters.limits.limiter import Charge
from counters.outcome import REASONS
from counters.reading import reads, write_status
from counters.reading.reads import Counter
from sharding.lanes import Queue


def checked_key(key: str) -> str:
    """Return the key if it is valid. Raises `Problem` 400 otherwise."""
    if not keys.is_key(key):
        raise invalid("key", keys.KEY_RULE)
    return key


def claim_of(request: Request) -> Claim | None:
    """The claim of a request with an Idempotency-Key, else None. If-Match is part of the claim. Raises `Problem` 400,
    413, 415."""
    http: HttpRequest = request._request
    told = http.META
    caller = request.user if isinstance(request.user, Caller) else None
    return idempotency_keys.claim(
        caller,
        told.get("HTTP_IDEMPOTENCY_KEY"),
        http.method or "",
        http.path,
        lambda: media.body(http),
        told.get("HTTP_IF_MATCH", ""),
    )


def charge_of(request: Request, increments: int) -> Charge | None:
    """What a write of so many increments takes of its caller's quota."""
    caller = request.user
    return caller.charge(increments) if isinstance(caller, Caller) else None


def refuse_condition(request: Request) -> None:
    """Raises `Problem` 400 if the request has an If-Match, which its call does not support."""
    if "HTTP_IF_MATCH" in request._request.META:
        raise invalid("If-Match", "only for PUT and DELETE of a counter: an increment has no condition")


def queue_of(request: Request) -> Queue:
    """The queue of increments with the request's priority."""
    return priority.queue(request._request.META.get("HTTP_PRIORITY"))


class IncrementsView(ApiView):
    """Increments of one counter."""

    @schema.increment
    def post(self, request: Request, key: str) -> HttpResponse:
        """Add to a counter. 202 means: it is durable and will be counted exactly once. With `wait`, the answer has the
        new value."""
        key = checked_key(key)
        refuse_condition(request)
        seconds = waiting.seconds(request)
        delta = media.decode(media.json_body(request._request), requests.Increment).delta
        claim = claim_of(request)
        if seconds:
            write = writes.step(Step(key, "increment", delta), claim)
            accepted, outcome = waiting.applied(write, seconds, charge_of(request, 1))
            return Response(*answers.increment(accepted, key, delta, outcome))
        write = writes.increment(key, delta, claim, queue_of(request))
        accepted = service.current().submit(write, charge_of(request, 1))
        return Response(*answers.increment(accepted, key, delta))


class BulkIncrementsView(ApiView):
    """Increments of many counters."""

    @schema.bulk
    def post(self, request: Request) -> HttpResponse:
        """Add to many counters in one request. Its increments are folded, and each is counted exactly once."""
        refuse_condition(request)
        http = request._request
        serving = service.current()
        with serving.intake.turns.taken():
            body = bulk.decode(media.media_type(http), media.body(http), serving.intake.least_counted)
            write = writes.increments(body.folded, claim_of(request), body.count, body.counts, queue_of(request))
        return Response(*answers.bulk(serving.submit(write, charge_of(request, body.count)), body))


class CounterView(ApiView):
    """One counter."""

    @schema.get
    def get(self, request: Request, key: str) -> HttpResponse:
        """A counter's value. A key that was never written reads as 0."""
        show = reading.with_pending(answers.one_pending) if reading.wants_pending(request) else answers.one
        return reading.read(request, [checked_key(key)], show)

    @schema.put
    def put(self, request: Request, key: str) -> HttpResponse:
        """Set a counter to a value; with `If-Match`, only if it has that version. This voids every increment accepted
        earlier."""
        key = checked_key(key)
        value = media.decode(media.json_body(request._request), requests.Set).value
        return self._change(
            request, Step(key, "set", value, media.if_version(request._request.META.get("HTTP_IF_MATCH")))
        )

    @schema.delete
    def delete(self, request: Request, key: str) -> HttpResponse:
        """Reset a counter to 0. This voids every increment accepted earlier."""
        return self._change(
            request, Step(checked_key(key), "reset", 0, media.if_version(request._request.META.get("HTTP_IF_MATCH")))
        )

    def _change(self, request: Request, step: Step) -> HttpResponse:
        write = writes.step(step, claim_of(request))
        accepted, outcome = waiting.applied(write, settings.TALLY.max_wait_seconds)
        return Response(*answers.change(accepted, step.key, outcome))


class CountersView(ApiView):
    """Many counters."""

    @schema.get_many
    def get(self, request: Request) -> HttpResponse:
        """Counters by key (`key=a&key=b`, in that order), or all written counters with a prefix, page by page."""
        wanted = request.query_params.getlist("key")
        if not wanted:
            return self._page(request)
        for name in ("prefix", "cursor", "limit"):
            if name in request.query_params:
                raise invalid(name, "not together with key")
        if len(wanted) > settings.TALLY.max_keys:
            raise invalid("key", f"{settings.TALLY.max_keys} keys at most")
        return reading.read(request, [checked_key(key) for key in wanted], answers.many)

    def _page(self, request: Request) -> Response:
        for name in ("after", "wait"):
            if name in request.query_params:
                raise invalid(name, "only together with key")
        asked = reading.consistency(request)
        return listed(request, lambda prefix, **of: reads.listing(prefix, **of, consistency=asked))


class WriteView(ApiView):
    """One write."""

    @schema.write
    def get(self, _request: Request, write_id: str) -> Response:
        """The state of a write: queued, excess, stale, applied or rejected."""
        write = reading.write_id("id", write_id)
        found = write_status.find(write)
        if found is None:
            raise reading.unknown_write()
        answer: dict[str, Any] = {"id": write_id, "status": found.status, "shards": list(write.shards)}
        rejected = [outcome for outcome in found.outcomes if outcome.status == "rejected"]
        if rejected:
            answer["rejected"] = [
                {"key": one.key, "reason": one.reason, "detail": REASONS[one.reason or ""]} for one in rejected
            ]
        elif len(found.outcomes) == 1:
            answer |= {"value": found.outcomes[0].value, "version": found.outcomes[0].version}
        return Response(answer)


def listed(request: Request, listing: Callable[..., list[Counter]]) -> Response:
    """A page of counters by prefix. `listing(prefix, after=KEY, limit=N)` returns them in byte order. Raises `Problem`
    400."""
    prefix = request.query_params.get("prefix", "")
    if prefix and not keys.is_prefix(prefix):
        raise invalid("prefix", keys.CHARACTERS_RULE)
    limit = paging.limit(request)
    after = paging.place(request, lambda key: keys.is_prefix(key) and key.startswith(prefix), "with the same prefix")
    found = listing(prefix, after=after, limit=limit + 1)
    return Response(paging.page(found, limit, answers.shown, lambda counter: counter.key))
