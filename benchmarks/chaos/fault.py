"""A fault: something that is done to the cluster under load, and the deck from which faults are drawn in a seeded
order."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from benchmarks.chaos.probes import Epoch
from benchmarks.chaos.subject import Subject


class NotPossible(Exception):
    """The fault cannot be done here and now (a role that does not run, a shard without replicas)."""


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
    """`strike` does it, and undoes it where it must be undone (what was stopped goes on); it returns a word about the
    victim.

    `weight` is how often it stands in the deck.
    """

    name: str
    strike: Callable[[Scene], str]
    weight: int = 1


def deck(faults: Sequence[Fault], rng: random.Random) -> Iterator[Fault]:
    """Faults for ever: all of them, shuffled, then all of them shuffled anew."""
    while True:
        cards = [fault for fault in faults for _ in range(fault.weight)]
        rng.shuffle(cards)
        yield from cards
