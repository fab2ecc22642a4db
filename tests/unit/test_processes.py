"""What heartbeats say of workers and beat."""

from __future__ import annotations

from counters.operators import processes
from counters.operators.processes import WORKS_SECONDS


def test_workers_by_queue() -> None:
    found = processes.of(
        {
            "worker shard-0 worker-0-1@a": 0.5,
            "consumer shard-0 worker-0-1@a": 1.0,
            "worker shard-0 worker-0-2@a": 0.5,
            "worker shard-1 worker-1-1@a": WORKS_SECONDS + 1,
            "consumer shard-1 worker-1-1@a": WORKS_SECONDS + 1,
        }
    )
    assert found.running == {"shard-0": {"worker-0-1@a", "worker-0-2@a"}}
    assert found.consuming == {"shard-0": {"worker-0-1@a"}}


def test_the_last_shift_is_that_of_any_worker() -> None:
    found = processes.of({"shift 1 a": 70.0, "shift 1 b": 3.0, "shift 0 a": 9000.0, "beat": 1.5})
    assert found.last_shift == {1: 3.0, 0: 9000.0}
    assert found.last_tick == 1.5


def test_nothing_and_what_is_unknown() -> None:
    found = processes.of({"": 0.0, "shift x a": 1.0, "some other thing of a newer version": 1.0})
    assert (found.running, found.consuming, found.last_shift, found.last_tick) == ({}, {}, {}, None)
