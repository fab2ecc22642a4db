"""What is pending for a counter: the tails of a lane's journals, without a cluster."""

from __future__ import annotations

from collections.abc import Sequence
from uuid import UUID, uuid4

from hypothesis import given
from hypothesis import strategies as st

from counters import batch
from counters.batch import Events, Increments, Operation, Step
from counters.reading.pending import _Tail
from counters.reading.reads import Counter
from likes.events import NOW
from sharding.lanes import Lane

ID = UUID(int=1)


def entry(position: int, *operations: Operation) -> list[object]:
    """As the script returns it."""
    segments = [(index, batch.encode_segment(one)) for index, one in enumerate(operations)]
    return [uuid4().bytes, str(position).encode(), batch.encode(ID, segments, [], None)]


def reply(
    fresh: list[list[object]], *, oldest: int = 0, count: int | None = None, excess: Sequence[list[object]] = ()
) -> object:
    queues = []
    for entries in (fresh, excess, []):
        held = len(entries) if count is None or entries is not fresh else count
        first = str(oldest or 1).encode() if held else b""
        queues.append([first, held, *(field for one in entries for field in one)])
    return [100, *queues]


def tail(*replies: object) -> _Tail:
    made = _Tail(Lane(0, 0))
    for one in replies:
        made.take(one)  # type: ignore[arg-type]
    return made


def pending(of: _Tail, key: str, value: int = 0, version: int = 0) -> int | None:
    return of.pending(Counter(key, value, version, "cache", 0))


def test_increments_behind_the_version_are_pending() -> None:
    held = tail(
        reply([entry(10, Increments(["a", "b"], [1, 5])), entry(20, Increments(["a"], [2]), Increments(["a"], [4]))])
    )
    assert pending(held, "a") == 7
    assert pending(held, "a", 1, 10) == 6
    assert pending(held, "a", 3, 20) == 4, "the second write of the batch is newer"
    assert pending(held, "a", 7, 21) == 0
    assert pending(held, "nobody") == 0


def test_what_is_spilled_is_pending_whatever_its_version() -> None:
    held = tail(reply([entry(10, Increments(["a"], [1]))], excess=[entry(5, Increments(["a"], [100]))]))
    assert pending(held, "a", 1, 10) == 100


def test_a_set_replaces_what_was_before_it() -> None:
    held = tail(
        reply([entry(10, Increments(["a"], [1])), entry(20, Step("a", "set", 50)), entry(30, Increments(["a"], [2]))])
    )
    assert pending(held, "a", 7, 5) == 45
    assert pending(held, "a", 50, 20) == 2
    conditional = tail(reply([entry(10, Step("a", "set", 50, if_version=3))]))
    assert pending(conditional, "a", 7, 5) == 0


def like(user: str, liked: bool, at: int = NOW) -> Events:
    return Events("like", ["/likes/post/1"], [f"/likers/{user}"], [[at], [liked], [b""]])


def test_the_newest_event_of_a_user_counts() -> None:
    held = tail(reply([entry(10, like("ann", True), like("bob", True)), entry(20, like("ann", False))]))
    assert pending(held, "/likes/post/1") == 0
    assert pending(held, "/likes/post/1", 0, 10) == 0
    assert pending(held, "/likes/post/1", 2, 11) == -1
    late = tail(reply([entry(10, like("ann", True)), entry(20, like("ann", False, at=5))]))
    assert pending(late, "/likes/post/1") == 1


def test_what_left_the_journal_leaves_the_tail() -> None:
    held = tail(
        reply([entry(10, Increments(["a"], [1])), entry(20, Increments(["a"], [2]))]),
        reply([entry(30, Increments(["a"], [4]))], oldest=20, count=2),
    )
    assert pending(held, "a") == 6
    held.take(reply([], count=0))  # type: ignore[arg-type]
    assert pending(held, "a") == 0


def test_a_tail_with_a_gap_is_read_again() -> None:
    held = tail(reply([entry(10, Increments(["a"], [1]))]))
    assert not held.take(reply([], oldest=10, count=2))  # type: ignore[arg-type]
    assert pending(held, "a") is None
    assert {queue.newest for queue in held.queues} == {0}


def test_nobody_is_told_while_too_much_waits() -> None:
    held = tail(reply([entry(10, Increments(["a"], [1]))]), [10**9])
    assert pending(held, "a") is None


@given(st.lists(st.tuples(st.sampled_from("ab"), st.integers(-5, 5)), max_size=20), st.integers(0, 20))
def test_value_and_pending_add_up(increments: list[tuple[str, int]], applied: int) -> None:
    """However many of them the value has."""
    entries = [entry(1 + n, Increments([key], [delta])) for n, (key, delta) in enumerate(increments)]
    held = tail(reply(entries))
    value = sum(delta for key, delta in increments[:applied] if key == "a")
    version = max((1 + n for n, (key, _) in enumerate(increments[:applied]) if key == "a"), default=0)
    told = pending(held, "a", value, version)
    assert told is not None
    assert value + told == sum(delta for key, delta in increments if key == "a")
