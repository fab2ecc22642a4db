"""Likes in the mix: events of shared users in bulk, late, repeated and contradictory; one at a time of the client's own users.

A bulk has an Idempotency-Key or none: without one, nothing but the ids of its events keeps a repeat from counting.
"""

from __future__ import annotations

import json
import random
import time
import uuid
from collections import deque
from itertools import accumulate

import msgspec
import pyarrow as pa

from benchmarks.chaos.client import JSON, MSGPACK, PLAIN_TIMEOUT_SECONDS, WAIT_SECONDS, Client
from benchmarks.chaos.expected_likes import Event, Pair
from benchmarks.chaos.wire import Answer

TYPE = "chaos"
ITEMS, USERS = 60, 40  # shared
OWN_USERS = 3  # of each client
BULK = (20, 200)  # events
PAST_SECONDS = 3 * 3600  # so long ago are stated moments: no step of a clock takes a write's position before them
SPREAD_SECONDS = 5  # within which moments come in any order, and are often equal
TO_COME_SECONDS = 24 * 3600
NDJSON, ARROW = "application/x-ndjson", "application/vnd.apache.arrow.stream"
_KNOWN = 8  # events of a pair whose ids are sent again: fewer than Tally remembers
_SHARES = {"bulk": 45, "again": 10, "one": 30, "to come": 10, "known": 5}
_ZIPF = list(accumulate(1 / rank for rank in range(1, ITEMS + 1)))


class Liker:
    """The likes of one client."""

    def __init__(self, client: Client, prefix: str) -> None:
        self.client, self.rng = client, client.rng
        short = client.name.removeprefix(prefix)
        self.items = [f"{TYPE}/{prefix}item:{n}" for n in range(ITEMS)]
        self.users = [f"{prefix}user:{n}" for n in range(USERS)]
        self.own = [f"{prefix}own:{short}:{n}" for n in range(OWN_USERS)]
        self.own_item = f"{TYPE}/{prefix}own:{short}"  # which only own users like, so its count is known
        self._likes = client.expected.likes
        self._sent: deque[list[Event]] = deque(maxlen=50)
        self._known: dict[Pair, deque[Event]] = {}

    def act(self) -> None:
        """Do one of the mix."""
        match self.rng.choices(list(_SHARES), weights=list(_SHARES.values()))[0]:
            case "bulk":
                self._bulk([self._event() for _ in range(self.rng.randint(*BULK))])
            case "again" if self._sent:
                events = self.rng.choice(self._sent)
                self._bulk(self.rng.sample(events, self.rng.randint(1, len(events))))
            case "one":
                self._one()
            case "to come":
                self._to_come()
            case "known":
                self._send_known()

    # --- shared users -------------------------------------------------------------------------------------------------------

    def _event(self) -> Event:
        item = self.rng.choices(self.items, cum_weights=_ZIPF)[0]
        at = int(time.time()) - PAST_SECONDS + self.rng.randint(-SPREAD_SECONDS, SPREAD_SECONDS)
        return Event(item, self.rng.choice(self.users), self.rng.random() < 0.6, at, self._id())

    def _id(self) -> str:
        """A UUID, or a text."""
        bits = self.rng.getrandbits(128)
        return str(uuid.UUID(int=bits)) if self.rng.random() < 0.7 else f"{bits:x}"[:12]

    def _bulk(self, events: list[Event]) -> None:
        events += self.rng.choices(events, k=len(events) // 5)  # some twice
        self.rng.shuffle(events)
        if (answer := self._post(events, keyed=self.rng.random() < 0.5)) is None:
            return
        refused = _refused(answer)
        for event in {*events}:
            if event.item not in refused and event.user not in refused:
                self._likes.stated(event)
        self._sent.append(events)

    # --- own users ----------------------------------------------------------------------------------------------------------

    def _pair(self) -> Pair:
        item = self.own_item if self.rng.random() < 0.4 else self.rng.choice(self.items)
        return item, self.rng.choice(self.own)

    def _one(self) -> None:
        """PUT or DELETE, and at times wait for the result."""
        pair, liked, wait = self._pair(), self.rng.random() < 0.55, self.rng.random() < 0.3
        item, user = pair
        path, timeout = f"/v1/likes/{item}/users/{user}", PLAIN_TIMEOUT_SECONDS
        if wait:
            path, timeout = f"{path}?wait={WAIT_SECONDS}", WAIT_SECONDS + PLAIN_TIMEOUT_SECONDS
        request = self.client.request(
            "like" if liked else "unlike", "PUT" if liked else "DELETE", path, None, timeout=timeout
        )
        answer = self.client.write(request, {}, (200, 202) if wait else (202,))
        if answer is None:
            return
        changed = self._likes.accepted(pair, liked=liked)
        if answer.status == 200 and not self.client.spills:  # what was spilled before is applied when nobody knows
            self._check(pair, answer, changed=changed)

    def _check(self, pair: Pair, answer: Answer, *, changed: bool) -> None:
        item, user = pair
        told = answer.json
        if told.get("changed") is not changed:
            self.client.complain(f"{user} and {item} told {told}, must have changed: {changed}")
        due = sum(self._likes.liked((item, own)) for own in self.own)
        if item == self.own_item and told.get("count") != due:
            self.client.complain(f"{item} told {told}, must have {due} likes")

    def _to_come(self) -> None:
        """An event of a moment to come: its moment is when it is accepted."""
        at = int(time.time()) + TO_COME_SECONDS
        event = Event(*self._pair(), self.rng.random() < 0.55, at, self._id())
        answer = self._post([event, event], keyed=self.client.spills or self.rng.random() < 0.5)
        if answer is not None and not _refused(answer):
            self._likes.accepted(event.pair, liked=event.liked)
            self._known.setdefault(event.pair, deque(maxlen=_KNOWN)).append(event)

    def _send_known(self) -> None:
        """An id that has counted, with another moment and the other action: it counts nothing."""
        if not self._known or self.client.spills:
            return
        known = self.rng.choice([event for events in self._known.values() for event in events])
        self._post([known._replace(liked=not known.liked, at=known.at + self.rng.choice((-60, 60)))], keyed=True)

    # --- underneath ---------------------------------------------------------------------------------------------------------

    def _post(self, events: list[Event], *, keyed: bool) -> Answer | None:
        body, media = encoded(events, self.rng)
        request = self.client.request("likes", "POST", "/v1/likes", body, headers={"Content-Type": media})
        if not keyed:
            request.token = ""
        return self.client.write(request, {}, (202,))


def encoded(events: list[Event], rng: random.Random) -> tuple[bytes, str]:
    """A body of these events, in one of the forms, and its media type."""
    dicts = [_plain(event) for event in events]
    match rng.randrange(5):
        case 0:
            return json.dumps({"events": dicts}).encode(), JSON
        case 1:
            return "\n".join(map(json.dumps, dicts)).encode(), NDJSON
        case 2:
            return msgspec.msgpack.encode({"events": dicts}), MSGPACK
        case 3:
            return _arrow(events), ARROW
    return json.dumps({f"{name}s": [one[name] for one in dicts] for name in dicts[0]}).encode(), JSON


def _arrow(events: list[Event]) -> bytes:
    table = pa.Table.from_pylist(list(map(_plain, events)))
    moments = pa.array([event.at for event in events], pa.timestamp("s", "UTC"))
    table = table.set_column(table.schema.get_field_index("timestamp"), "timestamp", moments)
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, table.schema) as stream:
        stream.write_table(table)
    content: bytes = sink.getvalue().to_pybytes()
    return content


def _plain(event: Event) -> dict[str, object]:
    type_, _, name = event.item.partition("/")
    return {
        "event_id": event.id,
        "user_id": event.user,
        "item_type": type_,
        "item_id": name,
        "action": "like" if event.liked else "unlike",
        "timestamp": event.at,
    }


def _refused(answer: Answer) -> set[str]:
    """Items and users whose events were refused."""
    return {one.get("user") or f"{one['type']}/{one['item']}" for one in answer.json.get("refused", ())}
