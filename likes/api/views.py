"""The calls on likes."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from django.conf import settings
from django.http import HttpResponse
from rest_framework.request import Request

from counters import service
from counters.api import media, paging, reading, waiting
from counters.api.base import ApiView, Response
from counters.api.problems import invalid
from counters.api.views import charge_of, claim_of, queue_of, refuse_condition
from counters.reading.reads import Consistency
from likes import reading as rows
from likes import service as likes
from likes import writes
from likes.api import answers, bulk, schema
from likes.events import Event
from likes.names import NAME_RULE, TYPE_RULE, count_key, is_name, is_type, item_of
from likes.reading import FIRST, Pair, Place
from likes.recent import OwnState
from sharding import topology


def checked_item(type_: str, name: str) -> str:
    """The item of this type and name. Raises `Problem` 400."""
    if not is_type(type_):
        raise invalid("type", TYPE_RULE)
    if not is_name(name):
        raise invalid("item", NAME_RULE)
    return item_of(type_, name)


def checked_user(user: str) -> str:
    """Return the user if the name is valid. Raises `Problem` 400 otherwise."""
    if not is_name(user):
        raise invalid("user", NAME_RULE)
    return user


class LikeView(ApiView):
    """One user and one item."""

    @schema.get
    def get(self, request: Request, type: str, item: str, user: str) -> HttpResponse:
        """Whether a user likes an item, and since when. What was accepted counts, applied or not."""
        pair = Pair(checked_item(type, item), checked_user(user))
        (found,) = _states([pair], reading.consistency(request))
        return Response(*answers.state(pair, found))

    @schema.put
    def put(self, request: Request, type: str, item: str, user: str) -> HttpResponse:
        """A user likes an item from now on. A repeat changes nothing."""
        return self._like(request, Event(checked_item(type, item), checked_user(user), liked=True))

    @schema.delete
    def delete(self, request: Request, type: str, item: str, user: str) -> HttpResponse:
        """A user does not like an item any longer. A repeat changes nothing."""
        return self._like(request, Event(checked_item(type, item), checked_user(user), liked=False))

    def _like(self, request: Request, event: Event) -> HttpResponse:
        refuse_condition(request)
        seconds, claim, outcome = waiting.seconds(request), claim_of(request), None
        if seconds:
            accepted, outcome = waiting.applied(writes.awaited(event, claim), seconds, charge_of(request, 1))
        else:
            write = writes.write([event], claim, queue_of(request))
            accepted = service.current().submit(write, charge_of(request, 1))
        serving = likes.current()
        serving.service.run(serving.keep([event], accepted))
        return Response(*answers.like(accepted, event, outcome))


class ItemView(ApiView):
    """One item."""

    @schema.count
    def get(self, request: Request, type: str, item: str) -> HttpResponse:
        """How many users like an item. An item that nobody ever liked has 0 likes."""
        key = count_key(checked_item(type, item))
        if reading.wants_pending(request, default=True):
            return reading.read(request, [key], reading.with_pending(answers.count))
        return reading.read(request, [key], lambda found: answers.count(found, [None]))


class ItemsView(ApiView):
    """Many items of one type."""

    @schema.counts
    def get(self, request: Request, type: str) -> HttpResponse:
        """How many users like each of some items (`item=a&item=b`, in that order), and with `user` whether this one does."""
        wanted = request.query_params.getlist("item")
        if not is_type(type):
            raise invalid("type", TYPE_RULE)
        if not 1 <= len(wanted) <= settings.TALLY.max_keys:
            raise invalid("item", f"1 to {settings.TALLY.max_keys} items")
        items = [checked_item(type, name) for name in wanted]
        user = request.query_params.get("user")
        states: list[OwnState] = []
        if user is not None:
            checked_user(user)
            states = _states([Pair(item, user) for item in items], reading.consistency(request))
        return reading.read(request, [count_key(item) for item in items], partial(answers.counts, states=states))


class LikersView(ApiView):
    """Who likes an item."""

    @schema.likers
    def get(self, request: Request, type: str, item: str) -> HttpResponse:
        """The users who like an item, newest first, page by page."""
        return _page(request, partial(rows.likers, checked_item(type, item)), answers.liker, is_name)


class LikedView(ApiView):
    """What a user likes."""

    @schema.liked
    def get(self, request: Request, user: str) -> HttpResponse:
        """The items that a user likes, newest first, page by page."""
        return _page(request, partial(rows.liked, checked_user(user)), answers.liked, _is_item)


class EventsView(ApiView):
    """Events of many users and items."""

    @schema.events
    def post(self, request: Request) -> HttpResponse:
        """Likes and ends of likes of many users and items in one request."""
        refuse_condition(request)
        http, serving = request._request, likes.current()
        with service.current().intake.turns.taken():
            received = bulk.decode(media.media_type(http), media.body(http))
        topology.current()  # read here, in a thread, if this process does not know it yet
        claim, charge = claim_of(request), charge_of(request, received.number)
        taken = serving.service.run(serving.take(received, charge, queue_of(request), claim=claim))
        return Response(*answers.events(taken))


def _states(pairs: list[Pair], asked: Consistency) -> list[OwnState]:
    """Raises `ShardUnavailable`, `NoTopology`."""
    serving = likes.current()
    if asked == "eventual":
        return serving.service.run(serving.states(pairs))
    found = reading.of_primary(lambda: rows.states(pairs, "primary"))
    return serving.service.run(serving.states_with(found, pairs))


def _page(
    request: Request,
    read: Callable[[Place, int, Consistency], list[Place]],
    show: Callable[[Place], dict[str, str]],
    is_other: Callable[[str], bool],
) -> HttpResponse:
    """A page of `read(after, limit, consistency)`. A cursor is a moment and a name that `is_other` knows."""

    def is_place(text: str) -> bool:
        at, _, name = text.partition(" ")
        return at.isascii() and at.isdigit() and len(at) < 17 and is_other(name)

    limit, asked = paging.limit(request), reading.consistency(request)
    text = paging.place(request, is_place)
    at, _, name = text.partition(" ")
    after = Place(int(at), name) if text else FIRST

    def ask() -> list[Place]:
        return read(after, limit + 1, asked)

    found = reading.of_primary(ask) if asked == "primary" else ask()
    return Response(paging.page(found, limit, show, lambda place: f"{place.at} {place.name}"))


def _is_item(text: str) -> bool:
    type_, _, name = text.partition("/")
    return is_type(type_) and is_name(name)
