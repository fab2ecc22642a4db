"""A fault: something that is done to the cluster under load, and the deck from which faults are drawn in a seeded
order."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from benchmarks.chaos.probes import Epoch
from benchmarks.chaos.subject import Subject


class NotPossible(Exception):
    """The fault cannot be done now: its role does not run, or the shard has no replicas."""


@dataclass
class Scene:
    """Where faults happen: the cluster, the chance that picks their victims, and what some of them need to know."""

    subject: Subject
    rng: random.Random
    epoch: Epoch

    def shard(self) -> int:
        """Some shard."""
        return self.rng.randrange(len(self.subject.shards))


@dataclass(frozen=True)
class Fault:
    """`strike` does it, undoes what must be undone (stopped processes go on), and returns a word about the victim.

    `weight` is how often it is in the deck. `fails_over`: it makes a shard change its primary. `loses_data`: it destroys
    a copy, so all other copies must be whole before.
    """

    name: str
    strike: Callable[[Scene], str]
    weight: int = 1
    fails_over: bool = False
    loses_data: bool = False


def deck(faults: Sequence[Fault], rng: random.Random, failovers: int = 1) -> Iterator[Fault]:
    """Yield faults without end: all of them shuffled, then shuffled again. Those that fail over are in it `failovers`
    times as often."""
    while True:
        cards = [fault for fault in faults for _ in range(fault.weight * (failovers if fault.fails_over else 1))]
        rng.shuffle(cards)
        yield from cards
