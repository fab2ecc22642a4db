"""Which replica a new connection of reads goes to: one small interface, and its strategies. Pure.

libpq tries servers in an order and takes the first that is a replica. A strategy makes that order, from what it was told.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import count
from random import shuffle
from typing import Literal, Protocol

Server = tuple[str, str]  # host and port, as libpq has them
Name = Literal["random", "least_lag", "round_robin"]

KNOWN_SECONDS = 5.0  # for which a lag that was seen counts; after that the server is asked again
MARGIN_SECONDS = 0.1  # a smaller difference of two lags is none


class Strategy(Protocol):
    """Belongs to one process; its threads share it."""

    def order(self, servers: Sequence[Server]) -> list[Server]:
        """The order in which a new connection tries these servers; one of them is the primary."""

    def connected(self, order: Sequence[Server], server: Server) -> None:
        """A new connection went to this server. Those before it in the order are no replicas, or down."""

    def seen(self, server: Server, lag: float) -> None:
        """A replica was this far behind just now, in seconds."""

    def keeps(self, server: Server, servers: Sequence[Server]) -> bool:
        """Whether a connection to this server should stay, with these to choose from."""


class Random:
    """Any. Needs to know nothing, and many processes spread evenly."""

    def order(self, servers: Sequence[Server]) -> list[Server]:
        shuffled = list(servers)
        shuffle(shuffled)
        return shuffled

    def connected(self, order: Sequence[Server], server: Server) -> None:
        """Nothing to learn."""

    def seen(self, server: Server, lag: float) -> None:
        """Nothing to learn."""

    def keeps(self, server: Server, servers: Sequence[Server]) -> bool:  # noqa: ARG002
        return True


class RoundRobin(Random):
    """The one that got a connection longest ago. Servers that were passed over have had their turn."""

    def __init__(self) -> None:
        self._turns: dict[Server, int] = {}
        self._next = count(1)

    def order(self, servers: Sequence[Server]) -> list[Server]:
        return sorted(servers, key=lambda server: self._turns.get(server, 0))

    def connected(self, order: Sequence[Server], server: Server) -> None:
        for one in order[: order.index(server) + 1] if server in order else (server,):
            self._turns[one] = next(self._next)


class LeastLag(Random):
    """The one that is least behind, as last seen. A server whose lag is not known gets one connection, so that it is
    seen. Of equal ones, any."""

    def __init__(self, clock: Callable[[], float]) -> None:
        """`clock`: seconds that never go back."""
        self._clock = clock
        self._lags: dict[Server, tuple[float, float]] = {}  # lag, and when it was seen

    def order(self, servers: Sequence[Server]) -> list[Server]:
        order = sorted(super().order(servers), key=self._lag)
        if order and not self._is_known(order[0]):
            self.seen(order[0], float("inf"))  # until it is seen: so others do not try it, too
        return order

    def seen(self, server: Server, lag: float) -> None:
        self._lags[server] = lag, self._clock()

    def keeps(self, server: Server, servers: Sequence[Server]) -> bool:
        best = min((self._lag(other) for other in servers if other != server), default=float("inf"))
        return self._lag(server) <= best + MARGIN_SECONDS

    def _lag(self, server: Server) -> float:
        """Before all others, where it is not known."""
        return self._lags[server][0] if self._is_known(server) else float("-inf")

    def _is_known(self, server: Server) -> bool:
        return server in self._lags and self._clock() - self._lags[server][1] < KNOWN_SECONDS


def named(name: Name, clock: Callable[[], float]) -> Strategy:
    """The strategy of this name."""
    match name:
        case "random":
            return Random()
        case "least_lag":
            return LeastLag(clock)
        case "round_robin":
            return RoundRobin()
