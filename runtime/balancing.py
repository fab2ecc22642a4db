"""How the load balancer spreads requests over the API processes, and what it and the operators tell each other about it.

Only the local cluster's supervisor writes nginx' configuration. It says in the journal's Redis what is in force, and takes
an order from there: the name of a strategy, nothing else.
"""

from __future__ import annotations

import msgspec

ROUND_ROBIN, LEAST_CONN = STRATEGIES = ("round_robin", "least_conn")
STATE = "balancing"  # keys in the journal's Redis: a `State`, and the strategy that an operator orders
ORDER = "balancing:order"
STATE_SECONDS = ORDER_SECONDS = 5  # after which each is outdated


class State(msgspec.Struct, frozen=True):
    """What is in force. `left_out`: why a process gets no requests ("sick", "starting or ending"), by its name; `serving`: the
    names of the others. `runs`: whether nginx does; `stopped`: the processes that do not."""

    strategy: str
    serving: list[str]
    left_out: dict[str, str]
    runs: bool = True
    stopped: list[str] = []


def encoded(state: State) -> bytes:
    return msgspec.json.encode(state)


def decoded(text: bytes | str) -> State:
    """Raises `msgspec.MsgspecError`."""
    return msgspec.json.decode(text, type=State)
