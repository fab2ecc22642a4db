"""Which writes, in which proportion: a steady mix over Zipf keys, owned keys, results that are waited for, and likes."""

from __future__ import annotations

import json
import random
import threading
import time
from collections import deque
from collections.abc import Mapping
from itertools import accumulate

import msgspec

from benchmarks.chaos.client import JSON, MSGPACK, Client
from benchmarks.chaos.expected_counts import MAX_VALUE, Favour, Owned
from benchmarks.chaos.likes_mix import Liker

SHARED = 1000  # keys of the Zipf distribution
OWNED = 6  # keys of each client
WAITED = 4
BULK = (50, 400)  # increments in one bulk write
PAUSE_SECONDS = 0.05  # of a client between two writes, at most

_ZIPF = list(accumulate(1 / rank for rank in range(1, SHARED + 1)))
SHARES = {
    "single": 30,
    "bulk": 5,
    "waited": 8,
    "own": 34,
    "repeat": 14,
    "mismatch": 1,
    "like": 20,
}
_OWN_SHARES = {"increment": 40, "waited": 10, "set": 15, "reset": 6, "cas": 17, "lend": 7, "overflow": 5}


class Names:
    """The keys of one run."""

    def __init__(self, prefix: str) -> None:
        self.prefix = prefix
        self.shared = [f"{prefix}shared:{n}" for n in range(SHARED)]
        self.waited = [f"{prefix}waited:{n}" for n in range(WAITED)]

    def zipf(self, rng: random.Random, count: int) -> list[str]:
        """Shared keys, hot ones often."""
        return rng.choices(self.shared, cum_weights=_ZIPF, k=count)


class Mixer:
    """One client of the mix; `board` is where favours are asked for, shared by all."""

    pause = PAUSE_SECONDS
    shares: Mapping[str, int] = SHARES

    def __init__(self, client: Client, names: Names, board: deque[Favour]) -> None:
        self.client, self.names, self.board, self.rng = client, names, board, client.rng
        short = client.name.removeprefix(names.prefix)
        self.owned = [Owned(f"{names.prefix}own:{short}:{n}") for n in range(OWNED)]
        self.edge = Owned(f"{names.prefix}edge:{short}")
        self.liker = Liker(client, names.prefix)
        client.expected.owned = {one.key: one for one in [*self.owned, self.edge]}

    def run(self, stop: threading.Event) -> None:
        """Write until told to stop; the write in progress is completed."""
        while not stop.is_set():
            try:
                self._one()
            except Exception as error:
                self.client.complain(f"the bench itself failed: {error!r}")
                raise
            time.sleep(self.rng.uniform(0, 2 * self.pause))

    def _one(self) -> None:
        if self.board and self.rng.random() < 0.5 and self._do_favour():
            return
        kind = self.rng.choices(list(self.shares), weights=list(self.shares.values()))[0]
        match kind:
            case "single":
                self.client.increment(self.names.zipf(self.rng, 1)[0], self.rng.choice((1, 1, 1, 2, 5, -1)))
            case "bulk":
                self._bulk()
            case "waited":
                self.client.waited(self.rng.choice(self.names.waited), self.rng.randint(1, 9))
            case "own":
                self._own()
            case "repeat":
                self.client.repeat()
            case "mismatch":
                self.client.mismatch()
            case "like":
                self.liker.act()

    def _bulk(self) -> None:
        keys = self.names.zipf(self.rng, self.rng.randint(*BULK))
        pairs = [(key, 1 + (n & 1)) for n, key in enumerate(keys)]
        items = [{"key": key, "delta": delta} for key, delta in pairs]
        deltas: dict[str, int] = {}
        for key, delta in pairs:
            deltas[key] = deltas.get(key, 0) + delta
        if self.rng.random() < 0.5:
            self.client.bulk(deltas, json.dumps({"increments": items}).encode(), JSON)
        else:
            self.client.bulk(deltas, msgspec.msgpack.encode({"increments": items}), MSGPACK)

    def _own(self) -> None:
        owned = self.rng.choice(self.owned)
        if owned.lent:
            if all(favour.done for favour in owned.favours):
                self.client.put(owned, self.rng.randint(0, 10**6))
            return
        match self.rng.choices(list(_OWN_SHARES), weights=list(_OWN_SHARES.values()))[0]:
            case "increment":
                self.client.own_increment(owned, self.rng.randint(-9, 9), wait=False)
            case "waited" | "cas" if not self.client.settled(owned):
                self.client.put(owned, self.rng.randint(1, 10**6))
            case "waited":
                self.client.own_increment(owned, self.rng.randint(1, 9), wait=True)
            case "set":
                self.client.put(owned, self.rng.randint(1, 10**6))
            case "reset":
                self.client.put(owned, 0)
            case "cas":
                self.client.compare_and_set(owned, self.rng.randint(1, 10**6))
            case "lend":
                owned.favours = [Favour(owned.key, self.rng.randint(1, 99)) for _ in range(3)]
                self.board.extend(owned.favours)
            case "overflow":
                self._overflow()

    def _overflow(self) -> None:
        """Increments of a key at the edge of its range: only positive ones, so that folding them cannot make a rejected
        one fit."""
        if self.edge.value < MAX_VALUE - 1000 or self.rng.random() < 0.1 or not self.client.settled(self.edge):
            self.client.put(self.edge, MAX_VALUE - 100)
        else:
            self.client.own_increment(self.edge, self.rng.randint(20, 60), wait=self.rng.random() < 0.5)

    def _do_favour(self) -> bool:
        try:
            favour = self.board.popleft()
        except IndexError:
            return False
        self.client.favour(favour)
        return True
